drop table privault.erasing, privault.erasures;
drop trigger keep_held on privault.records;
drop function privault.keep_held();
drop function privault.held(privault.records, timestamptz);
drop table privault.holds;
alter table privault.subjects drop constraint subjects_id;
drop index privault.records_subject;
