drop function privault.prune_audit(timestamptz, boolean);
drop function privault.raise_audit_xids();
drop table privault.audit_witnesses;
alter table privault.audit_head drop column cosigned, drop column system_id, drop column xid_base;
create function privault.drop_audit_partitions(before timestamptz) returns setof text
language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
  part  text;
  loose boolean;
begin
  for part in
    select c.relname from pg_class c join pg_inherits i on i.inhrelid = c.oid
    where i.inhparent in ('privault.audit_entries'::regclass, 'privault.disclosures'::regclass) and c.relname ~ '_\d{4}_\d{2}$'
      and to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= before
    order by c.relname
  loop
    if part like 'audit_entries%' then
      execute format('alter table privault.%I no force row level security', part);
      execute format('select exists (select from privault.%I e where not exists (
        select from privault.audit_leaves l where l.tenant_id = e.tenant_id and l.entry_id = e.entry_id))', part) into loose;
      if loose then
        raise exception 'partition % holds entries that the tree does not have yet', part;
      end if;
    end if;
    execute format('drop table privault.%I', part);
    return next part;
  end loop;
end $$;
revoke all on function privault.drop_audit_partitions from public;
