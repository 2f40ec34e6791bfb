-- The entry of a batch is mostly ids and digests, which don't get a quarter shorter: Postgres tried to compress each, and stored it as it was. That
-- cost it an eighth of its time for batches of 1,000 (docs/decisions.md). The second part is for the months to come.
alter table privault.audit_entries alter column body set storage external;
do $$
declare
  was constant text := ' including indexes)';
  now constant text := ' including indexes including storage)';
  f   text := pg_get_functiondef('privault.make_audit_partitions(timestamptz)'::regprocedure);
begin
  if position(was in f) = 0 then
    raise exception 'privault.make_audit_partitions is not as expected';
  end if;
  execute replace(f, was, now);
end $$;
