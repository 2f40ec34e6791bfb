-- Rights of the people whose data it is: holds, erasures, requests.

-- A person's records are found by their subject; those of nobody cost nothing.
create index records_subject on privault.records (tenant_id, subject_id, record_id) where subject_id is not null;
alter table privault.subjects add constraint subjects_id unique (tenant_id, subject_id);

-- A legal hold keeps the records that fit all of its subject, collection and record that it names. `reference` is the
-- subject's outside reference, sealed, for showing.
create table privault.holds (
  tenant_id     uuid not null,
  hold_id       uuid not null,
  matter        text not null check (matter ~ '^[A-Za-z0-9._:-]{1,128}$'),
  reason        text not null,
  subject_id    uuid,
  reference     bytea,
  collection_id uuid,
  record_id     uuid,
  created_at    timestamptz not null,
  review_at     timestamptz,
  expires_at    timestamptz,
  released_at   timestamptz,
  primary key (tenant_id, hold_id),
  check (num_nonnulls(subject_id, collection_id, record_id) > 0),
  check ((subject_id is null) = (reference is null))
);
create index holds_living on privault.holds (tenant_id) where released_at is null;

-- The one predicate that everything which deletes asks.
create function privault.held(r privault.records, at timestamptz) returns boolean language sql stable parallel safe as
$$ select exists (
     select from privault.holds h
     where h.tenant_id = r.tenant_id and h.released_at is null and (h.expires_at is null or h.expires_at > at)
       and (h.subject_id is null or h.subject_id = r.subject_id)
       and (h.collection_id is null or h.collection_id = r.collection_id)
       and (h.record_id is null or h.record_id = r.record_id)) $$;

-- The last guard, for whatever forgot to ask. Rows of people who are erased hold nothing any more that could be kept.
create function privault.keep_held() returns trigger language plpgsql as $$
begin
  if exists (select from privault.holds h where h.released_at is null)
    and exists (
      select from gone g where privault.held(g::privault.records, now())
        and not exists (select from privault.erasing e where e.tenant_id = g.tenant_id and e.subject_id = g.subject_id)) then
    raise exception 'a legal hold keeps a record' using errcode = '23001', constraint = 'records_held';
  end if;
  return null;
end $$;
create trigger keep_held after delete on privault.records
  referencing old table as gone for each statement execute function privault.keep_held();

-- What was asked for the erasure of a person, and how it ended. `digest` is the keyed digest of the outside reference, so
-- that asking again finds the same erasure; the person's random id is in no row any more.
create table privault.erasures (
  tenant_id          uuid not null,
  erasure_id         uuid not null,
  digest             bytea not null check (octet_length(digest) = 32),
  reason             text not null,
  state              text not null check (state in ('deferred', 'erased', 'purged')),
  requested_at       timestamptz not null,
  erased_at          timestamptz,
  shred_effective_at timestamptz,
  purged_at          timestamptz,
  counts             jsonb,
  certificate        text,
  primary key (tenant_id, erasure_id),
  check ((state = 'deferred') = (erased_at is null))
);
create index erasures_digest on privault.erasures (tenant_id, digest, erasure_id);
create index erasures_deferred on privault.erasures (tenant_id, erasure_id) where state = 'deferred';

-- People who are erased and whose rows are still being cleared away: their records are gone for everybody.
create table privault.erasing (
  tenant_id  uuid not null,
  subject_id uuid not null,
  erasure_id uuid not null,
  primary key (tenant_id, subject_id)
);

do $$
declare
  t text;
begin
  foreach t in array array['holds', 'erasures', 'erasing'] loop
    execute format('alter table privault.%I enable row level security', t);
    execute format('alter table privault.%I force row level security', t);
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', t);
  end loop;
end $$;

grant select, insert, update on privault.holds, privault.erasures to privault_app;
grant select, insert, delete on privault.erasing to privault_app;
