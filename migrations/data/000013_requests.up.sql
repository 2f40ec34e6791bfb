-- What people ask for by right: access, portability, correction, erasure, restriction, objection.
--
-- `digest` is the keyed digest of the person's outside reference. `sealed` is what the request says of the person, and `proposal`
-- the values that a correction brings; each is under a key of its own in keystore.data_keys (the request's id; versions 1 and 2),
-- so that erasing the person shreds both.
create table privault.requests (
  tenant_id       uuid not null,
  request_id      uuid not null,
  version         integer not null check (version > 0),
  type            text not null check (type in ('access', 'portability', 'correction', 'erasure', 'restriction', 'objection')),
  regime          text not null check (regime in ('gdpr', 'ccpa', 'hipaa')),
  state           text not null check (state in ('received', 'verifying', 'waiting_for_approval', 'in_progress', 'completed', 'denied',
                    'cancelled', 'deferred', 'expired')),
  digest          bytea not null check (octet_length(digest) = 32),
  sealed          bytea,
  proposal        bytea,
  approval        boolean not null, -- somebody else must approve
  received_at     timestamptz not null,
  opened_at       timestamptz not null,
  opened_by       uuid not null,
  acknowledge_by  timestamptz,
  acknowledged_at timestamptz,
  due_at          timestamptz not null,
  asked_at        timestamptz, -- the person was asked who they are
  paused_at       timestamptz, -- the clock stands still since
  extension       text,
  noticed_at      timestamptz, -- the person was told of the extension
  verified_at     timestamptz,
  verified_by     uuid,
  method          text,
  level           text,
  evidence        text, -- an opaque reference
  approved_at     timestamptz,
  approved_by     uuid,
  outcome         text check (outcome in ('complied', 'nothing-held')),
  denial          text,
  statement       text, -- an opaque reference to a statement of disagreement
  erasure_id      uuid,
  closed_at       timestamptz,
  noted           text[] not null default '{}', -- deadlines that were noted
  primary key (tenant_id, request_id),
  check (regime <> 'hipaa' or type in ('access', 'portability', 'correction')),
  check (received_at <= opened_at),
  check (proposal is null or type = 'correction'),
  check ((extension is null) = (noticed_at is null)),
  check (paused_at is null or state = 'verifying'),
  check (num_nulls(verified_at, verified_by, method, level) in (0, 4)),
  check (state not in ('waiting_for_approval', 'in_progress', 'completed', 'deferred') or verified_at is not null),
  check (num_nulls(approved_at, approved_by) in (0, 2)),
  check (not approval or state not in ('in_progress', 'completed', 'deferred') or approved_at is not null),
  check (approved_by <> opened_by and approved_by <> verified_by),
  check ((state = 'completed') = (outcome is not null)),
  check ((state = 'denied') = (denial is not null)),
  check (state <> 'deferred' or erasure_id is not null),
  check ((state in ('completed', 'denied', 'cancelled', 'expired')) = (closed_at is not null))
);
create index requests_digest on privault.requests (tenant_id, digest, request_id);
create index requests_due on privault.requests (tenant_id, due_at) where closed_at is null;
create index requests_deferred on privault.requests (tenant_id, erasure_id) where state = 'deferred';
create index requests_received on privault.requests (tenant_id, regime, received_at);
create index requests_closed on privault.requests (tenant_id, closed_at) where closed_at is not null;

-- Their history, to which the service only adds; it goes with its request.
create table privault.request_events (
  tenant_id    uuid not null,
  request_id   uuid not null,
  number       integer not null,
  at           timestamptz not null,
  principal_id uuid not null, -- nil: the service itself
  event        text not null,
  state        text not null, -- afterwards
  reason       text,
  moment       timestamptz, -- when it was, as the caller says
  primary key (tenant_id, request_id, number),
  foreign key (tenant_id, request_id) references privault.requests on delete cascade
);

do $$
declare
  name text;
begin
  foreach name in array array['requests', 'request_events'] loop
    execute format('alter table privault.%I enable row level security', name);
    execute format('alter table privault.%I force row level security', name);
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', name);
  end loop;
end $$;

grant select, insert, update, delete on privault.requests to privault_app;
grant select, insert on privault.request_events to privault_app;
-- Records of requests are kept: 24 months under 11 CCR 7101(a), six years under 45 CFR 164.530(j).
create policy kept on privault.requests as restrictive for delete
  using (closed_at < now() - case regime when 'hipaa' then interval '6 years' else interval '24 months' end);
