-- Which keysets a tenant has is the service's to know: it makes those that a tenant doesn't have yet.
alter table keystore.tenant_keys drop constraint tenant_keys_name_check;
alter table keystore.tenant_keys add constraint tenant_keys_name_check check (name ~ '^[a-z]{1,32}$');
