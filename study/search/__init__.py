"""A search's journal, samplers and pruners: Optuna without Ray."""
