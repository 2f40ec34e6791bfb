-- Jobs that ended long ago are swept; one that hasn't ended can't be deleted.
grant delete on privault.jobs to privault_app;
create policy finished on privault.jobs as restrictive for delete using (finished_at is not null);
create index jobs_finished on privault.jobs (tenant_id, finished_at) where finished_at is not null;
