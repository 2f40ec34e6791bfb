-- Rotation. `version` rises with every change of a keyset, so that of two changes at once one is refused and no key is lost.
alter table keystore.tenant_keys add column version integer not null default 1 check (version > 0);

-- When each key of a keyset was made. The keyset itself says which there are, and which is primary; a key that was there
-- before this table has no row, and is as old as its keyset.
create table keystore.key_versions (
  tenant_id  uuid not null,
  name       text not null check (name ~ '^[a-z]{1,32}$'),
  key_id     bigint not null check (key_id between 0 and 4294967295), -- Tink's; 0 for root keys, which have none
  version    integer not null check (version > 0),
  created_at timestamptz not null,
  primary key (tenant_id, name, version)
);
alter table keystore.key_versions enable row level security;
alter table keystore.key_versions force row level security;
create policy tenant on keystore.key_versions using (tenant_id = (select keystore.tenant()));

grant select, insert on keystore.key_versions to privault_keystore;
grant update on keystore.tenant_roots, keystore.tenant_keys to privault_keystore;
