-- How far the ledger, which is a file outside the database, is applied here: every line up to seq is, and hash is that of
-- line seq. A database that was set back is told by it. One row, made with the first ledger; of the deployment's.
create table privault.ledger (
  one       boolean primary key default true check (one),
  ledger_id uuid not null,
  seq       bigint not null,
  hash      bytea not null check (octet_length(hash) = 32)
);

-- The lines beyond seq that are applied too: each came with the transaction of its work, whichever was first.
create table privault.ledger_applied (
  tenant_id uuid not null,
  seq       bigint not null,
  primary key (tenant_id, seq)
);

alter table privault.ledger enable row level security;
alter table privault.ledger force row level security;
create policy deployment on privault.ledger using ((select privault.tenant()) = '00000000-0000-0000-0000-000000000000');
alter table privault.ledger_applied enable row level security;
alter table privault.ledger_applied force row level security;
create policy tenant on privault.ledger_applied using (tenant_id = (select privault.tenant()));
create policy deployment on privault.ledger_applied using ((select privault.tenant()) = '00000000-0000-0000-0000-000000000000');

grant select, insert, update on privault.ledger to privault_app;
grant select, insert, delete on privault.ledger_applied to privault_app;

-- A hold that comes back from the ledger, which has no references, knows its person by id only.
alter table privault.holds drop constraint holds_check1;
alter table privault.holds add constraint holds_reference check (subject_id is not null or reference is null);
