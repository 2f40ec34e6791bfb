-- Policies, purposes, and what a person consented to, objected to or had restricted.

-- One row for each tenant that has any of these. `version` rises with every change of its policies and purposes, so that
-- a replica sees in one look whether it is up to date. `facts` says that there are facts of persons to look at; it comes
-- with every read of records, and a tenant without any pays for nothing more.
create table privault.governance (
  tenant_id uuid primary key,
  version   bigint not null,
  facts     boolean not null
);

-- Every version that a policy ever had. Text null: it was deleted.
create table privault.policies (
  tenant_id  uuid not null,
  name       text not null check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
  version    integer not null check (version > 0),
  text       text,
  created_at timestamptz not null,
  created_by uuid not null,
  primary key (tenant_id, name, version)
);

create table privault.purposes (
  tenant_id    uuid not null,
  name         text not null check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
  version      integer not null check (version > 0),
  description  text not null,
  legal_basis  text not null check (legal_basis in ('consent', 'contract', 'legal_obligation', 'vital_interests',
    'public_task', 'legitimate_interests')),
  text_version text not null,
  created_at   timestamptz not null,
  updated_at   timestamptz not null,
  primary key (tenant_id, name)
);

-- What holds of a person now. `purpose` is empty for a restriction, which has the purposes that it allows.
create table privault.subject_facts (
  tenant_id    uuid not null,
  subject_id   uuid not null,
  kind         text not null check (kind in ('consent', 'objection', 'restriction')),
  purpose      text not null,
  text_version text not null,
  reference    text not null,
  allowed      text[] not null,
  since        timestamptz not null,
  primary key (tenant_id, subject_id, kind, purpose),
  check ((kind = 'restriction') = (purpose = ''))
);

-- How it came to be: added to, never changed. It goes when the person is erased.
create table privault.subject_history (
  tenant_id    uuid not null,
  subject_id   uuid not null,
  event_id     uuid not null,
  at           timestamptz not null,
  principal_id uuid not null,
  kind         text not null check (kind in ('consent', 'objection', 'restriction')),
  purpose      text not null,
  begins       boolean not null,
  text_version text not null,
  reference    text not null,
  allowed      text[] not null,
  informed_at  timestamptz,
  primary key (tenant_id, subject_id, event_id)
);

do $$
declare
  t text;
begin
  foreach t in array array['governance', 'policies', 'purposes', 'subject_facts', 'subject_history'] loop
    execute format('alter table privault.%I enable row level security', t);
    execute format('alter table privault.%I force row level security', t);
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', t);
  end loop;
end $$;

grant select, insert, update on privault.governance to privault_app;
grant select, insert on privault.policies to privault_app;
grant select, insert, update, delete on privault.purposes, privault.subject_facts to privault_app;
grant select, insert, delete on privault.subject_history to privault_app;
