-- Sweeps: what was destroyed because it was due, and how that went. `collection_id` null: all collections; `counts` are per rule and
-- collection; `lanes` are the jobs of the sweep that haven't ended.
create table privault.sweeps (
  tenant_id     uuid not null,
  sweep_id      uuid not null,
  collection_id uuid,
  dry_run       boolean not null,
  state         text not null check (state in ('queued', 'running', 'completed', 'needs_confirmation', 'stopped', 'failed')),
  reason        text not null default '',
  as_of         timestamptz not null,
  created_at    timestamptz not null,
  started_at    timestamptz,
  confirmed_at  timestamptz,
  confirmed_by  uuid,
  finished_at   timestamptz,
  lanes         integer not null default 0,
  counts        jsonb not null,
  report        text,
  primary key (tenant_id, sweep_id),
  check ((finished_at is null) = (state in ('queued', 'running', 'needs_confirmation')))
);
create index sweeps_open on privault.sweeps (tenant_id) where finished_at is null;

-- The latest that the database's clock was seen to say: one that says less later went backwards, one that says much more jumped.
create table privault.retention_clocks (
  tenant_id uuid not null,
  seen_at   timestamptz not null,
  primary key (tenant_id)
);

do $$
declare
  name text;
begin
  foreach name in array array['sweeps', 'retention_clocks'] loop
    execute format('alter table privault.%I enable row level security', name);
    execute format('alter table privault.%I force row level security', name);
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', name);
  end loop;
end $$;
grant select, insert, update on privault.sweeps, privault.retention_clocks to privault_app;
