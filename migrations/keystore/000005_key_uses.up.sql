-- How much each key of a `wrap` keyset has ever wrapped, added up by the processes now and then: what automatic rotation goes by.
create table keystore.key_uses (
  tenant_id uuid not null,
  key_id    bigint not null check (key_id between 0 and 4294967295), -- Tink's
  uses      bigint not null check (uses > 0),
  primary key (tenant_id, key_id)
);
alter table keystore.key_uses enable row level security;
alter table keystore.key_uses force row level security;
create policy tenant on keystore.key_uses using (tenant_id = (select keystore.tenant()));

grant select, insert, update on keystore.key_uses to privault_keystore;
