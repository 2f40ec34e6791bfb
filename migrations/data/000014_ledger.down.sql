alter table privault.holds drop constraint holds_reference;
alter table privault.holds add constraint holds_check1 check ((subject_id is null) = (reference is null)) not valid;
drop table privault.ledger_applied;
drop table privault.ledger;
