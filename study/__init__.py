"""Many trials: studies as Ray Tune experiments. The only package that imports Ray."""
