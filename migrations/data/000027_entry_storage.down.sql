do $$ begin
  execute replace(pg_get_functiondef('privault.make_audit_partitions(timestamptz)'::regprocedure), ' including indexes including storage)', ' including indexes)');
end $$;
alter table privault.audit_entries alter column body set storage extended;
