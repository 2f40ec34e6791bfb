drop table keystore.data_keys, keystore.tenant_keys, keystore.tenant_roots;
drop function keystore.tenant();
