-- How far the ledger outside the database is applied here, as in the data database: the keystore may be restored without it.
-- Only erasures change anything here.
create table keystore.ledger (
  one       boolean primary key default true check (one),
  ledger_id uuid not null,
  seq       bigint not null,
  hash      bytea not null check (octet_length(hash) = 32)
);
create table keystore.ledger_applied (
  tenant_id uuid not null,
  seq       bigint not null,
  primary key (tenant_id, seq)
);

alter table keystore.ledger enable row level security;
alter table keystore.ledger force row level security;
create policy deployment on keystore.ledger using ((select keystore.tenant()) = '00000000-0000-0000-0000-000000000000');
alter table keystore.ledger_applied enable row level security;
alter table keystore.ledger_applied force row level security;
create policy tenant on keystore.ledger_applied using (tenant_id = (select keystore.tenant()));
create policy deployment on keystore.ledger_applied using ((select keystore.tenant()) = '00000000-0000-0000-0000-000000000000');

grant select, insert, update on keystore.ledger to privault_keystore;
grant select, insert, delete on keystore.ledger_applied to privault_keystore;
