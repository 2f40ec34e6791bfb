-- The keystore: everything that opens something. It has a schema and a migration set of its own so that it can
-- live in another database, with another (short) backup retention. Deleting a row of data_keys shreds a record.

-- The tenant that the current transaction works for; null, and so no row at all, when it named none.
create function keystore.tenant() returns uuid language sql stable parallel safe as
$$ select nullif(current_setting('privault.tenant', true), '')::uuid $$;

-- One row a tenant: its root key, wrapped by the KMS. The nil tenant is the deployment itself.
create table keystore.tenant_roots (
  tenant_id  uuid primary key,
  kms_uri    text not null,
  wrapped    bytea not null,
  created_at timestamptz not null
);

-- The tenant's Tink keysets, each sealed under the root key.
create table keystore.tenant_keys (
  tenant_id  uuid not null,
  name       text not null check (name in ('wrap', 'token', 'pseudonym', 'credential')),
  sealed     bytea not null,
  created_at timestamptz not null,
  primary key (tenant_id, name)
);

-- One data-encryption key (DEK) for each version of a record, wrapped by the tenant's `wrap` keyset.
create table keystore.data_keys (
  tenant_id  uuid not null,
  record_id  uuid not null,
  version    integer not null check (version > 0),
  wrapped    bytea not null check (octet_length(wrapped) between 32 and 512),
  created_at timestamptz not null,
  primary key (tenant_id, record_id, version)
);

do $$
declare
  t text;
begin
  foreach t in array array['tenant_roots', 'tenant_keys', 'data_keys'] loop
    execute format('alter table keystore.%I enable row level security', t);
    execute format('alter table keystore.%I force row level security', t);
    execute format('create policy tenant on keystore.%I using (tenant_id = (select keystore.tenant()))', t);
  end loop;
end $$;

grant usage on schema keystore to privault_keystore;
grant select, insert on keystore.tenant_roots, keystore.tenant_keys to privault_keystore;
grant select, insert, update, delete on keystore.data_keys to privault_keystore;
