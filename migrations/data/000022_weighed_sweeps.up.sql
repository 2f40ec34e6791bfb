-- By which rules a sweep was weighed: digests, by collection. A confirmation is of what they took.
alter table privault.sweeps add column weighed jsonb;
