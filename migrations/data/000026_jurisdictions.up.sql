-- A person's jurisdiction is one more fact, so that policies see it with no more to read. Rows from before have none, and a replica of the version before, which may still
-- serve, merges a person's without: an empty one says nothing.
alter table privault.subject_facts add column jurisdiction text not null default '';
alter table privault.subject_facts
  drop constraint subject_facts_kind_check,
  drop constraint subject_facts_check,
  add constraint subject_facts_kind_check check (kind in ('consent', 'objection', 'restriction', 'jurisdiction')),
  add constraint subject_facts_check check ((kind in ('restriction', 'jurisdiction')) = (purpose = ''));
