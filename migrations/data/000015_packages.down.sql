drop table privault.packages;
