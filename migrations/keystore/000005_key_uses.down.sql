drop table keystore.key_uses;
