revoke update on keystore.key_versions from privault_keystore;
alter table keystore.key_versions drop column settled_at, drop column retired_at, drop column destroyed_at;
