drop table privault.suppressions;
