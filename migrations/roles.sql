-- The group roles that the migrations grant to. Run once per cluster by a role that may create roles;
-- running it again changes nothing. `privault dev` and the tests run it themselves.
--
-- Give each login one job:
--   create role privault_migrator login password '…';           -- runs `privault migrate up`, owns the tables
--   grant create on database privault to privault_migrator;
--   create role vault_1 login password '…' in role privault_app, privault_keystore;   -- `privault serve`
-- With the keystore in a database of its own, the login there is in privault_keystore only, and the one for
-- the data in privault_app only.
do $$
declare
  wanted text;
begin
  foreach wanted in array array['privault_app', 'privault_keystore'] loop
    if not exists (select from pg_roles where rolname = wanted) then
      begin
        execute format('create role %I nologin', wanted);
      exception when duplicate_object or unique_violation then
        null; -- another session was quicker
      end;
    end if;
  end loop;
end $$;
