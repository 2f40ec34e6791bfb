-- Where events are sent to. One that is a recipient (GDPR 19) is a party that personal data was disclosed to: which erasures it was
-- told of, and whether it acknowledged them, is kept with the erasure.
create table privault.webhooks (
  tenant_id       uuid not null,
  webhook_id      uuid not null,
  name            text not null check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
  version         int not null check (version > 0),
  url             text not null,
  events          text[] not null,
  collections     text[] not null, -- empty: any
  purposes        text[] not null, -- empty: any
  recipient       text not null, -- its name; empty: it is none
  country         text not null,
  secret          bytea not null, -- sealed
  previous_secret bytea, -- signs too until previous_until
  previous_until  timestamptz,
  created_at      timestamptz not null,
  updated_at      timestamptz not null,
  disabled_at     timestamptz, -- since the endpoint said that it is gone
  failures        int not null default 0, -- of the endpoint, one behind the other
  paused_until    timestamptz, -- nothing is sent before
  primary key (tenant_id, webhook_id),
  constraint webhooks_name unique (tenant_id, name),
  check ((previous_secret is null) = (previous_until is null))
);

-- What is to be sent, and what came of it. `body` is sent as it is, and holds ids only.
create table privault.webhook_deliveries (
  tenant_id       uuid not null,
  delivery_id     uuid not null,
  webhook_id      uuid not null,
  event           text not null,
  subject_id      uuid, -- whom it is about, so that it goes when the person is erased
  erasure_id      uuid, -- that the recipient is to be told of
  body            text not null,
  state           text not null check (state in ('pending', 'delivered', 'acknowledged', 'failed')),
  attempts        int not null default 0,
  created_at      timestamptz not null,
  expires_at      timestamptz not null, -- not tried any more then
  next_at         timestamptz, -- of the next attempt
  leased_until    timestamptz, -- an attempt is under way
  status          int, -- of the last answer
  problem         text, -- why there was none
  delivered_at    timestamptz,
  acknowledged_at timestamptz,
  primary key (tenant_id, delivery_id),
  check ((state = 'pending') = (next_at is not null))
);
create index webhook_deliveries_of on privault.webhook_deliveries (tenant_id, webhook_id, delivery_id);
create index webhook_deliveries_due on privault.webhook_deliveries (tenant_id, webhook_id, next_at) where state = 'pending';
create index webhook_deliveries_subject on privault.webhook_deliveries (tenant_id, subject_id) where subject_id is not null;
create index webhook_deliveries_erasure on privault.webhook_deliveries (tenant_id, erasure_id, webhook_id) where erasure_id is not null;

-- The recipients of an erased person's data, and whether they know.
create table privault.erasure_recipients (
  tenant_id  uuid not null,
  erasure_id uuid not null,
  webhook_id uuid not null,
  name       text not null,
  country    text not null,
  state      text not null check (state in ('pending', 'delivered', 'acknowledged', 'failed')),
  settled_at timestamptz, -- of the state that it ends in
  primary key (tenant_id, erasure_id, webhook_id)
);
alter table privault.erasures add column completion text; -- a signed note, once every recipient's state is settled

do $$
declare
  t text;
begin
  foreach t in array array['webhooks', 'webhook_deliveries', 'erasure_recipients'] loop
    execute format('alter table privault.%I enable row level security', t);
    execute format('alter table privault.%I force row level security', t);
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', t);
  end loop;
end $$;

grant select, insert, update, delete on privault.webhooks, privault.webhook_deliveries to privault_app;
grant select, insert, update on privault.erasure_recipients to privault_app;
