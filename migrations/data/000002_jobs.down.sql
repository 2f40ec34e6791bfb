drop table privault.jobs;
drop schema river cascade;
