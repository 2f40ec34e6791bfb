-- A person's jurisdiction is one more fact, so that policies see it with no more to read. Rows from before have none.
alter table privault.subject_facts add column jurisdiction text not null default '';
alter table privault.subject_facts
  drop constraint subject_facts_kind_check,
  drop constraint subject_facts_check,
  add constraint subject_facts_kind_check check (kind in ('consent', 'objection', 'restriction', 'jurisdiction')),
  add constraint subject_facts_check check ((kind in ('restriction', 'jurisdiction')) = (purpose = '')),
  add constraint subject_facts_jurisdiction_check check ((kind = 'jurisdiction') = (jurisdiction <> ''));
