-- An erasure that a hold has deferred is withdrawn when the request for it is denied or taken back; not one that was asked for without a request,
-- be it once. Of those that are there nobody knows.
alter table privault.erasures add direct boolean not null default true;
alter table privault.erasures
  drop constraint erasures_state_check,
  drop constraint erasures_check,
  add constraint erasures_state_check check (state in ('deferred', 'withdrawn', 'erased', 'purged')),
  add constraint erasures_check check ((state in ('deferred', 'withdrawn')) = (erased_at is null));
