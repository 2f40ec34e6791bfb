-- Aliases and blind indexes. A digest is keyed (docs/formats.md): it says that two things are equal, and nothing else.

-- Which records have a value, by the digest of the value. `sole` is a value of a unique field: one record has it.
-- The rows of a record are found by records.digests, so there is no second index.
create table privault.blind_index (
  tenant_id uuid not null,
  digest    bytea not null check (octet_length(digest) = 32),
  record_id uuid not null,
  sole      boolean not null,
  primary key (tenant_id, digest, record_id)
);
create unique index blind_index_sole on privault.blind_index (tenant_id, digest) where sole;

-- Tokens whose text is kept. One of a value (value_digest) is shared by all records that have the value, which
-- blind_index knows under that digest; its text is sealed under a key made of the value. One of a record (record_id)
-- has its text among the record's own boxes. Exactly one of the two is there.
create table privault.aliases (
  tenant_id     uuid not null,
  text_digest   bytea not null check (octet_length(text_digest) = 32),
  collection_id uuid not null,
  field         integer not null check (field > 0),
  value_digest  bytea check (octet_length(value_digest) = 32),
  record_id     uuid,
  generation    integer not null check (generation > 0), -- of the aliases of one value: the newest is handed out
  key_version   bigint not null, -- the id of the FPE key that made the text; 0: none did
  sealed_text   bytea,
  space         bytea check (octet_length(space) = 32), -- the row of alias_spaces that counts it; null: none does
  primary key (tenant_id, text_digest),
  check ((value_digest is null) = (record_id is not null) and (value_digest is null) = (sealed_text is null))
);
create unique index aliases_value on privault.aliases (tenant_id, value_digest, generation) where value_digest is not null;

-- How many texts are taken where a field's shape leaves few: of those that agree in what is kept of the value, more than
-- a tenth are never handed out. `digest` is of the field and what is kept.
create table privault.alias_spaces (
  tenant_id uuid not null,
  digest    bytea not null check (octet_length(digest) = 32),
  used      bigint not null,
  primary key (tenant_id, digest)
);

-- All digests that lead to the record: in blind_index, and of its own aliases' texts. Null where none does.
alter table privault.records add column digests bytea[];

do $$
declare
  t text;
begin
  foreach t in array array['blind_index', 'aliases', 'alias_spaces'] loop
    execute format('alter table privault.%I enable row level security', t);
    execute format('alter table privault.%I force row level security', t);
    execute format('create policy tenant on privault.%I using (tenant_id = (select privault.tenant()))', t);
    execute format('grant select, insert, update, delete on privault.%I to privault_app', t);
  end loop;
end $$;
