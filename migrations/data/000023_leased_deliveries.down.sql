drop index privault.webhook_deliveries_leased;
