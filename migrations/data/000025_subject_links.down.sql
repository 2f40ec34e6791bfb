do $$
declare
  was constant text := 'd.subject_id = h.subject_id';
  now constant text := 'd.subject_id in (select h.subject_id union all
            select l.merged_id from privault.subject_links l where l.tenant_id = whose and l.subject_id = h.subject_id)';
begin
  execute replace(pg_get_functiondef('privault.prune_audit(timestamptz, boolean)'::regprocedure), now, was);
end $$;
drop table privault.erasure_references;
drop table privault.subject_links;
-- Fails where persons have several references: the version before knows nothing of them.
alter table privault.subjects add constraint subjects_id unique (tenant_id, subject_id);
drop index privault.subjects_person;
alter table privault.subjects drop column link_id;
