"""What a search found: Optuna's journal joined with the records of the searched trials, and what follows from both."""
