-- The audit log: its order when the database moves to another cluster, its retention, witnesses.

-- Transaction ids are a cluster's own. Restored into a younger one, a database would write entries with lower ids than those
-- that are in the tree. xid_base is what the ids of this cluster are raised by; system_id says which cluster it is.
alter table privault.audit_head
  add column xid_base  bigint not null default 0,
  add column system_id bigint;
do $$
begin
  perform set_config('privault.tenant', '00000000-0000-0000-0000-000000000000', true); -- row-level security binds the owner too
  update privault.audit_head set system_id = (select system_identifier from pg_control_system());
end $$;

-- The newest checkpoint with the signatures of witnesses (C2SP tlog-witness), and how far each of them is.
alter table privault.audit_head add column cosigned text;
create table privault.audit_witnesses (
  witness text primary key, -- its name
  size    bigint not null check (size >= 0)
);
alter table privault.audit_witnesses enable row level security;
alter table privault.audit_witnesses force row level security;
create policy deployment on privault.audit_witnesses
  using ((select privault.tenant()) = '00000000-0000-0000-0000-000000000000');
grant select, insert, update on privault.audit_witnesses to privault_app;

-- Raises the ids that entries get from now on above all that there were, if this isn't the cluster that the log knows, or
-- its ids went back. Entries that were written in between get an id behind those of the tree. It locks the entries against
-- writers: whatever was written before is settled then. It runs as the owner and does nothing when there is nothing to do.
create function privault.raise_audit_xids() returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  h      privault.audit_head;
  system bigint := (select system_identifier from pg_control_system());
  base   bigint;
  t      text;
  raised boolean := false;
begin
  lock table privault.audit_entries in access exclusive mode;
  foreach t in array array['audit_entries', 'audit_leaves', 'audit_head'] loop
    execute format('alter table privault.%I no force row level security', t);
  end loop;
  select * into strict h from privault.audit_head for update;
  if h.system_id is distinct from system
    or h.xid::text::bigint >= h.xid_base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint then
    -- Steps of 2^40: no cluster comes to so many.
    base := ((greatest(h.xid::text::bigint, h.xid_base, coalesce((select max(e.xid) from privault.audit_entries e)::text::bigint, 0)) >> 40) + 1) << 40;
    execute format('alter table privault.audit_entries alter column xid set default (pg_current_xact_id()::text::bigint + %s)::text::xid8', base);
    update privault.audit_entries e set xid = base::text::xid8
      where (e.xid < h.xid or e.xid = h.xid and e.entry_id <= h.entry_id)
        and not exists (select from privault.audit_leaves l where l.tenant_id = e.tenant_id and l.entry_id = e.entry_id);
    update privault.audit_head set xid_base = base, system_id = system;
    raised := true;
  end if;
  foreach t in array array['audit_entries', 'audit_leaves', 'audit_head'] loop
    execute format('alter table privault.%I force row level security', t);
  end loop;
  return raised;
end $$;
revoke all on function privault.raise_audit_xids from public;
grant execute on function privault.raise_audit_xids to privault_app;

-- Drops the months of entries that ended before a time, oldest first, and says what became of each. It stops at the first that a
-- legal hold keeps, or that holds entries which the tree doesn't have yet: what is dropped is always the log's beginning.
-- A hold on a person keeps the months in which something was done with their records; any other hold those in which its
-- tenant did anything. Only the owner may: the service never removes evidence.
drop function privault.drop_audit_partitions(timestamptz);
create function privault.prune_audit(before timestamptz, dry boolean) returns table (month text, outcome text)
language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
  nobody constant text := '00000000-0000-0000-0000-000000000000';
  first  uuid;
  beyond uuid;
  whose  uuid;
  has    boolean;
  t      text;
begin
  perform pg_advisory_xact_lock(hashtext('privault.make_audit_partitions'));
  for month in
    select distinct right(c.relname, 7) from pg_class c join pg_inherits i on i.inhrelid = c.oid
    where i.inhparent in ('privault.audit_entries'::regclass, 'privault.disclosures'::regclass) and c.relname ~ '_\d{4}_\d{2}$'
      and to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= before
    order by 1
  loop
    outcome := 'dropped';
    first := privault.first_id(to_date(month, 'YYYY_MM'));
    beyond := privault.first_id(to_date(month, 'YYYY_MM') + interval '1 month');
    perform set_config('privault.tenant', nobody, true);
    select exists (select from privault.audit_entries e where e.entry_id >= first and e.entry_id < beyond and not exists (
      select from privault.audit_leaves l where l.tenant_id = e.tenant_id and l.entry_id = e.entry_id)) into has;
    if has then
      outcome := 'unsequenced';
    end if;
    for whose in select n.tenant_id from privault.tenants n loop
      exit when outcome <> 'dropped';
      perform set_config('privault.tenant', whose::text, true);
      select exists (select from privault.holds h where h.tenant_id = whose and h.released_at is null and (h.expires_at is null or h.expires_at > now())
        and case when h.subject_id is null
          then exists (select from privault.audit_entries e where e.tenant_id = whose and e.entry_id >= first and e.entry_id < beyond)
          else exists (select from privault.disclosures d where d.tenant_id = whose and d.subject_id = h.subject_id and d.entry_id >= first and d.entry_id < beyond)
        end) into has;
      if has then
        outcome := 'held';
      end if;
    end loop;
    perform set_config('privault.tenant', nobody, true);
    foreach t in array array['audit_entries_', 'disclosures_'] loop
      if outcome = 'dropped' and not dry then
        execute format('drop table if exists privault.%I', t || month);
      end if;
    end loop;
    return next;
    exit when outcome <> 'dropped';
  end loop;
end $$;
revoke all on function privault.prune_audit from public;
