-- Written by `make schema` from a freshly migrated database. For reading; the migrations are what counts.

CREATE SCHEMA keystore;

CREATE SCHEMA privault;

CREATE FUNCTION keystore.tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ select nullif(current_setting('privault.tenant', true), '')::uuid $$;

CREATE TABLE privault.records (
    tenant_id uuid NOT NULL,
    record_id uuid NOT NULL,
    collection_id uuid NOT NULL,
    subject_id uuid,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone,
    version integer NOT NULL,
    epoch integer NOT NULL,
    sealed bytea NOT NULL,
    CONSTRAINT records_epoch_check CHECK ((epoch >= 0)),
    CONSTRAINT records_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY privault.records ALTER COLUMN sealed SET STORAGE EXTERNAL;

ALTER TABLE ONLY privault.records FORCE ROW LEVEL SECURITY;

CREATE FUNCTION privault.held(r privault.records, at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ select exists (
     select from privault.holds h
     where h.tenant_id = r.tenant_id and h.released_at is null and (h.expires_at is null or h.expires_at > at)
       and (h.subject_id is null or h.subject_id = r.subject_id)
       and (h.collection_id is null or h.collection_id = r.collection_id)
       and (h.record_id is null or h.record_id = r.record_id)) $$;

CREATE FUNCTION privault.keep_held() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
  if exists (select from privault.holds h where h.released_at is null)
    and exists (select from gone g where privault.held(g::privault.records, now())) then
    raise exception 'a legal hold keeps a record' using errcode = '23001', constraint = 'records_held';

  end if;

  return null;

end $$;

CREATE FUNCTION privault.presented() RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ select decode(nullif(current_setting('privault.presented', true), ''), 'hex') $$;

CREATE FUNCTION privault.tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ select nullif(current_setting('privault.tenant', true), '')::uuid $$;

CREATE TABLE keystore.data_keys (
    tenant_id uuid NOT NULL,
    record_id uuid NOT NULL,
    version integer NOT NULL,
    wrapped bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT data_keys_version_check CHECK ((version > 0)),
    CONSTRAINT data_keys_wrapped_check CHECK (((octet_length(wrapped) >= 32) AND (octet_length(wrapped) <= 512)))
);

ALTER TABLE ONLY keystore.data_keys FORCE ROW LEVEL SECURITY;

CREATE TABLE keystore.schema_migrations (
    version bigint NOT NULL,
    dirty boolean NOT NULL
);

CREATE TABLE keystore.tenant_keys (
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT tenant_keys_name_check CHECK ((name ~ '^[a-z]{1,32}$'::text))
);

ALTER TABLE ONLY keystore.tenant_keys FORCE ROW LEVEL SECURITY;

CREATE TABLE keystore.tenant_roots (
    tenant_id uuid NOT NULL,
    kms_uri text NOT NULL,
    wrapped bytea NOT NULL,
    created_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY keystore.tenant_roots FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.audit_entries (
    tenant_id uuid NOT NULL,
    entry_id uuid NOT NULL,
    at timestamp with time zone NOT NULL,
    principal_id uuid NOT NULL,
    action text NOT NULL,
    outcome text NOT NULL,
    body text NOT NULL
);

ALTER TABLE ONLY privault.audit_entries FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.collections (
    tenant_id uuid NOT NULL,
    collection_id uuid NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    definition jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    CONSTRAINT collections_name_check CHECK ((name ~ '^[a-z][a-z0-9_]{0,62}$'::text)),
    CONSTRAINT collections_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY privault.collections FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.credentials (
    tenant_id uuid NOT NULL,
    credential_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    digest bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone,
    CONSTRAINT credentials_digest_check CHECK ((octet_length(digest) = 32))
);

ALTER TABLE ONLY privault.credentials FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.deployment (
    one boolean DEFAULT true NOT NULL,
    deployment_id uuid NOT NULL,
    CONSTRAINT deployment_one_check CHECK (one)
);

CREATE TABLE privault.erasing (
    tenant_id uuid NOT NULL,
    subject_id uuid NOT NULL,
    erasure_id uuid NOT NULL
);

ALTER TABLE ONLY privault.erasing FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.erasures (
    tenant_id uuid NOT NULL,
    erasure_id uuid NOT NULL,
    digest bytea NOT NULL,
    reason text NOT NULL,
    state text NOT NULL,
    requested_at timestamp with time zone NOT NULL,
    erased_at timestamp with time zone,
    shred_effective_at timestamp with time zone,
    purged_at timestamp with time zone,
    counts jsonb,
    certificate text,
    CONSTRAINT erasures_check CHECK (((state = 'deferred'::text) = (erased_at IS NULL))),
    CONSTRAINT erasures_digest_check CHECK ((octet_length(digest) = 32)),
    CONSTRAINT erasures_state_check CHECK ((state = ANY (ARRAY['deferred'::text, 'erased'::text, 'purged'::text])))
);

ALTER TABLE ONLY privault.erasures FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.holds (
    tenant_id uuid NOT NULL,
    hold_id uuid NOT NULL,
    matter text NOT NULL,
    reason text NOT NULL,
    subject_id uuid,
    reference bytea,
    collection_id uuid,
    record_id uuid,
    created_at timestamp with time zone NOT NULL,
    review_at timestamp with time zone,
    expires_at timestamp with time zone,
    released_at timestamp with time zone,
    CONSTRAINT holds_check CHECK ((num_nonnulls(subject_id, collection_id, record_id) > 0)),
    CONSTRAINT holds_check1 CHECK (((subject_id IS NULL) = (reference IS NULL))),
    CONSTRAINT holds_matter_check CHECK ((matter ~ '^[A-Za-z0-9._:-]{1,128}$'::text))
);

ALTER TABLE ONLY privault.holds FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.idempotency_keys (
    tenant_id uuid NOT NULL,
    digest bytea NOT NULL,
    request_digest bytea NOT NULL,
    entry_id uuid NOT NULL,
    answer bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT idempotency_keys_digest_check CHECK ((octet_length(digest) = 32)),
    CONSTRAINT idempotency_keys_request_digest_check CHECK ((octet_length(request_digest) = 32))
);

ALTER TABLE ONLY privault.idempotency_keys FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.principals (
    tenant_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    name text NOT NULL,
    roles text[] NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT principals_name_check CHECK ((name ~ '^[a-z][a-z0-9_-]{0,62}$'::text))
);

ALTER TABLE ONLY privault.principals FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.schema_migrations (
    version bigint NOT NULL,
    dirty boolean NOT NULL
);

CREATE TABLE privault.subjects (
    tenant_id uuid NOT NULL,
    digest bytea NOT NULL,
    subject_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT subjects_digest_check CHECK ((octet_length(digest) = 32))
);

ALTER TABLE ONLY privault.subjects FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.tenants (
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT tenants_name_check CHECK ((name ~ '^[a-z][a-z0-9_-]{0,62}$'::text))
);

ALTER TABLE ONLY privault.tenants FORCE ROW LEVEL SECURITY;

ALTER TABLE ONLY keystore.data_keys
    ADD CONSTRAINT data_keys_pkey PRIMARY KEY (tenant_id, record_id, version);

ALTER TABLE ONLY keystore.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY keystore.tenant_keys
    ADD CONSTRAINT tenant_keys_pkey PRIMARY KEY (tenant_id, name);

ALTER TABLE ONLY keystore.tenant_roots
    ADD CONSTRAINT tenant_roots_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY privault.audit_entries
    ADD CONSTRAINT audit_entries_pkey PRIMARY KEY (tenant_id, entry_id);

ALTER TABLE ONLY privault.collections
    ADD CONSTRAINT collections_name UNIQUE (tenant_id, name);

ALTER TABLE ONLY privault.collections
    ADD CONSTRAINT collections_pkey PRIMARY KEY (tenant_id, collection_id);

ALTER TABLE ONLY privault.credentials
    ADD CONSTRAINT credentials_digest_key UNIQUE (digest);

ALTER TABLE ONLY privault.credentials
    ADD CONSTRAINT credentials_pkey PRIMARY KEY (tenant_id, credential_id);

ALTER TABLE ONLY privault.deployment
    ADD CONSTRAINT deployment_pkey PRIMARY KEY (one);

ALTER TABLE ONLY privault.erasing
    ADD CONSTRAINT erasing_pkey PRIMARY KEY (tenant_id, subject_id);

ALTER TABLE ONLY privault.erasures
    ADD CONSTRAINT erasures_pkey PRIMARY KEY (tenant_id, erasure_id);

ALTER TABLE ONLY privault.holds
    ADD CONSTRAINT holds_pkey PRIMARY KEY (tenant_id, hold_id);

ALTER TABLE ONLY privault.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (tenant_id, digest);

ALTER TABLE ONLY privault.principals
    ADD CONSTRAINT principals_name UNIQUE (tenant_id, name);

ALTER TABLE ONLY privault.principals
    ADD CONSTRAINT principals_pkey PRIMARY KEY (tenant_id, principal_id);

ALTER TABLE ONLY privault.records
    ADD CONSTRAINT records_pkey PRIMARY KEY (tenant_id, record_id);

ALTER TABLE ONLY privault.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY privault.subjects
    ADD CONSTRAINT subjects_id UNIQUE (tenant_id, subject_id);

ALTER TABLE ONLY privault.subjects
    ADD CONSTRAINT subjects_pkey PRIMARY KEY (tenant_id, digest);

ALTER TABLE ONLY privault.tenants
    ADD CONSTRAINT tenants_name_key UNIQUE (name);

ALTER TABLE ONLY privault.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (tenant_id);

CREATE INDEX erasures_digest ON privault.erasures USING btree (tenant_id, digest, erasure_id);

CREATE INDEX holds_living ON privault.holds USING btree (tenant_id) WHERE (released_at IS NULL);

CREATE INDEX idempotency_keys_age ON privault.idempotency_keys USING btree (tenant_id, created_at);

CREATE INDEX records_subject ON privault.records USING btree (tenant_id, subject_id, record_id) WHERE (subject_id IS NOT NULL);

CREATE TRIGGER keep_held AFTER DELETE ON privault.records REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION privault.keep_held();

ALTER TABLE ONLY privault.credentials
    ADD CONSTRAINT credentials_tenant_id_principal_id_fkey FOREIGN KEY (tenant_id, principal_id) REFERENCES privault.principals(tenant_id, principal_id);

ALTER TABLE keystore.data_keys ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON keystore.data_keys USING ((tenant_id = ( SELECT keystore.tenant() AS tenant)));

CREATE POLICY tenant ON keystore.tenant_keys USING ((tenant_id = ( SELECT keystore.tenant() AS tenant)));

CREATE POLICY tenant ON keystore.tenant_roots USING ((tenant_id = ( SELECT keystore.tenant() AS tenant)));

ALTER TABLE keystore.tenant_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE keystore.tenant_roots ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.audit_entries ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.collections ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.credentials ENABLE ROW LEVEL SECURITY;

CREATE POLICY deployment ON privault.tenants FOR SELECT USING ((( SELECT privault.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

ALTER TABLE privault.erasing ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.erasures ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.holds ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.idempotency_keys ENABLE ROW LEVEL SECURITY;

CREATE POLICY presented ON privault.credentials FOR SELECT USING ((digest = ( SELECT privault.presented() AS presented)));

ALTER TABLE privault.principals ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.records ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.subjects ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON privault.audit_entries USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.collections USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.credentials USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.erasing USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.erasures USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.holds USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.idempotency_keys USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.principals USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.records USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.subjects USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.tenants USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

ALTER TABLE privault.tenants ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA keystore TO privault_keystore;

GRANT USAGE ON SCHEMA privault TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.records TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE keystore.data_keys TO privault_keystore;

GRANT SELECT,INSERT ON TABLE keystore.tenant_keys TO privault_keystore;

GRANT SELECT,INSERT ON TABLE keystore.tenant_roots TO privault_keystore;

GRANT SELECT,INSERT ON TABLE privault.audit_entries TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.collections TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.credentials TO privault_app;

GRANT SELECT ON TABLE privault.deployment TO privault_app;

GRANT SELECT,INSERT,DELETE ON TABLE privault.erasing TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.erasures TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.holds TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.idempotency_keys TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.principals TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.subjects TO privault_app;

GRANT SELECT,INSERT ON TABLE privault.tenants TO privault_app;

