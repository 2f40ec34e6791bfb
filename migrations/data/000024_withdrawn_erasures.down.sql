delete from privault.erasures where state = 'withdrawn';
alter table privault.erasures
  drop constraint erasures_state_check,
  drop constraint erasures_check,
  add constraint erasures_state_check check (state in ('deferred', 'erased', 'purged')),
  add constraint erasures_check check ((state = 'deferred') = (erased_at is null)),
  drop column direct;
