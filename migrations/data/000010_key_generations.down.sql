drop table privault.key_generations;
