drop table keystore.ledger_applied;
drop table keystore.ledger;
