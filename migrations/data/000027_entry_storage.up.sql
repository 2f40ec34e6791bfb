-- The entry of a batch is mostly ids and digests, which don't get a quarter shorter: Postgres tried to compress each, and stored it as it was. That
-- cost it an eighth of its time for batches of 1,000 (docs/performance.md).
alter table privault.audit_entries alter column body set storage external;
do $$ begin
  execute replace(pg_get_functiondef('privault.make_audit_partitions(timestamptz)'::regprocedure), ' including indexes)', ' including indexes including storage)');
end $$;
