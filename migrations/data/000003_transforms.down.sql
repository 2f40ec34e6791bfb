drop table privault.transforms;
