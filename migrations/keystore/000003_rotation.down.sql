revoke update on keystore.tenant_roots, keystore.tenant_keys from privault_keystore;
drop table keystore.key_versions;
alter table keystore.tenant_keys drop column version;
