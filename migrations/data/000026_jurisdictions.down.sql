delete from privault.subject_facts where kind = 'jurisdiction';
alter table privault.subject_facts
  drop constraint subject_facts_check,
  drop constraint subject_facts_kind_check,
  add constraint subject_facts_kind_check check (kind in ('consent', 'objection', 'restriction')),
  add constraint subject_facts_check check ((kind = 'restriction') = (purpose = '')),
  drop column jurisdiction;
