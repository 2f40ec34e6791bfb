alter table privault.erasures drop scope, drop retained;
