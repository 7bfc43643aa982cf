"""One trial: train an instrumented network and yield what was measured after every epoch. Knows no Ray, Optuna or W&B."""
