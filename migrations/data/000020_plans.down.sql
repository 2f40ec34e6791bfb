alter table privault.sweeps drop column plan_id;
drop table privault.retention_items;
drop table privault.retention_plans;
