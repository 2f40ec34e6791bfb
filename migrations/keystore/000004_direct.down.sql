alter table keystore.data_keys drop constraint data_keys_wrapped_check;
alter table keystore.data_keys add constraint data_keys_wrapped_check check (octet_length(wrapped) between 32 and 512);
