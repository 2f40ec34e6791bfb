-- Retention. `due_at` is when something of a record is due at the earliest, by its collection's rules, the legal minimum and its
-- expiry; null where no rule says so, and expires_at counts. It finds what a sweep looks at, and decides nothing. `revealed_at` is when the record was last
-- revealed, to the day; `generalised` are the numbers of the fields whose values were generalised, 0 for the record as a whole.
alter table privault.records
  add column due_at      timestamptz,
  add column revealed_at timestamptz,
  add column generalised smallint[];
-- Only records that are due some time pay for it.
create index records_due on privault.records (tenant_id, collection_id, (coalesce(due_at, expires_at)), record_id)
  where due_at is not null or expires_at is not null;

-- When a purpose ends: rules may count from it.
alter table privault.purposes add column ends_at timestamptz;
