alter table privault.erasures drop column completion;
drop table privault.erasure_recipients;
drop table privault.webhook_deliveries;
drop table privault.webhooks;
