drop table privault.subject_history, privault.subject_facts, privault.purposes, privault.policies, privault.governance;
