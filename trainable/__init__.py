"""One trial: train an instrumented ResNet18 and yield what was measured after every epoch. Knows no Ray, Optuna or W&B."""
