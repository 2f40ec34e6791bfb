-- When nothing was left that older keys of the keyset had made, and when a key was taken out of use, and destroyed.
alter table keystore.key_versions
  add column settled_at   timestamptz,
  add column retired_at   timestamptz,
  add column destroyed_at timestamptz;
grant update on keystore.key_versions to privault_keystore;
