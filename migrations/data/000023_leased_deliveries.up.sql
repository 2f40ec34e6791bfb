-- Counts the attempts that are under way at an endpoint, without looking at all that waits for it.
create index webhook_deliveries_leased on privault.webhook_deliveries (tenant_id, webhook_id, leased_until)
  where state = 'pending' and leased_until is not null;
