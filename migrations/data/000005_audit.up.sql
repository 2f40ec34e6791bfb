-- The audit log as evidence: entries by the month, and a Merkle tree over all of them.

-- The first UUIDv7 (RFC 9562) of a time. An entry's id begins with its time, so a range of ids is a range of times.
create function privault.first_id(at timestamptz) returns uuid language sql immutable parallel safe as
$$ select (lpad(to_hex(greatest(floor(extract(epoch from at) * 1000), 0)::bigint), 12, '0') || repeat('0', 20))::uuid $$;

-- The old table becomes what takes the entries that no month's partition does; its rows get what they lack.
alter table privault.audit_entries rename to audit_entries_rest;
alter table privault.audit_entries_rest rename constraint audit_entries_pkey to audit_entries_rest_pkey;
drop policy tenant on privault.audit_entries_rest;
alter table privault.audit_entries_rest
  -- 122 random bits: what makes the entry's leaf in the tree say nothing about the entry.
  add column salt uuid not null default gen_random_uuid(),
  -- The transaction that wrote it. Once no older transaction runs any more, nothing can come before it.
  add column xid xid8 not null default pg_current_xact_id();
revoke all on privault.audit_entries_rest from privault_app;

create table privault.audit_entries (
  like privault.audit_entries_rest including defaults,
  primary key (tenant_id, entry_id)
) partition by range (entry_id);
create index audit_entries_xid on privault.audit_entries (xid);
alter table privault.audit_entries attach partition privault.audit_entries_rest default;

-- Which records of a subject an entry touched. The subject is the random id of privault.subjects: without its row there,
-- nobody can say whom it was about.
create table privault.disclosures (
  tenant_id  uuid not null,
  subject_id uuid not null,
  entry_id   uuid not null,
  record_id  uuid not null,
  primary key (tenant_id, subject_id, entry_id, record_id)
) partition by range (entry_id);
create table privault.disclosures_rest partition of privault.disclosures default;

-- The tree: a row for each entry in the order of the log. It stays when the entry goes.
create table privault.audit_leaves (
  leaf_index bigint primary key check (leaf_index >= 0),
  tenant_id  uuid not null,
  entry_id   uuid not null,
  leaf       bytea not null check (octet_length(leaf) = 32),
  unique (tenant_id, entry_id)
);

-- The roots of full tiles of 256 hashes, which are the hashes of the level above.
create table privault.audit_nodes (
  level      smallint not null check (level > 0),
  node_index bigint not null check (node_index >= 0),
  hash       bytea not null check (octet_length(hash) = 32),
  primary key (level, node_index)
);

-- One row: how far the tree is, up to which entry, and the newest checkpoint that was signed.
create table privault.audit_head (
  one        boolean primary key default true check (one),
  size       bigint not null check (size >= 0),
  root       bytea not null check (octet_length(root) = 32),
  xid        xid8 not null,
  entry_id   uuid not null,
  signed     text
);
insert into privault.audit_head (size, root, xid, entry_id) values (0, sha256(''), '0', '00000000-0000-0000-0000-000000000000');

do $$
declare
  t text;
begin
  foreach t in array array['audit_entries', 'disclosures', 'disclosures_rest', 'audit_leaves', 'audit_nodes', 'audit_head'] loop
    execute format('alter table privault.%I enable row level security', t);
    execute format('alter table privault.%I force row level security', t);
  end loop;
  foreach t in array array['audit_entries', 'disclosures'] loop
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', t);
  end loop;
  -- The deployment itself (the nil tenant) puts all tenants' entries into one tree.
  execute 'create policy deployment on privault.audit_entries for select
    using ((select privault.tenant()) = ''00000000-0000-0000-0000-000000000000'')';
  foreach t in array array['audit_leaves', 'audit_nodes', 'audit_head'] loop
    execute format('create policy deployment on privault.%I
      using ((select privault.tenant()) = ''00000000-0000-0000-0000-000000000000'')', t);
  end loop;
  execute 'create policy tenant on privault.audit_leaves for select using (tenant_id = (select privault.tenant()))';
end $$;

-- Makes the partitions of the months up to a time, at most a year ahead, and moves into them what the rest holds of those
-- months. It runs as the owner: the service may have months made, but can't touch a partition itself.
create function privault.make_audit_partitions(until timestamptz) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC' as $$
declare
  parent text;
  part   text;
  month  timestamptz;
  oldest uuid;
  made   integer := 0;
begin
  perform pg_advisory_xact_lock(hashtext('privault.make_audit_partitions'));
  until := least(until, now() + interval '1 year');
  foreach parent in array array['audit_entries', 'disclosures'] loop
    month := date_trunc('month', now());
    if to_regclass(format('privault.%I', parent || to_char(month, '_YYYY_MM'))) is null then
      execute format('alter table privault.%I no force row level security', parent || '_rest');
      execute format('select entry_id from privault.%I where entry_id >= $1 order by entry_id limit 1', parent || '_rest')
        into oldest using privault.first_id(month - interval '2 years');
      execute format('alter table privault.%I force row level security', parent || '_rest');
      if oldest < privault.first_id(month) then
        month := date_trunc('month', to_timestamp(('x' || lpad(left(replace(oldest::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0));
      end if;
    end if;
    while month <= until loop
      part := parent || to_char(month, '_YYYY_MM');
      if to_regclass(format('privault.%I', part)) is null then
        execute format('create table privault.%I (like privault.%I including defaults including constraints including indexes)', part, parent);
        execute format('alter table privault.%I no force row level security', parent || '_rest');
        execute format('with moved as (delete from privault.%I where entry_id >= $1 and entry_id < $2 returning *)
          insert into privault.%I select * from moved', parent || '_rest', part)
          using privault.first_id(month), privault.first_id(month + interval '1 month');
        execute format('alter table privault.%I force row level security', parent || '_rest');
        execute format('alter table privault.%I enable row level security', part);
        execute format('alter table privault.%I force row level security', part);
        execute format('alter table privault.%I attach partition privault.%I for values from (%L) to (%L)',
          parent, part, privault.first_id(month), privault.first_id(month + interval '1 month'));
        made := made + 1;
      end if;
      month := month + interval '1 month';
    end loop;
  end loop;
  return made;
end $$;
revoke all on function privault.make_audit_partitions from public;
grant execute on function privault.make_audit_partitions to privault_app;
select privault.make_audit_partitions(now() + interval '3 months');

-- Drops the months that ended before a time, and gives their names. Entries that the tree doesn't have yet are never
-- dropped. Only the owner may: the service never removes evidence.
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

-- Evidence: added and read, never changed or deleted.
grant select, insert on privault.audit_entries, privault.disclosures, privault.audit_leaves, privault.audit_nodes to privault_app;
grant select, update on privault.audit_head to privault_app;
