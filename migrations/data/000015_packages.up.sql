-- The handing out of what a request for access or portability is answered with. The package itself is made while it is sent and
-- is stored nowhere.
--
-- `claim` is of the one download that is under way, until `leased_until` or as long as it renews that; null: there is none.
create table privault.packages (
  tenant_id    uuid not null,
  request_id   uuid not null,
  claim        uuid,
  leased_until timestamptz,
  attempts     integer not null check (attempts > 0),
  delivered_at timestamptz, -- sent whole
  primary key (tenant_id, request_id),
  foreign key (tenant_id, request_id) references privault.requests on delete cascade,
  check ((claim is null) = (leased_until is null)),
  check (delivered_at is null or claim is null)
);

alter table privault.packages enable row level security;
alter table privault.packages force row level security;
create policy tenant on privault.packages using (tenant_id = (select privault.tenant()));
grant select, insert, update on privault.packages to privault_app;
