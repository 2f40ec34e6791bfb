alter table privault.sweeps drop column weighed;
