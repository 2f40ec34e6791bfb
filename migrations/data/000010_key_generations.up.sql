-- How many keys a tenant's keysets have got since they were made, as far as a write must know of them: one that was prepared
-- without the newest is not admitted, so digests are made, and looked for, under the same keys everywhere. A tenant without a
-- row has had no rotation; the nil tenant is the deployment.
create table privault.key_generations (
  tenant_id  uuid primary key,
  generation integer not null check (generation > 0)
);
alter table privault.key_generations enable row level security;
alter table privault.key_generations force row level security;
create policy tenant on privault.key_generations using (tenant_id = (select privault.tenant()));
grant select, insert, update on privault.key_generations to privault_app;
