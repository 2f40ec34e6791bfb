drop index privault.jobs_finished;
drop policy finished on privault.jobs;
revoke delete on privault.jobs from privault_app;
