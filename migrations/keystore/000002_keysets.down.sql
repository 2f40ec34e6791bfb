delete from keystore.tenant_keys where name not in ('wrap', 'token', 'pseudonym', 'credential');
alter table keystore.tenant_keys drop constraint tenant_keys_name_check;
alter table keystore.tenant_keys add constraint tenant_keys_name_check
  check (name in ('wrap', 'token', 'pseudonym', 'credential'));
