alter table privault.audit_entries rename to audit_entries_by_month;
create table privault.audit_entries (
  tenant_id    uuid not null,
  entry_id     uuid not null,
  at           timestamptz not null,
  principal_id uuid not null,
  action       text not null,
  outcome      text not null,
  body         text not null,
  constraint audit_entries_only_pkey primary key (tenant_id, entry_id)
);
alter table privault.audit_entries_by_month no force row level security;
insert into privault.audit_entries (tenant_id, entry_id, at, principal_id, action, outcome, body)
  select tenant_id, entry_id, at, principal_id, action, outcome, body from privault.audit_entries_by_month;
drop table privault.audit_entries_by_month, privault.disclosures, privault.audit_leaves, privault.audit_nodes, privault.audit_head;
alter table privault.audit_entries rename constraint audit_entries_only_pkey to audit_entries_pkey;
alter table privault.audit_entries enable row level security;
alter table privault.audit_entries force row level security;
create policy tenant on privault.audit_entries using (tenant_id = (select privault.tenant()));
grant select, insert on privault.audit_entries to privault_app;
drop function privault.make_audit_partitions, privault.drop_audit_partitions, privault.first_id;
