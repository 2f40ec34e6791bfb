drop table privault.retention_clocks;
drop table privault.sweeps;
