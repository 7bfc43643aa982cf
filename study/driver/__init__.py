"""What drives trials: one Ray Tune experiment for each invocation, with its callbacks, progress and interruption."""
