-- The data database. tenant_id leads every key, and row-level security is forced on every table that has one.
-- The hot tables (records, audit_entries, and data_keys in the keystore) have no foreign keys among them.

-- The tenant that the current transaction works for; null, and so no row at all, when it named none.
create function privault.tenant() returns uuid language sql stable parallel safe as
$$ select nullif(current_setting('privault.tenant', true), '')::uuid $$;

-- The digest of the credential that a connection presents before its tenant is known.
create function privault.presented() returns bytea language sql stable parallel safe as
$$ select decode(nullif(current_setting('privault.presented', true), ''), 'hex') $$;

-- One row: what this deployment is called inside every associated data. It never changes.
create table privault.deployment (
  one           boolean primary key default true check (one),
  deployment_id uuid not null
);
insert into privault.deployment (deployment_id) values (gen_random_uuid());

create table privault.tenants (
  tenant_id  uuid primary key,
  name       text not null unique check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
  created_at timestamptz not null
);

create table privault.principals (
  tenant_id    uuid not null,
  principal_id uuid not null,
  name         text not null check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
  roles        text[] not null,
  created_at   timestamptz not null,
  primary key (tenant_id, principal_id),
  constraint principals_name unique (tenant_id, name)
);

-- API keys: a keyed digest of the key, never the key.
create table privault.credentials (
  tenant_id     uuid not null,
  credential_id uuid not null,
  principal_id  uuid not null,
  digest        bytea not null unique check (octet_length(digest) = 32),
  created_at    timestamptz not null,
  expires_at    timestamptz not null,
  revoked_at    timestamptz,
  primary key (tenant_id, credential_id),
  foreign key (tenant_id, principal_id) references privault.principals
);

-- A collection is a schema. `definition` is the owner's document with the number that each field got for good;
-- `version` rises with every change, and a commit is refused when it was prepared with another version.
create table privault.collections (
  tenant_id     uuid not null,
  collection_id uuid not null,
  name          text not null check (name ~ '^[a-z][a-z0-9_]{0,62}$'),
  version       integer not null check (version > 0),
  definition    jsonb not null,
  created_at    timestamptz not null,
  updated_at    timestamptz not null,
  primary key (tenant_id, collection_id),
  constraint collections_name unique (tenant_id, name)
);

-- The person whose data it is, under a random id; the outside reference is only here as a keyed digest
-- (and sealed inside the person's own records).
create table privault.subjects (
  tenant_id  uuid not null,
  digest     bytea not null check (octet_length(digest) = 32),
  subject_id uuid not null,
  created_at timestamptz not null,
  primary key (tenant_id, digest)
);

-- `sealed` holds every field value of one record, each sealed for its own place (docs/formats.md).
create table privault.records (
  tenant_id     uuid not null,
  record_id     uuid not null,
  collection_id uuid not null,
  subject_id    uuid,
  created_at    timestamptz not null,
  updated_at    timestamptz not null,
  expires_at    timestamptz,
  version       integer not null check (version > 0),
  epoch         integer not null check (epoch >= 0),
  sealed        bytea not null,
  primary key (tenant_id, record_id)
);
-- Ciphertext doesn't compress: don't let a large value cost a try.
alter table privault.records alter column sealed set storage external;

-- What an Idempotency-Key was used for, and the sealed answer to give again. entry_id is the audit entry of the
-- call that won the key.
create table privault.idempotency_keys (
  tenant_id      uuid not null,
  digest         bytea not null check (octet_length(digest) = 32),
  request_digest bytea not null check (octet_length(request_digest) = 32),
  entry_id       uuid not null,
  answer         bytea not null,
  created_at     timestamptz not null,
  primary key (tenant_id, digest)
);
create index idempotency_keys_age on privault.idempotency_keys (tenant_id, created_at);

-- One row for each operation, committed with it. `body` is the entry's canonical JSON; the columns repeat what is
-- asked for. Nothing here may ever hold a value, a token or free text.
create table privault.audit_entries (
  tenant_id    uuid not null,
  entry_id     uuid not null,
  at           timestamptz not null,
  principal_id uuid not null,
  action       text not null,
  outcome      text not null,
  body         text not null,
  primary key (tenant_id, entry_id)
);

do $$
declare
  t text;
begin
  foreach t in array array['principals', 'collections', 'subjects', 'records', 'idempotency_keys', 'audit_entries'] loop
    execute format('alter table privault.%I enable row level security', t);
    execute format('alter table privault.%I force row level security', t);
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', t);
  end loop;
end $$;

-- The deployment itself (the nil tenant) may see which tenants there are: sweeps go through them.
alter table privault.tenants enable row level security;
alter table privault.tenants force row level security;
create policy tenant on privault.tenants using (tenant_id = (select privault.tenant()));
create policy deployment on privault.tenants for select
  using ((select privault.tenant()) = '00000000-0000-0000-0000-000000000000');

-- A credential is looked up before its tenant is known, but only by whoever can name its digest.
alter table privault.credentials enable row level security;
alter table privault.credentials force row level security;
create policy tenant on privault.credentials using (tenant_id = (select privault.tenant()));
create policy presented on privault.credentials for select using (digest = (select privault.presented()));

grant usage on schema privault to privault_app;
grant select on privault.deployment to privault_app;
grant select, insert on privault.tenants to privault_app;
grant select, insert, update on privault.principals, privault.credentials to privault_app;
grant select, insert, update, delete on privault.collections, privault.subjects, privault.records,
  privault.idempotency_keys to privault_app;
-- Evidence: added and read, never changed or deleted.
grant select, insert on privault.audit_entries to privault_app;
