drop table privault.request_events;
drop table privault.requests;
