-- One person may go by several references: each has a row of its own, with the same random id. The row of a reference that was linked
-- says by which link; the person's first has none, and is the one that is locked by who knows the person by id alone.
alter table privault.subjects add column link_id uuid;
create index subjects_person on privault.subjects (tenant_id, subject_id);
alter table privault.subjects drop constraint subjects_id;

-- How references came to be one person's: the history, and the random ids that the person had before, under which the accounting of
-- disclosures, which nothing changes, still has them. It goes when the person is erased.
create table privault.subject_links (
  tenant_id    uuid not null,
  link_id      uuid not null,
  subject_id   uuid not null, -- of the person by now
  merged_id    uuid,          -- of whom the other reference was known as before; null: nobody
  records      bigint not null check (records >= 0), -- that were theirs
  reason       text not null,
  linked_at    timestamptz not null,
  principal_id uuid not null,
  sealed       bytea, -- the two references, under a key of the link's own; null: a restore has lost them
  primary key (tenant_id, link_id)
);
create index subject_links_subject on privault.subject_links (tenant_id, subject_id, link_id);
create unique index subject_links_merged on privault.subject_links (tenant_id, merged_id) where merged_id is not null;

-- All references of an erased person who had several: each finds the erasure.
create table privault.erasure_references (
  tenant_id  uuid not null,
  digest     bytea not null check (octet_length(digest) = 32),
  erasure_id uuid not null,
  primary key (tenant_id, digest, erasure_id)
);

do $$
declare
  name text;
begin
  foreach name in array array['subject_links', 'erasure_references'] loop
    execute format('alter table privault.%I enable row level security', name);
    execute format('alter table privault.%I force row level security', name);
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', name);
  end loop;
end $$;
grant select, insert, update, delete on privault.subject_links to privault_app;
grant select, insert, update on privault.erasure_references to privault_app;

-- A hold on a person keeps the months in which something was done with their records, under whichever id.
do $$
declare
  was constant text := 'd.subject_id = h.subject_id';
  now constant text := 'd.subject_id in (select h.subject_id union all
            select l.merged_id from privault.subject_links l where l.tenant_id = whose and l.subject_id = h.subject_id)';
  f   text := pg_get_functiondef('privault.prune_audit(timestamptz, boolean)'::regprocedure);
begin
  if position(was in f) = 0 then
    raise exception 'privault.prune_audit is not as expected';
  end if;
  execute replace(f, was, now);
end $$;
