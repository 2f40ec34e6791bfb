-- Plans of retention: the exact set of records of which something is due, with why and what, and what is due and stays. Executing
-- a plan is a sweep of that set.
create table privault.retention_plans (
  tenant_id     uuid not null,
  plan_id       uuid not null,
  collection_id uuid not null,
  as_of         timestamptz not null,
  state         text not null check (state in ('making', 'ready', 'executed')),
  rules         jsonb not null,
  counts        jsonb not null,
  hash          bytea check (octet_length(hash) = 32),
  sweep_id      uuid,
  created_at    timestamptz not null,
  expires_at    timestamptz not null,
  primary key (tenant_id, plan_id),
  check ((hash is null) = (state = 'making')),
  check ((sweep_id is null) = (state <> 'executed'))
);

-- `skipped`: why the record stays; empty: it goes. `outcome`: what became of it when the plan was executed.
create table privault.retention_items (
  tenant_id uuid not null,
  plan_id   uuid not null,
  record_id uuid not null,
  rule      text not null,
  action    text not null,
  skipped   text not null,
  outcome   text,
  primary key (tenant_id, plan_id, record_id)
);

alter table privault.sweeps add column plan_id uuid;

do $$
declare
  name text;
begin
  foreach name in array array['retention_plans', 'retention_items'] loop
    execute format('alter table privault.%I enable row level security', name);
    execute format('alter table privault.%I force row level security', name);
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', name);
  end loop;
end $$;
grant select, insert, update on privault.retention_plans to privault_app;
grant select, insert, update, delete on privault.retention_items to privault_app;
