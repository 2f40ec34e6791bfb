-- What each principal does in an hour: what is sudden is told from it. Kept for two weeks.
create table privault.behaviour (
  tenant_id    uuid not null,
  principal_id uuid not null,
  hour         timestamptz not null,
  revealed     bigint not null, -- values in clear
  denied       bigint not null,
  unknown      bigint not null, -- tokens and ids that are nobody's
  refused      bigint not null, -- calls beyond the budget of distinct values
  primary key (tenant_id, principal_id, hour)
);

-- Where from.
create table privault.principal_networks (
  tenant_id    uuid not null,
  principal_id uuid not null,
  network      cidr not null,
  first_at     timestamptz not null,
  last_at      timestamptz not null,
  primary key (tenant_id, principal_id, network)
);

-- What was sudden, and what was done about it, until when. The response in force is in the row.
create table privault.alarms (
  tenant_id     uuid not null,
  alarm_id      uuid not null,
  kind          text not null,
  principal_id  uuid not null,
  credential_id uuid not null,
  network       cidr, -- where from; null: it has no place
  raised_at     timestamptz not null,
  hour          timestamptz not null,
  counted       bigint not null,
  usual         bigint not null, -- the most in an hour before
  response      text not null check (response in ('alert', 'mask', 'block', 'suspend')),
  expires_at    timestamptz not null,
  lifted_at     timestamptz,
  lifted_by     uuid,
  primary key (tenant_id, alarm_id)
);
-- One of a kind in an hour, whichever replica sees it; of leaked keys, one for each.
create unique index alarms_once on privault.alarms
  (tenant_id, principal_id, kind, hour, (case when kind = 'key-leaked' then credential_id else tenant_id end));

do $$
declare
  name text;
begin
  foreach name in array array['behaviour', 'principal_networks', 'alarms'] loop
    execute format('alter table privault.%I enable row level security', name);
    execute format('alter table privault.%I force row level security', name);
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', name);
  end loop;
end $$;
grant select, insert, update, delete on privault.behaviour, privault.principal_networks to privault_app;
grant select, insert, update on privault.alarms to privault_app;
