-- What of a person an erasure takes, and what stays and why; null: all of the person.
alter table privault.erasures add scope jsonb, add retained jsonb;
