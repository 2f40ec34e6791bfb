-- A principal may be somebody whom an outside authority vouches for: an issuer of access tokens, or a CA. Its id is
-- then computed from the two names, its roles come with each credential, and this row is what an auditor looks it up by.
alter table privault.principals
  add column authority   text,
  add column subject     text,
  add column disabled_at timestamptz,
  add constraint principals_outsider check ((authority is null) = (subject is null));

alter table privault.credentials
  add column networks     cidr[] not null default '{}', -- where the key may be used from; empty: anywhere
  add column last_used_at timestamptz;                  -- to the minute

-- Access tokens that are no longer good, by the digest of what names them, until they would have ended anyway.
create table privault.revoked_tokens (
  tenant_id  uuid not null,
  digest     bytea not null check (octet_length(digest) = 32),
  revoked_at timestamptz not null,
  expires_at timestamptz not null,
  primary key (tenant_id, digest)
);
alter table privault.revoked_tokens enable row level security;
alter table privault.revoked_tokens force row level security;
create policy tenant on privault.revoked_tokens using (tenant_id = (select privault.tenant()));
grant select, insert, update, delete on privault.revoked_tokens to privault_app;
