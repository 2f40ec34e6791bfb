-- Who was erased and is not to be taken in again, where a collection asks: keyed digests, under the keys of pseudonyms, of the
-- person's reference and of values that the person was known by. Those of one erasure have one id, and are lifted together.
create table privault.suppressions (
  tenant_id      uuid not null,
  digest         bytea not null check (octet_length(digest) = 32),
  suppression_id uuid not null,
  kind           text not null, -- what the digest is of: subject, or a type of values
  erasure_id     uuid, -- that brought it here; null: somebody put it here
  created_at     timestamptz not null,
  primary key (tenant_id, digest, suppression_id)
);
create index suppressions_id on privault.suppressions (tenant_id, suppression_id);
alter table privault.suppressions enable row level security;
alter table privault.suppressions force row level security;
create policy tenant on privault.suppressions using (tenant_id = (select privault.tenant()));
grant select, insert, delete on privault.suppressions to privault_app;
