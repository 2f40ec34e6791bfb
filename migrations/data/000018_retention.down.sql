alter table privault.purposes drop column ends_at;
drop index privault.records_due;
alter table privault.records drop column generalised, drop column revealed_at, drop column due_at;
