-- Written by `make schema` from a freshly migrated database. For reading; the migrations are what counts.

CREATE SCHEMA keystore;

CREATE SCHEMA privault;

CREATE SCHEMA river;

CREATE TYPE river.river_job_state AS ENUM (
    'available',
    'cancelled',
    'completed',
    'discarded',
    'pending',
    'retryable',
    'running',
    'scheduled'
);

CREATE FUNCTION keystore.tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ select nullif(current_setting('privault.tenant', true), '')::uuid $$;

CREATE FUNCTION privault.first_id(at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ select (lpad(to_hex(greatest(floor(extract(epoch from at) * 1000), 0)::bigint), 12, '0') || repeat('0', 20))::uuid $$;

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
    digests bytea[],
    due_at timestamp with time zone,
    revealed_at timestamp with time zone,
    generalised smallint[],
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
    and exists (
      select from gone g where privault.held(g::privault.records, now())
        and not exists (select from privault.erasing e where e.tenant_id = g.tenant_id and e.subject_id = g.subject_id)) then
    raise exception 'a legal hold keeps a record' using errcode = '23001', constraint = 'records_held';

  end if;

  return null;

end $$;

CREATE FUNCTION privault.make_audit_partitions(until timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
declare
  parent text;

  part   text;

  month  timestamptz;

  oldest uuid;

  made   integer := 0;

begin
  perform pg_advisory_xact_lock(hashtext('privault.make_audit_partitions'));

  until := least(until, now() + interval '1 year');

  foreach parent in array array['audit_entries', 'disclosures'] loop
    month := date_trunc('month', now());

    if to_regclass(format('privault.%I', parent || to_char(month, '_YYYY_MM'))) is null then
      execute format('alter table privault.%I no force row level security', parent || '_rest');

      execute format('select entry_id from privault.%I where entry_id >= $1 order by entry_id limit 1', parent || '_rest')
        into oldest using privault.first_id(month - interval '2 years');

      execute format('alter table privault.%I force row level security', parent || '_rest');

      if oldest < privault.first_id(month) then
        month := date_trunc('month', to_timestamp(('x' || lpad(left(replace(oldest::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0));

      end if;

    end if;

    while month <= until loop
      part := parent || to_char(month, '_YYYY_MM');

      if to_regclass(format('privault.%I', part)) is null then
        execute format('create table privault.%I (like privault.%I including defaults including constraints including indexes including storage)', part, parent);

        execute format('alter table privault.%I no force row level security', parent || '_rest');

        execute format('with moved as (delete from privault.%I where entry_id >= $1 and entry_id < $2 returning *)
          insert into privault.%I select * from moved', parent || '_rest', part)
          using privault.first_id(month), privault.first_id(month + interval '1 month');

        execute format('alter table privault.%I force row level security', parent || '_rest');

        execute format('alter table privault.%I enable row level security', part);

        execute format('alter table privault.%I force row level security', part);

        execute format('alter table privault.%I attach partition privault.%I for values from (%L) to (%L)',
          parent, part, privault.first_id(month), privault.first_id(month + interval '1 month'));

        made := made + 1;

      end if;

      month := month + interval '1 month';

    end loop;

  end loop;

  return made;

end $_$;

CREATE FUNCTION privault.presented() RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ select decode(nullif(current_setting('privault.presented', true), ''), 'hex') $$;

CREATE FUNCTION privault.prune_audit(before timestamp with time zone, dry boolean) RETURNS TABLE(month text, outcome text)
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    AS $_$
declare
  nobody constant text := '00000000-0000-0000-0000-000000000000';

  first  uuid;

  beyond uuid;

  whose  uuid;

  has    boolean;

  t      text;

begin
  perform pg_advisory_xact_lock(hashtext('privault.make_audit_partitions'));

  for month in
    select distinct right(c.relname, 7) from pg_class c join pg_inherits i on i.inhrelid = c.oid
    where i.inhparent in ('privault.audit_entries'::regclass, 'privault.disclosures'::regclass) and c.relname ~ '_\d{4}_\d{2}$'
      and to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= before
    order by 1
  loop
    outcome := 'dropped';

    first := privault.first_id(to_date(month, 'YYYY_MM'));

    beyond := privault.first_id(to_date(month, 'YYYY_MM') + interval '1 month');

    perform set_config('privault.tenant', nobody, true);

    select exists (select from privault.audit_entries e where e.entry_id >= first and e.entry_id < beyond and not exists (
      select from privault.audit_leaves l where l.tenant_id = e.tenant_id and l.entry_id = e.entry_id)) into has;

    if has then
      outcome := 'unsequenced';

    end if;

    for whose in select n.tenant_id from privault.tenants n loop
      exit when outcome <> 'dropped';

      perform set_config('privault.tenant', whose::text, true);

      select exists (select from privault.holds h where h.tenant_id = whose and h.released_at is null and (h.expires_at is null or h.expires_at > now())
        and case when h.subject_id is null
          then exists (select from privault.audit_entries e where e.tenant_id = whose and e.entry_id >= first and e.entry_id < beyond)
          else exists (select from privault.disclosures d where d.tenant_id = whose and d.subject_id in (select h.subject_id union all
            select l.merged_id from privault.subject_links l where l.tenant_id = whose and l.subject_id = h.subject_id) and d.entry_id >= first and d.entry_id < beyond)
        end) into has;

      if has then
        outcome := 'held';

      end if;

    end loop;

    perform set_config('privault.tenant', nobody, true);

    foreach t in array array['audit_entries_', 'disclosures_'] loop
      if outcome = 'dropped' and not dry then
        execute format('drop table if exists privault.%I', t || month);

      end if;

    end loop;

    return next;

    exit when outcome <> 'dropped';

  end loop;

end $_$;

CREATE FUNCTION privault.raise_audit_xids() RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  h      privault.audit_head;

  system bigint := (select system_identifier from pg_control_system());

  base   bigint;

  t      text;

  raised boolean := false;

begin
  lock table privault.audit_entries in access exclusive mode;

  foreach t in array array['audit_entries', 'audit_leaves', 'audit_head'] loop
    execute format('alter table privault.%I no force row level security', t);

  end loop;

  select * into strict h from privault.audit_head for update;

  if h.system_id is distinct from system
    or h.xid::text::bigint >= h.xid_base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint then
    -- Steps of 2^40: no cluster comes to so many.
    base := ((greatest(h.xid::text::bigint, h.xid_base, coalesce((select max(e.xid) from privault.audit_entries e)::text::bigint, 0)) >> 40) + 1) << 40;

    execute format('alter table privault.audit_entries alter column xid set default (pg_current_xact_id()::text::bigint + %s)::text::xid8', base);

    update privault.audit_entries e set xid = base::text::xid8
      where (e.xid < h.xid or e.xid = h.xid and e.entry_id <= h.entry_id)
        and not exists (select from privault.audit_leaves l where l.tenant_id = e.tenant_id and l.entry_id = e.entry_id);

    update privault.audit_head set xid_base = base, system_id = system;

    raised := true;

  end if;

  foreach t in array array['audit_entries', 'audit_leaves', 'audit_head'] loop
    execute format('alter table privault.%I force row level security', t);

  end loop;

  return raised;

end $$;

CREATE FUNCTION privault.tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ select nullif(current_setting('privault.tenant', true), '')::uuid $$;

CREATE FUNCTION river.river_job_state_in_bitmask(bitmask bit, state river.river_job_state) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $$
  select case state
    when 'available' then get_bit(bitmask, 7)
    when 'cancelled' then get_bit(bitmask, 6)
    when 'completed' then get_bit(bitmask, 5)
    when 'discarded' then get_bit(bitmask, 4)
    when 'pending'   then get_bit(bitmask, 3)
    when 'retryable' then get_bit(bitmask, 2)
    when 'running'   then get_bit(bitmask, 1)
    when 'scheduled' then get_bit(bitmask, 0)
    else 0
  end = 1;

$$;

CREATE TABLE keystore.data_keys (
    tenant_id uuid NOT NULL,
    record_id uuid NOT NULL,
    version integer NOT NULL,
    wrapped bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT data_keys_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY keystore.data_keys FORCE ROW LEVEL SECURITY;

CREATE TABLE keystore.key_uses (
    tenant_id uuid NOT NULL,
    key_id bigint NOT NULL,
    uses bigint NOT NULL,
    CONSTRAINT key_uses_key_id_check CHECK (((key_id >= 0) AND (key_id <= '4294967295'::bigint))),
    CONSTRAINT key_uses_uses_check CHECK ((uses > 0))
);

ALTER TABLE ONLY keystore.key_uses FORCE ROW LEVEL SECURITY;

CREATE TABLE keystore.key_versions (
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    key_id bigint NOT NULL,
    version integer NOT NULL,
    created_at timestamp with time zone NOT NULL,
    settled_at timestamp with time zone,
    retired_at timestamp with time zone,
    destroyed_at timestamp with time zone,
    CONSTRAINT key_versions_key_id_check CHECK (((key_id >= 0) AND (key_id <= '4294967295'::bigint))),
    CONSTRAINT key_versions_name_check CHECK ((name ~ '^[a-z]{1,32}$'::text)),
    CONSTRAINT key_versions_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY keystore.key_versions FORCE ROW LEVEL SECURITY;

CREATE TABLE keystore.ledger (
    one boolean DEFAULT true NOT NULL,
    ledger_id uuid NOT NULL,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT ledger_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT ledger_one_check CHECK (one)
);

ALTER TABLE ONLY keystore.ledger FORCE ROW LEVEL SECURITY;

CREATE TABLE keystore.ledger_applied (
    tenant_id uuid NOT NULL,
    seq bigint NOT NULL
);

ALTER TABLE ONLY keystore.ledger_applied FORCE ROW LEVEL SECURITY;

CREATE TABLE keystore.schema_migrations (
    version bigint NOT NULL,
    dirty boolean NOT NULL
);

CREATE TABLE keystore.tenant_keys (
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT tenant_keys_name_check CHECK ((name ~ '^[a-z]{1,32}$'::text)),
    CONSTRAINT tenant_keys_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY keystore.tenant_keys FORCE ROW LEVEL SECURITY;

CREATE TABLE keystore.tenant_roots (
    tenant_id uuid NOT NULL,
    kms_uri text NOT NULL,
    wrapped bytea NOT NULL,
    created_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY keystore.tenant_roots FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.alarms (
    tenant_id uuid NOT NULL,
    alarm_id uuid NOT NULL,
    kind text NOT NULL,
    principal_id uuid NOT NULL,
    credential_id uuid NOT NULL,
    network cidr,
    raised_at timestamp with time zone NOT NULL,
    hour timestamp with time zone NOT NULL,
    counted bigint NOT NULL,
    usual bigint NOT NULL,
    response text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    lifted_at timestamp with time zone,
    lifted_by uuid,
    CONSTRAINT alarms_response_check CHECK ((response = ANY (ARRAY['alert'::text, 'mask'::text, 'block'::text, 'suspend'::text])))
);

ALTER TABLE ONLY privault.alarms FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.alias_spaces (
    tenant_id uuid NOT NULL,
    digest bytea NOT NULL,
    used bigint NOT NULL,
    CONSTRAINT alias_spaces_digest_check CHECK ((octet_length(digest) = 32))
);

ALTER TABLE ONLY privault.alias_spaces FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.aliases (
    tenant_id uuid NOT NULL,
    text_digest bytea NOT NULL,
    collection_id uuid NOT NULL,
    field integer NOT NULL,
    value_digest bytea,
    record_id uuid,
    generation integer NOT NULL,
    key_version bigint NOT NULL,
    sealed_text bytea,
    space bytea,
    CONSTRAINT aliases_check CHECK ((((value_digest IS NULL) = (record_id IS NOT NULL)) AND ((value_digest IS NULL) = (sealed_text IS NULL)))),
    CONSTRAINT aliases_field_check CHECK ((field > 0)),
    CONSTRAINT aliases_generation_check CHECK ((generation > 0)),
    CONSTRAINT aliases_space_check CHECK ((octet_length(space) = 32)),
    CONSTRAINT aliases_text_digest_check CHECK ((octet_length(text_digest) = 32)),
    CONSTRAINT aliases_value_digest_check CHECK ((octet_length(value_digest) = 32))
);

ALTER TABLE ONLY privault.aliases FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.audit_entries (
    tenant_id uuid NOT NULL,
    entry_id uuid NOT NULL,
    at timestamp with time zone NOT NULL,
    principal_id uuid NOT NULL,
    action text NOT NULL,
    outcome text NOT NULL,
    body text NOT NULL,
    salt uuid DEFAULT gen_random_uuid() NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL
)
PARTITION BY RANGE (entry_id);

ALTER TABLE ONLY privault.audit_entries ALTER COLUMN body SET STORAGE EXTERNAL;

ALTER TABLE ONLY privault.audit_entries FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.audit_entries_rest (
    tenant_id uuid NOT NULL,
    entry_id uuid NOT NULL,
    at timestamp with time zone NOT NULL,
    principal_id uuid NOT NULL,
    action text NOT NULL,
    outcome text NOT NULL,
    body text NOT NULL,
    salt uuid DEFAULT gen_random_uuid() NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL
);

ALTER TABLE ONLY privault.audit_entries_rest ALTER COLUMN body SET STORAGE EXTERNAL;

ALTER TABLE ONLY privault.audit_entries_rest FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.audit_head (
    one boolean DEFAULT true NOT NULL,
    size bigint NOT NULL,
    root bytea NOT NULL,
    xid xid8 NOT NULL,
    entry_id uuid NOT NULL,
    signed text,
    xid_base bigint DEFAULT 0 NOT NULL,
    system_id bigint,
    cosigned text,
    CONSTRAINT audit_head_one_check CHECK (one),
    CONSTRAINT audit_head_root_check CHECK ((octet_length(root) = 32)),
    CONSTRAINT audit_head_size_check CHECK ((size >= 0))
);

ALTER TABLE ONLY privault.audit_head FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.audit_leaves (
    leaf_index bigint NOT NULL,
    tenant_id uuid NOT NULL,
    entry_id uuid NOT NULL,
    leaf bytea NOT NULL,
    CONSTRAINT audit_leaves_leaf_check CHECK ((octet_length(leaf) = 32)),
    CONSTRAINT audit_leaves_leaf_index_check CHECK ((leaf_index >= 0))
);

ALTER TABLE ONLY privault.audit_leaves FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.audit_nodes (
    level smallint NOT NULL,
    node_index bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_nodes_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT audit_nodes_level_check CHECK ((level > 0)),
    CONSTRAINT audit_nodes_node_index_check CHECK ((node_index >= 0))
);

ALTER TABLE ONLY privault.audit_nodes FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.audit_witnesses (
    witness text NOT NULL,
    size bigint NOT NULL,
    CONSTRAINT audit_witnesses_size_check CHECK ((size >= 0))
);

ALTER TABLE ONLY privault.audit_witnesses FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.behaviour (
    tenant_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    hour timestamp with time zone NOT NULL,
    revealed bigint NOT NULL,
    denied bigint NOT NULL,
    unknown bigint NOT NULL,
    refused bigint NOT NULL
);

ALTER TABLE ONLY privault.behaviour FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.blind_index (
    tenant_id uuid NOT NULL,
    digest bytea NOT NULL,
    record_id uuid NOT NULL,
    sole boolean NOT NULL,
    CONSTRAINT blind_index_digest_check CHECK ((octet_length(digest) = 32))
);

ALTER TABLE ONLY privault.blind_index FORCE ROW LEVEL SECURITY;

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
    networks cidr[] DEFAULT '{}'::cidr[] NOT NULL,
    last_used_at timestamp with time zone,
    CONSTRAINT credentials_digest_check CHECK ((octet_length(digest) = 32))
);

ALTER TABLE ONLY privault.credentials FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.deployment (
    one boolean DEFAULT true NOT NULL,
    deployment_id uuid NOT NULL,
    CONSTRAINT deployment_one_check CHECK (one)
);

CREATE TABLE privault.disclosures (
    tenant_id uuid NOT NULL,
    subject_id uuid NOT NULL,
    entry_id uuid NOT NULL,
    record_id uuid NOT NULL
)
PARTITION BY RANGE (entry_id);

ALTER TABLE ONLY privault.disclosures FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.disclosures_rest (
    tenant_id uuid NOT NULL,
    subject_id uuid NOT NULL,
    entry_id uuid NOT NULL,
    record_id uuid NOT NULL
);

ALTER TABLE ONLY privault.disclosures_rest FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.erasing (
    tenant_id uuid NOT NULL,
    subject_id uuid NOT NULL,
    erasure_id uuid NOT NULL
);

ALTER TABLE ONLY privault.erasing FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.erasure_recipients (
    tenant_id uuid NOT NULL,
    erasure_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    name text NOT NULL,
    country text NOT NULL,
    state text NOT NULL,
    settled_at timestamp with time zone,
    CONSTRAINT erasure_recipients_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'delivered'::text, 'acknowledged'::text, 'failed'::text])))
);

ALTER TABLE ONLY privault.erasure_recipients FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.erasure_references (
    tenant_id uuid NOT NULL,
    digest bytea NOT NULL,
    erasure_id uuid NOT NULL,
    CONSTRAINT erasure_references_digest_check CHECK ((octet_length(digest) = 32))
);

ALTER TABLE ONLY privault.erasure_references FORCE ROW LEVEL SECURITY;

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
    completion text,
    scope jsonb,
    retained jsonb,
    direct boolean DEFAULT true NOT NULL,
    CONSTRAINT erasures_check CHECK (((state = ANY (ARRAY['deferred'::text, 'withdrawn'::text])) = (erased_at IS NULL))),
    CONSTRAINT erasures_digest_check CHECK ((octet_length(digest) = 32)),
    CONSTRAINT erasures_state_check CHECK ((state = ANY (ARRAY['deferred'::text, 'withdrawn'::text, 'erased'::text, 'purged'::text])))
);

ALTER TABLE ONLY privault.erasures FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.governance (
    tenant_id uuid NOT NULL,
    version bigint NOT NULL,
    facts boolean NOT NULL
);

ALTER TABLE ONLY privault.governance FORCE ROW LEVEL SECURITY;

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
    CONSTRAINT holds_matter_check CHECK ((matter ~ '^[A-Za-z0-9._:-]{1,128}$'::text)),
    CONSTRAINT holds_reference CHECK (((subject_id IS NOT NULL) OR (reference IS NULL)))
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

CREATE TABLE privault.jobs (
    tenant_id uuid NOT NULL,
    job_id uuid NOT NULL,
    kind text NOT NULL,
    params jsonb NOT NULL,
    state text NOT NULL,
    cursor jsonb,
    done bigint DEFAULT 0 NOT NULL,
    total bigint,
    problem text,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    CONSTRAINT jobs_done_check CHECK ((done >= 0)),
    CONSTRAINT jobs_finished CHECK (((finished_at IS NOT NULL) = (state = ANY (ARRAY['completed'::text, 'failed'::text])))),
    CONSTRAINT jobs_kind_check CHECK ((kind ~ '^[a-z][a-z0-9-]{0,62}$'::text)),
    CONSTRAINT jobs_state_check CHECK ((state = ANY (ARRAY['queued'::text, 'running'::text, 'completed'::text, 'failed'::text]))),
    CONSTRAINT jobs_total_check CHECK ((total >= 0))
);

ALTER TABLE ONLY privault.jobs FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.key_generations (
    tenant_id uuid NOT NULL,
    generation integer NOT NULL,
    CONSTRAINT key_generations_generation_check CHECK ((generation > 0))
);

ALTER TABLE ONLY privault.key_generations FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.ledger (
    one boolean DEFAULT true NOT NULL,
    ledger_id uuid NOT NULL,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT ledger_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT ledger_one_check CHECK (one)
);

ALTER TABLE ONLY privault.ledger FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.ledger_applied (
    tenant_id uuid NOT NULL,
    seq bigint NOT NULL
);

ALTER TABLE ONLY privault.ledger_applied FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.packages (
    tenant_id uuid NOT NULL,
    request_id uuid NOT NULL,
    claim uuid,
    leased_until timestamp with time zone,
    attempts integer NOT NULL,
    delivered_at timestamp with time zone,
    CONSTRAINT packages_attempts_check CHECK ((attempts > 0)),
    CONSTRAINT packages_check CHECK (((claim IS NULL) = (leased_until IS NULL))),
    CONSTRAINT packages_check1 CHECK (((delivered_at IS NULL) OR (claim IS NULL)))
);

ALTER TABLE ONLY privault.packages FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.policies (
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    text text,
    created_at timestamp with time zone NOT NULL,
    created_by uuid NOT NULL,
    CONSTRAINT policies_name_check CHECK ((name ~ '^[a-z][a-z0-9_-]{0,62}$'::text)),
    CONSTRAINT policies_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY privault.policies FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.principal_networks (
    tenant_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    network cidr NOT NULL,
    first_at timestamp with time zone NOT NULL,
    last_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY privault.principal_networks FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.principals (
    tenant_id uuid NOT NULL,
    principal_id uuid NOT NULL,
    name text NOT NULL,
    roles text[] NOT NULL,
    created_at timestamp with time zone NOT NULL,
    authority text,
    subject text,
    disabled_at timestamp with time zone,
    CONSTRAINT principals_name_check CHECK ((name ~ '^[a-z][a-z0-9_-]{0,62}$'::text)),
    CONSTRAINT principals_outsider CHECK (((authority IS NULL) = (subject IS NULL)))
);

ALTER TABLE ONLY privault.principals FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.purposes (
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    description text NOT NULL,
    legal_basis text NOT NULL,
    text_version text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    ends_at timestamp with time zone,
    CONSTRAINT purposes_legal_basis_check CHECK ((legal_basis = ANY (ARRAY['consent'::text, 'contract'::text, 'legal_obligation'::text, 'vital_interests'::text, 'public_task'::text, 'legitimate_interests'::text]))),
    CONSTRAINT purposes_name_check CHECK ((name ~ '^[a-z][a-z0-9_-]{0,62}$'::text)),
    CONSTRAINT purposes_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY privault.purposes FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.request_events (
    tenant_id uuid NOT NULL,
    request_id uuid NOT NULL,
    number integer NOT NULL,
    at timestamp with time zone NOT NULL,
    principal_id uuid NOT NULL,
    event text NOT NULL,
    state text NOT NULL,
    reason text,
    moment timestamp with time zone
);

ALTER TABLE ONLY privault.request_events FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.requests (
    tenant_id uuid NOT NULL,
    request_id uuid NOT NULL,
    version integer NOT NULL,
    type text NOT NULL,
    regime text NOT NULL,
    state text NOT NULL,
    digest bytea NOT NULL,
    sealed bytea,
    proposal bytea,
    approval boolean NOT NULL,
    received_at timestamp with time zone NOT NULL,
    opened_at timestamp with time zone NOT NULL,
    opened_by uuid NOT NULL,
    acknowledge_by timestamp with time zone,
    acknowledged_at timestamp with time zone,
    due_at timestamp with time zone NOT NULL,
    asked_at timestamp with time zone,
    paused_at timestamp with time zone,
    extension text,
    noticed_at timestamp with time zone,
    verified_at timestamp with time zone,
    verified_by uuid,
    method text,
    level text,
    evidence text,
    approved_at timestamp with time zone,
    approved_by uuid,
    outcome text,
    denial text,
    statement text,
    erasure_id uuid,
    closed_at timestamp with time zone,
    noted text[] DEFAULT '{}'::text[] NOT NULL,
    CONSTRAINT requests_check CHECK (((regime <> 'hipaa'::text) OR (type = ANY (ARRAY['access'::text, 'portability'::text, 'correction'::text])))),
    CONSTRAINT requests_check1 CHECK ((received_at <= opened_at)),
    CONSTRAINT requests_check10 CHECK (((state = 'completed'::text) = (outcome IS NOT NULL))),
    CONSTRAINT requests_check11 CHECK (((state = 'denied'::text) = (denial IS NOT NULL))),
    CONSTRAINT requests_check12 CHECK (((state <> 'deferred'::text) OR (erasure_id IS NOT NULL))),
    CONSTRAINT requests_check13 CHECK (((state = ANY (ARRAY['completed'::text, 'denied'::text, 'cancelled'::text, 'expired'::text])) = (closed_at IS NOT NULL))),
    CONSTRAINT requests_check2 CHECK (((proposal IS NULL) OR (type = 'correction'::text))),
    CONSTRAINT requests_check3 CHECK (((extension IS NULL) = (noticed_at IS NULL))),
    CONSTRAINT requests_check4 CHECK (((paused_at IS NULL) OR (state = 'verifying'::text))),
    CONSTRAINT requests_check5 CHECK ((num_nulls(verified_at, verified_by, method, level) = ANY (ARRAY[0, 4]))),
    CONSTRAINT requests_check6 CHECK (((state <> ALL (ARRAY['waiting_for_approval'::text, 'in_progress'::text, 'completed'::text, 'deferred'::text])) OR (verified_at IS NOT NULL))),
    CONSTRAINT requests_check7 CHECK ((num_nulls(approved_at, approved_by) = ANY (ARRAY[0, 2]))),
    CONSTRAINT requests_check8 CHECK (((NOT approval) OR (state <> ALL (ARRAY['in_progress'::text, 'completed'::text, 'deferred'::text])) OR (approved_at IS NOT NULL))),
    CONSTRAINT requests_check9 CHECK (((approved_by <> opened_by) AND (approved_by <> verified_by))),
    CONSTRAINT requests_digest_check CHECK ((octet_length(digest) = 32)),
    CONSTRAINT requests_outcome_check CHECK ((outcome = ANY (ARRAY['complied'::text, 'nothing-held'::text]))),
    CONSTRAINT requests_regime_check CHECK ((regime = ANY (ARRAY['gdpr'::text, 'ccpa'::text, 'hipaa'::text]))),
    CONSTRAINT requests_state_check CHECK ((state = ANY (ARRAY['received'::text, 'verifying'::text, 'waiting_for_approval'::text, 'in_progress'::text, 'completed'::text, 'denied'::text, 'cancelled'::text, 'deferred'::text, 'expired'::text]))),
    CONSTRAINT requests_type_check CHECK ((type = ANY (ARRAY['access'::text, 'portability'::text, 'correction'::text, 'erasure'::text, 'restriction'::text, 'objection'::text]))),
    CONSTRAINT requests_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY privault.requests FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.retention_clocks (
    tenant_id uuid NOT NULL,
    seen_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY privault.retention_clocks FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.retention_items (
    tenant_id uuid NOT NULL,
    plan_id uuid NOT NULL,
    record_id uuid NOT NULL,
    rule text NOT NULL,
    action text NOT NULL,
    skipped text NOT NULL,
    outcome text
);

ALTER TABLE ONLY privault.retention_items FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.retention_plans (
    tenant_id uuid NOT NULL,
    plan_id uuid NOT NULL,
    collection_id uuid NOT NULL,
    as_of timestamp with time zone NOT NULL,
    state text NOT NULL,
    rules jsonb NOT NULL,
    counts jsonb NOT NULL,
    hash bytea,
    sweep_id uuid,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT retention_plans_check CHECK (((hash IS NULL) = (state = 'making'::text))),
    CONSTRAINT retention_plans_check1 CHECK (((sweep_id IS NULL) = (state <> 'executed'::text))),
    CONSTRAINT retention_plans_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT retention_plans_state_check CHECK ((state = ANY (ARRAY['making'::text, 'ready'::text, 'executed'::text])))
);

ALTER TABLE ONLY privault.retention_plans FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.revoked_tokens (
    tenant_id uuid NOT NULL,
    digest bytea NOT NULL,
    revoked_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT revoked_tokens_digest_check CHECK ((octet_length(digest) = 32))
);

ALTER TABLE ONLY privault.revoked_tokens FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.schema_migrations (
    version bigint NOT NULL,
    dirty boolean NOT NULL
);

CREATE TABLE privault.subject_facts (
    tenant_id uuid NOT NULL,
    subject_id uuid NOT NULL,
    kind text NOT NULL,
    purpose text NOT NULL,
    text_version text NOT NULL,
    reference text NOT NULL,
    allowed text[] NOT NULL,
    since timestamp with time zone NOT NULL,
    jurisdiction text DEFAULT ''::text NOT NULL,
    CONSTRAINT subject_facts_check CHECK (((kind = ANY (ARRAY['restriction'::text, 'jurisdiction'::text])) = (purpose = ''::text))),
    CONSTRAINT subject_facts_kind_check CHECK ((kind = ANY (ARRAY['consent'::text, 'objection'::text, 'restriction'::text, 'jurisdiction'::text])))
);

ALTER TABLE ONLY privault.subject_facts FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.subject_history (
    tenant_id uuid NOT NULL,
    subject_id uuid NOT NULL,
    event_id uuid NOT NULL,
    at timestamp with time zone NOT NULL,
    principal_id uuid NOT NULL,
    kind text NOT NULL,
    purpose text NOT NULL,
    begins boolean NOT NULL,
    text_version text NOT NULL,
    reference text NOT NULL,
    allowed text[] NOT NULL,
    informed_at timestamp with time zone,
    CONSTRAINT subject_history_kind_check CHECK ((kind = ANY (ARRAY['consent'::text, 'objection'::text, 'restriction'::text])))
);

ALTER TABLE ONLY privault.subject_history FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.subject_links (
    tenant_id uuid NOT NULL,
    link_id uuid NOT NULL,
    subject_id uuid NOT NULL,
    merged_id uuid,
    records bigint NOT NULL,
    reason text NOT NULL,
    linked_at timestamp with time zone NOT NULL,
    principal_id uuid NOT NULL,
    sealed bytea,
    CONSTRAINT subject_links_records_check CHECK ((records >= 0))
);

ALTER TABLE ONLY privault.subject_links FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.subjects (
    tenant_id uuid NOT NULL,
    digest bytea NOT NULL,
    subject_id uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    link_id uuid,
    CONSTRAINT subjects_digest_check CHECK ((octet_length(digest) = 32))
);

ALTER TABLE ONLY privault.subjects FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.suppressions (
    tenant_id uuid NOT NULL,
    digest bytea NOT NULL,
    suppression_id uuid NOT NULL,
    kind text NOT NULL,
    erasure_id uuid,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT suppressions_digest_check CHECK ((octet_length(digest) = 32))
);

ALTER TABLE ONLY privault.suppressions FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.sweeps (
    tenant_id uuid NOT NULL,
    sweep_id uuid NOT NULL,
    collection_id uuid,
    dry_run boolean NOT NULL,
    state text NOT NULL,
    reason text DEFAULT ''::text NOT NULL,
    as_of timestamp with time zone NOT NULL,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    confirmed_at timestamp with time zone,
    confirmed_by uuid,
    finished_at timestamp with time zone,
    lanes integer DEFAULT 0 NOT NULL,
    counts jsonb NOT NULL,
    report text,
    plan_id uuid,
    weighed jsonb,
    CONSTRAINT sweeps_check CHECK (((finished_at IS NULL) = (state = ANY (ARRAY['queued'::text, 'running'::text, 'needs_confirmation'::text])))),
    CONSTRAINT sweeps_state_check CHECK ((state = ANY (ARRAY['queued'::text, 'running'::text, 'completed'::text, 'needs_confirmation'::text, 'stopped'::text, 'failed'::text])))
);

ALTER TABLE ONLY privault.sweeps FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.tenants (
    tenant_id uuid NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT tenants_name_check CHECK ((name ~ '^[a-z][a-z0-9_-]{0,62}$'::text))
);

ALTER TABLE ONLY privault.tenants FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.transforms (
    tenant_id uuid NOT NULL,
    transform_id uuid NOT NULL,
    name text NOT NULL,
    definition jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT transforms_name_check CHECK ((name ~ '^[a-z][a-z0-9_]{0,62}$'::text))
);

ALTER TABLE ONLY privault.transforms FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.webhook_deliveries (
    tenant_id uuid NOT NULL,
    delivery_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    event text NOT NULL,
    subject_id uuid,
    erasure_id uuid,
    body text NOT NULL,
    state text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    next_at timestamp with time zone,
    leased_until timestamp with time zone,
    status integer,
    problem text,
    delivered_at timestamp with time zone,
    acknowledged_at timestamp with time zone,
    CONSTRAINT webhook_deliveries_check CHECK (((state = 'pending'::text) = (next_at IS NOT NULL))),
    CONSTRAINT webhook_deliveries_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'delivered'::text, 'acknowledged'::text, 'failed'::text])))
);

ALTER TABLE ONLY privault.webhook_deliveries FORCE ROW LEVEL SECURITY;

CREATE TABLE privault.webhooks (
    tenant_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL,
    collections text[] NOT NULL,
    purposes text[] NOT NULL,
    recipient text NOT NULL,
    country text NOT NULL,
    secret bytea NOT NULL,
    previous_secret bytea,
    previous_until timestamp with time zone,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    disabled_at timestamp with time zone,
    failures integer DEFAULT 0 NOT NULL,
    paused_until timestamp with time zone,
    CONSTRAINT webhooks_check CHECK (((previous_secret IS NULL) = (previous_until IS NULL))),
    CONSTRAINT webhooks_name_check CHECK ((name ~ '^[a-z][a-z0-9_-]{0,62}$'::text)),
    CONSTRAINT webhooks_version_check CHECK ((version > 0))
);

ALTER TABLE ONLY privault.webhooks FORCE ROW LEVEL SECURITY;

CREATE TABLE river.river_job (
    id bigint NOT NULL,
    state river.river_job_state DEFAULT 'available'::river.river_job_state NOT NULL,
    attempt smallint DEFAULT 0 NOT NULL,
    max_attempts smallint DEFAULT 25 NOT NULL,
    attempted_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finalized_at timestamp with time zone,
    scheduled_at timestamp with time zone DEFAULT now() NOT NULL,
    priority smallint DEFAULT 1 NOT NULL,
    args jsonb NOT NULL,
    attempted_by text[],
    errors jsonb[],
    kind text NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    queue text DEFAULT 'default'::text NOT NULL,
    tags character varying(255)[] DEFAULT '{}'::character varying[] NOT NULL,
    unique_key bytea,
    unique_states bit(8),
    CONSTRAINT finalized_or_finalized_at_null CHECK ((((finalized_at IS NULL) AND (state <> ALL (ARRAY['cancelled'::river.river_job_state, 'completed'::river.river_job_state, 'discarded'::river.river_job_state]))) OR ((finalized_at IS NOT NULL) AND (state = ANY (ARRAY['cancelled'::river.river_job_state, 'completed'::river.river_job_state, 'discarded'::river.river_job_state]))))),
    CONSTRAINT kind_length CHECK (((char_length(kind) > 0) AND (char_length(kind) < 128))),
    CONSTRAINT max_attempts_is_positive CHECK ((max_attempts > 0)),
    CONSTRAINT priority_in_range CHECK (((priority >= 1) AND (priority <= 4))),
    CONSTRAINT queue_length CHECK (((char_length(queue) > 0) AND (char_length(queue) < 128)))
);

CREATE SEQUENCE river.river_job_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE river.river_job_id_seq OWNED BY river.river_job.id;

CREATE UNLOGGED TABLE river.river_leader (
    elected_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    leader_id text NOT NULL,
    name text DEFAULT 'default'::text NOT NULL,
    CONSTRAINT leader_id_length CHECK (((char_length(leader_id) > 0) AND (char_length(leader_id) < 128))),
    CONSTRAINT name_length CHECK ((name = 'default'::text))
);

CREATE TABLE river.river_migration (
    line text NOT NULL,
    version bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT line_length CHECK (((char_length(line) > 0) AND (char_length(line) < 128))),
    CONSTRAINT version_gte_1 CHECK ((version >= 1))
);

CREATE TABLE river.river_notification (
    id bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    payload text NOT NULL,
    topic text NOT NULL,
    CONSTRAINT topic_length CHECK (((length(topic) > 0) AND (length(topic) < 128)))
);

CREATE SEQUENCE river.river_notification_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE river.river_notification_id_seq OWNED BY river.river_notification.id;

CREATE TABLE river.river_queue (
    name text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    paused_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT CURRENT_TIMESTAMP NOT NULL
);

ALTER TABLE ONLY privault.audit_entries ATTACH PARTITION privault.audit_entries_rest DEFAULT;

ALTER TABLE ONLY privault.disclosures ATTACH PARTITION privault.disclosures_rest DEFAULT;

ALTER TABLE ONLY river.river_job ALTER COLUMN id SET DEFAULT nextval('river.river_job_id_seq'::regclass);

ALTER TABLE ONLY river.river_notification ALTER COLUMN id SET DEFAULT nextval('river.river_notification_id_seq'::regclass);

ALTER TABLE ONLY keystore.data_keys
    ADD CONSTRAINT data_keys_pkey PRIMARY KEY (tenant_id, record_id, version);

ALTER TABLE keystore.data_keys
    ADD CONSTRAINT data_keys_wrapped_check CHECK (((octet_length(wrapped) >= 32) AND (octet_length(wrapped) <= 4105))) NOT VALID;

ALTER TABLE ONLY keystore.key_uses
    ADD CONSTRAINT key_uses_pkey PRIMARY KEY (tenant_id, key_id);

ALTER TABLE ONLY keystore.key_versions
    ADD CONSTRAINT key_versions_pkey PRIMARY KEY (tenant_id, name, version);

ALTER TABLE ONLY keystore.ledger_applied
    ADD CONSTRAINT ledger_applied_pkey PRIMARY KEY (tenant_id, seq);

ALTER TABLE ONLY keystore.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (one);

ALTER TABLE ONLY keystore.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY keystore.tenant_keys
    ADD CONSTRAINT tenant_keys_pkey PRIMARY KEY (tenant_id, name);

ALTER TABLE ONLY keystore.tenant_roots
    ADD CONSTRAINT tenant_roots_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY privault.alarms
    ADD CONSTRAINT alarms_pkey PRIMARY KEY (tenant_id, alarm_id);

ALTER TABLE ONLY privault.alias_spaces
    ADD CONSTRAINT alias_spaces_pkey PRIMARY KEY (tenant_id, digest);

ALTER TABLE ONLY privault.aliases
    ADD CONSTRAINT aliases_pkey PRIMARY KEY (tenant_id, text_digest);

ALTER TABLE ONLY privault.audit_entries
    ADD CONSTRAINT audit_entries_pkey PRIMARY KEY (tenant_id, entry_id);

ALTER TABLE ONLY privault.audit_entries_rest
    ADD CONSTRAINT audit_entries_rest_pkey PRIMARY KEY (tenant_id, entry_id);

ALTER TABLE ONLY privault.audit_head
    ADD CONSTRAINT audit_head_pkey PRIMARY KEY (one);

ALTER TABLE ONLY privault.audit_leaves
    ADD CONSTRAINT audit_leaves_pkey PRIMARY KEY (leaf_index);

ALTER TABLE ONLY privault.audit_leaves
    ADD CONSTRAINT audit_leaves_tenant_id_entry_id_key UNIQUE (tenant_id, entry_id);

ALTER TABLE ONLY privault.audit_nodes
    ADD CONSTRAINT audit_nodes_pkey PRIMARY KEY (level, node_index);

ALTER TABLE ONLY privault.audit_witnesses
    ADD CONSTRAINT audit_witnesses_pkey PRIMARY KEY (witness);

ALTER TABLE ONLY privault.behaviour
    ADD CONSTRAINT behaviour_pkey PRIMARY KEY (tenant_id, principal_id, hour);

ALTER TABLE ONLY privault.blind_index
    ADD CONSTRAINT blind_index_pkey PRIMARY KEY (tenant_id, digest, record_id);

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

ALTER TABLE ONLY privault.disclosures
    ADD CONSTRAINT disclosures_pkey PRIMARY KEY (tenant_id, subject_id, entry_id, record_id);

ALTER TABLE ONLY privault.disclosures_rest
    ADD CONSTRAINT disclosures_rest_pkey PRIMARY KEY (tenant_id, subject_id, entry_id, record_id);

ALTER TABLE ONLY privault.erasing
    ADD CONSTRAINT erasing_pkey PRIMARY KEY (tenant_id, subject_id);

ALTER TABLE ONLY privault.erasure_recipients
    ADD CONSTRAINT erasure_recipients_pkey PRIMARY KEY (tenant_id, erasure_id, webhook_id);

ALTER TABLE ONLY privault.erasure_references
    ADD CONSTRAINT erasure_references_pkey PRIMARY KEY (tenant_id, digest, erasure_id);

ALTER TABLE ONLY privault.erasures
    ADD CONSTRAINT erasures_pkey PRIMARY KEY (tenant_id, erasure_id);

ALTER TABLE ONLY privault.governance
    ADD CONSTRAINT governance_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY privault.holds
    ADD CONSTRAINT holds_pkey PRIMARY KEY (tenant_id, hold_id);

ALTER TABLE ONLY privault.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (tenant_id, digest);

ALTER TABLE ONLY privault.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (tenant_id, job_id);

ALTER TABLE ONLY privault.key_generations
    ADD CONSTRAINT key_generations_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY privault.ledger_applied
    ADD CONSTRAINT ledger_applied_pkey PRIMARY KEY (tenant_id, seq);

ALTER TABLE ONLY privault.ledger
    ADD CONSTRAINT ledger_pkey PRIMARY KEY (one);

ALTER TABLE ONLY privault.packages
    ADD CONSTRAINT packages_pkey PRIMARY KEY (tenant_id, request_id);

ALTER TABLE ONLY privault.policies
    ADD CONSTRAINT policies_pkey PRIMARY KEY (tenant_id, name, version);

ALTER TABLE ONLY privault.principal_networks
    ADD CONSTRAINT principal_networks_pkey PRIMARY KEY (tenant_id, principal_id, network);

ALTER TABLE ONLY privault.principals
    ADD CONSTRAINT principals_name UNIQUE (tenant_id, name);

ALTER TABLE ONLY privault.principals
    ADD CONSTRAINT principals_pkey PRIMARY KEY (tenant_id, principal_id);

ALTER TABLE ONLY privault.purposes
    ADD CONSTRAINT purposes_pkey PRIMARY KEY (tenant_id, name);

ALTER TABLE ONLY privault.records
    ADD CONSTRAINT records_pkey PRIMARY KEY (tenant_id, record_id);

ALTER TABLE ONLY privault.request_events
    ADD CONSTRAINT request_events_pkey PRIMARY KEY (tenant_id, request_id, number);

ALTER TABLE ONLY privault.requests
    ADD CONSTRAINT requests_pkey PRIMARY KEY (tenant_id, request_id);

ALTER TABLE ONLY privault.retention_clocks
    ADD CONSTRAINT retention_clocks_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY privault.retention_items
    ADD CONSTRAINT retention_items_pkey PRIMARY KEY (tenant_id, plan_id, record_id);

ALTER TABLE ONLY privault.retention_plans
    ADD CONSTRAINT retention_plans_pkey PRIMARY KEY (tenant_id, plan_id);

ALTER TABLE ONLY privault.revoked_tokens
    ADD CONSTRAINT revoked_tokens_pkey PRIMARY KEY (tenant_id, digest);

ALTER TABLE ONLY privault.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY privault.subject_facts
    ADD CONSTRAINT subject_facts_pkey PRIMARY KEY (tenant_id, subject_id, kind, purpose);

ALTER TABLE ONLY privault.subject_history
    ADD CONSTRAINT subject_history_pkey PRIMARY KEY (tenant_id, subject_id, event_id);

ALTER TABLE ONLY privault.subject_links
    ADD CONSTRAINT subject_links_pkey PRIMARY KEY (tenant_id, link_id);

ALTER TABLE ONLY privault.subjects
    ADD CONSTRAINT subjects_pkey PRIMARY KEY (tenant_id, digest);

ALTER TABLE ONLY privault.suppressions
    ADD CONSTRAINT suppressions_pkey PRIMARY KEY (tenant_id, digest, suppression_id);

ALTER TABLE ONLY privault.sweeps
    ADD CONSTRAINT sweeps_pkey PRIMARY KEY (tenant_id, sweep_id);

ALTER TABLE ONLY privault.tenants
    ADD CONSTRAINT tenants_name_key UNIQUE (name);

ALTER TABLE ONLY privault.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (tenant_id);

ALTER TABLE ONLY privault.transforms
    ADD CONSTRAINT transforms_name UNIQUE (tenant_id, name);

ALTER TABLE ONLY privault.transforms
    ADD CONSTRAINT transforms_pkey PRIMARY KEY (tenant_id, transform_id);

ALTER TABLE ONLY privault.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (tenant_id, delivery_id);

ALTER TABLE ONLY privault.webhooks
    ADD CONSTRAINT webhooks_name UNIQUE (tenant_id, name);

ALTER TABLE ONLY privault.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (tenant_id, webhook_id);

ALTER TABLE ONLY river.river_job
    ADD CONSTRAINT river_job_pkey PRIMARY KEY (id);

ALTER TABLE ONLY river.river_leader
    ADD CONSTRAINT river_leader_pkey PRIMARY KEY (name);

ALTER TABLE ONLY river.river_migration
    ADD CONSTRAINT river_migration_pkey PRIMARY KEY (line, version);

ALTER TABLE ONLY river.river_notification
    ADD CONSTRAINT river_notification_pkey PRIMARY KEY (id);

ALTER TABLE ONLY river.river_queue
    ADD CONSTRAINT river_queue_pkey PRIMARY KEY (name);

CREATE UNIQUE INDEX alarms_once ON privault.alarms USING btree (tenant_id, principal_id, kind, hour, (
CASE
    WHEN (kind = 'key-leaked'::text) THEN credential_id
    ELSE tenant_id
END));

CREATE UNIQUE INDEX aliases_value ON privault.aliases USING btree (tenant_id, value_digest, generation) WHERE (value_digest IS NOT NULL);

CREATE INDEX audit_entries_xid ON ONLY privault.audit_entries USING btree (xid);

CREATE INDEX audit_entries_rest_xid_idx ON privault.audit_entries_rest USING btree (xid);

CREATE UNIQUE INDEX blind_index_sole ON privault.blind_index USING btree (tenant_id, digest) WHERE sole;

CREATE INDEX erasures_deferred ON privault.erasures USING btree (tenant_id, erasure_id) WHERE (state = 'deferred'::text);

CREATE INDEX erasures_digest ON privault.erasures USING btree (tenant_id, digest, erasure_id);

CREATE INDEX holds_living ON privault.holds USING btree (tenant_id) WHERE (released_at IS NULL);

CREATE INDEX idempotency_keys_age ON privault.idempotency_keys USING btree (tenant_id, created_at);

CREATE INDEX jobs_finished ON privault.jobs USING btree (tenant_id, finished_at) WHERE (finished_at IS NOT NULL);

CREATE UNIQUE INDEX jobs_once ON privault.jobs USING btree (tenant_id, kind, params) WHERE (finished_at IS NULL);

CREATE INDEX records_due ON privault.records USING btree (tenant_id, collection_id, COALESCE(due_at, expires_at), record_id) WHERE ((due_at IS NOT NULL) OR (expires_at IS NOT NULL));

CREATE INDEX records_subject ON privault.records USING btree (tenant_id, subject_id, record_id) WHERE (subject_id IS NOT NULL);

CREATE INDEX requests_closed ON privault.requests USING btree (tenant_id, closed_at) WHERE (closed_at IS NOT NULL);

CREATE INDEX requests_deferred ON privault.requests USING btree (tenant_id, erasure_id) WHERE (state = 'deferred'::text);

CREATE INDEX requests_digest ON privault.requests USING btree (tenant_id, digest, request_id);

CREATE INDEX requests_due ON privault.requests USING btree (tenant_id, due_at) WHERE (closed_at IS NULL);

CREATE INDEX requests_received ON privault.requests USING btree (tenant_id, regime, received_at);

CREATE UNIQUE INDEX subject_links_merged ON privault.subject_links USING btree (tenant_id, merged_id) WHERE (merged_id IS NOT NULL);

CREATE INDEX subject_links_subject ON privault.subject_links USING btree (tenant_id, subject_id, link_id);

CREATE INDEX subjects_person ON privault.subjects USING btree (tenant_id, subject_id);

CREATE INDEX suppressions_id ON privault.suppressions USING btree (tenant_id, suppression_id);

CREATE INDEX sweeps_open ON privault.sweeps USING btree (tenant_id) WHERE (finished_at IS NULL);

CREATE INDEX webhook_deliveries_due ON privault.webhook_deliveries USING btree (tenant_id, webhook_id, next_at) WHERE (state = 'pending'::text);

CREATE INDEX webhook_deliveries_erasure ON privault.webhook_deliveries USING btree (tenant_id, erasure_id, webhook_id) WHERE (erasure_id IS NOT NULL);

CREATE INDEX webhook_deliveries_leased ON privault.webhook_deliveries USING btree (tenant_id, webhook_id, leased_until) WHERE ((state = 'pending'::text) AND (leased_until IS NOT NULL));

CREATE INDEX webhook_deliveries_of ON privault.webhook_deliveries USING btree (tenant_id, webhook_id, delivery_id);

CREATE INDEX webhook_deliveries_subject ON privault.webhook_deliveries USING btree (tenant_id, subject_id) WHERE (subject_id IS NOT NULL);

CREATE INDEX river_job_args_index ON river.river_job USING gin (args);

CREATE INDEX river_job_kind ON river.river_job USING btree (kind);

CREATE INDEX river_job_metadata_index ON river.river_job USING gin (metadata);

CREATE INDEX river_job_prioritized_fetching_index ON river.river_job USING btree (state, queue, priority, scheduled_at, id);

CREATE INDEX river_job_state_and_finalized_at_index ON river.river_job USING btree (state, finalized_at) WHERE (finalized_at IS NOT NULL);

CREATE UNIQUE INDEX river_job_unique_idx ON river.river_job USING btree (unique_key) WHERE ((unique_key IS NOT NULL) AND (unique_states IS NOT NULL) AND river.river_job_state_in_bitmask(unique_states, state));

CREATE INDEX river_notification_created_at_idx ON river.river_notification USING btree (created_at);

CREATE INDEX river_notification_topic_id_idx ON river.river_notification USING btree (topic, id);

ALTER INDEX privault.audit_entries_pkey ATTACH PARTITION privault.audit_entries_rest_pkey;

ALTER INDEX privault.audit_entries_xid ATTACH PARTITION privault.audit_entries_rest_xid_idx;

ALTER INDEX privault.disclosures_pkey ATTACH PARTITION privault.disclosures_rest_pkey;

CREATE TRIGGER keep_held AFTER DELETE ON privault.records REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION privault.keep_held();

ALTER TABLE ONLY privault.credentials
    ADD CONSTRAINT credentials_tenant_id_principal_id_fkey FOREIGN KEY (tenant_id, principal_id) REFERENCES privault.principals(tenant_id, principal_id);

ALTER TABLE ONLY privault.packages
    ADD CONSTRAINT packages_tenant_id_request_id_fkey FOREIGN KEY (tenant_id, request_id) REFERENCES privault.requests(tenant_id, request_id) ON DELETE CASCADE;

ALTER TABLE ONLY privault.request_events
    ADD CONSTRAINT request_events_tenant_id_request_id_fkey FOREIGN KEY (tenant_id, request_id) REFERENCES privault.requests(tenant_id, request_id) ON DELETE CASCADE;

ALTER TABLE keystore.data_keys ENABLE ROW LEVEL SECURITY;

CREATE POLICY deployment ON keystore.ledger USING ((( SELECT keystore.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

CREATE POLICY deployment ON keystore.ledger_applied USING ((( SELECT keystore.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

ALTER TABLE keystore.key_uses ENABLE ROW LEVEL SECURITY;

ALTER TABLE keystore.key_versions ENABLE ROW LEVEL SECURITY;

ALTER TABLE keystore.ledger ENABLE ROW LEVEL SECURITY;

ALTER TABLE keystore.ledger_applied ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON keystore.data_keys USING ((tenant_id = ( SELECT keystore.tenant() AS tenant)));

CREATE POLICY tenant ON keystore.key_uses USING ((tenant_id = ( SELECT keystore.tenant() AS tenant)));

CREATE POLICY tenant ON keystore.key_versions USING ((tenant_id = ( SELECT keystore.tenant() AS tenant)));

CREATE POLICY tenant ON keystore.ledger_applied USING ((tenant_id = ( SELECT keystore.tenant() AS tenant)));

CREATE POLICY tenant ON keystore.tenant_keys USING ((tenant_id = ( SELECT keystore.tenant() AS tenant)));

CREATE POLICY tenant ON keystore.tenant_roots USING ((tenant_id = ( SELECT keystore.tenant() AS tenant)));

ALTER TABLE keystore.tenant_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE keystore.tenant_roots ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.alarms ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.alias_spaces ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.aliases ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.audit_entries ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.audit_entries_rest ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.audit_head ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.audit_leaves ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.audit_nodes ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.audit_witnesses ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.behaviour ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.blind_index ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.collections ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.credentials ENABLE ROW LEVEL SECURITY;

CREATE POLICY deployment ON privault.audit_entries FOR SELECT USING ((( SELECT privault.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

CREATE POLICY deployment ON privault.audit_head USING ((( SELECT privault.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

CREATE POLICY deployment ON privault.audit_leaves USING ((( SELECT privault.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

CREATE POLICY deployment ON privault.audit_nodes USING ((( SELECT privault.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

CREATE POLICY deployment ON privault.audit_witnesses USING ((( SELECT privault.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

CREATE POLICY deployment ON privault.ledger USING ((( SELECT privault.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

CREATE POLICY deployment ON privault.ledger_applied USING ((( SELECT privault.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

CREATE POLICY deployment ON privault.tenants FOR SELECT USING ((( SELECT privault.tenant() AS tenant) = '00000000-0000-0000-0000-000000000000'::uuid));

ALTER TABLE privault.disclosures ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.disclosures_rest ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.erasing ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.erasure_recipients ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.erasure_references ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.erasures ENABLE ROW LEVEL SECURITY;

CREATE POLICY finished ON privault.jobs AS RESTRICTIVE FOR DELETE USING ((finished_at IS NOT NULL));

ALTER TABLE privault.governance ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.holds ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.idempotency_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.jobs ENABLE ROW LEVEL SECURITY;

CREATE POLICY kept ON privault.requests AS RESTRICTIVE FOR DELETE USING ((closed_at < (now() -
CASE regime
    WHEN 'hipaa'::text THEN '6 years'::interval
    ELSE '2 years'::interval
END)));

ALTER TABLE privault.key_generations ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.ledger ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.ledger_applied ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.packages ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.policies ENABLE ROW LEVEL SECURITY;

CREATE POLICY presented ON privault.credentials FOR SELECT USING ((digest = ( SELECT privault.presented() AS presented)));

ALTER TABLE privault.principal_networks ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.principals ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.purposes ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.records ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.request_events ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.requests ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.retention_clocks ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.retention_items ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.retention_plans ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.revoked_tokens ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.subject_facts ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.subject_history ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.subject_links ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.subjects ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.suppressions ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.sweeps ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON privault.alarms USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.alias_spaces USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.aliases USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.audit_entries USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.audit_leaves FOR SELECT USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.behaviour USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.blind_index USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.collections USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.credentials USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.disclosures USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.erasing USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.erasure_recipients USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.erasure_references USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.erasures USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.governance USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.holds USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.idempotency_keys USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.jobs USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.key_generations USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.ledger_applied USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.packages USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.policies USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.principal_networks USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.principals USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.purposes USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.records USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.request_events USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.requests USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.retention_clocks USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.retention_items USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.retention_plans USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.revoked_tokens USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.subject_facts USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.subject_history USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.subject_links USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.subjects USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.suppressions USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.sweeps USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.tenants USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.transforms USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.webhook_deliveries USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

CREATE POLICY tenant ON privault.webhooks USING ((tenant_id = ( SELECT privault.tenant() AS tenant)));

ALTER TABLE privault.tenants ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.transforms ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.webhook_deliveries ENABLE ROW LEVEL SECURITY;

ALTER TABLE privault.webhooks ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA keystore TO privault_keystore;

GRANT USAGE ON SCHEMA privault TO privault_app;

GRANT USAGE ON SCHEMA river TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.records TO privault_app;

REVOKE ALL ON FUNCTION privault.make_audit_partitions(until timestamp with time zone) FROM PUBLIC;

GRANT ALL ON FUNCTION privault.make_audit_partitions(until timestamp with time zone) TO privault_app;

REVOKE ALL ON FUNCTION privault.prune_audit(before timestamp with time zone, dry boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION privault.raise_audit_xids() FROM PUBLIC;

GRANT ALL ON FUNCTION privault.raise_audit_xids() TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE keystore.data_keys TO privault_keystore;

GRANT SELECT,INSERT,UPDATE ON TABLE keystore.key_uses TO privault_keystore;

GRANT SELECT,INSERT,UPDATE ON TABLE keystore.key_versions TO privault_keystore;

GRANT SELECT,INSERT,UPDATE ON TABLE keystore.ledger TO privault_keystore;

GRANT SELECT,INSERT,DELETE ON TABLE keystore.ledger_applied TO privault_keystore;

GRANT SELECT,INSERT,UPDATE ON TABLE keystore.tenant_keys TO privault_keystore;

GRANT SELECT,INSERT,UPDATE ON TABLE keystore.tenant_roots TO privault_keystore;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.alarms TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.alias_spaces TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.aliases TO privault_app;

GRANT SELECT,INSERT ON TABLE privault.audit_entries TO privault_app;

GRANT SELECT,UPDATE ON TABLE privault.audit_head TO privault_app;

GRANT SELECT,INSERT ON TABLE privault.audit_leaves TO privault_app;

GRANT SELECT,INSERT ON TABLE privault.audit_nodes TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.audit_witnesses TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.behaviour TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.blind_index TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.collections TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.credentials TO privault_app;

GRANT SELECT ON TABLE privault.deployment TO privault_app;

GRANT SELECT,INSERT ON TABLE privault.disclosures TO privault_app;

GRANT SELECT,INSERT,DELETE ON TABLE privault.erasing TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.erasure_recipients TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.erasure_references TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.erasures TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.governance TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.holds TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.idempotency_keys TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.jobs TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.key_generations TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.ledger TO privault_app;

GRANT SELECT,INSERT,DELETE ON TABLE privault.ledger_applied TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.packages TO privault_app;

GRANT SELECT,INSERT ON TABLE privault.policies TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.principal_networks TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.principals TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.purposes TO privault_app;

GRANT SELECT,INSERT ON TABLE privault.request_events TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.requests TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.retention_clocks TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.retention_items TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.retention_plans TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.revoked_tokens TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.subject_facts TO privault_app;

GRANT SELECT,INSERT,DELETE ON TABLE privault.subject_history TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.subject_links TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.subjects TO privault_app;

GRANT SELECT,INSERT,DELETE ON TABLE privault.suppressions TO privault_app;

GRANT SELECT,INSERT,UPDATE ON TABLE privault.sweeps TO privault_app;

GRANT SELECT,INSERT ON TABLE privault.tenants TO privault_app;

GRANT SELECT,INSERT,DELETE ON TABLE privault.transforms TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.webhook_deliveries TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE privault.webhooks TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE river.river_job TO privault_app;

GRANT SELECT,USAGE ON SEQUENCE river.river_job_id_seq TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE river.river_leader TO privault_app;

GRANT SELECT ON TABLE river.river_migration TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE river.river_notification TO privault_app;

GRANT SELECT,USAGE ON SEQUENCE river.river_notification_id_seq TO privault_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE river.river_queue TO privault_app;

