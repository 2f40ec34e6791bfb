drop table privault.audit_entries, privault.idempotency_keys, privault.records, privault.subjects,
  privault.collections, privault.credentials, privault.principals, privault.tenants, privault.deployment;
drop function privault.presented();
drop function privault.tenant();
