alter table privault.records drop column digests;
drop table privault.alias_spaces, privault.aliases, privault.blind_index;
