-- Stateless transforms: a name and what the shape of its tokens is. Nothing of a value is ever stored, so the definition is
-- all that there is; it never changes, because it decides what a token decodes to.
create table privault.transforms (
  tenant_id    uuid not null,
  transform_id uuid not null,
  name         text not null check (name ~ '^[a-z][a-z0-9_]{0,62}$'),
  definition   jsonb not null,
  created_at   timestamptz not null,
  primary key (tenant_id, transform_id),
  constraint transforms_name unique (tenant_id, name)
);
alter table privault.transforms enable row level security;
alter table privault.transforms force row level security;
create policy tenant on privault.transforms using (tenant_id = (select privault.tenant()));
grant select, insert, delete on privault.transforms to privault_app;
