drop table privault.revoked_tokens;
alter table privault.credentials drop column networks, drop column last_used_at;
alter table privault.principals drop constraint principals_outsider, drop column authority, drop column subject, drop column disabled_at;
