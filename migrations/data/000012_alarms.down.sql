drop table privault.alarms;
drop table privault.principal_networks;
drop table privault.behaviour;
