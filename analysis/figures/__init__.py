"""One file per figure: a function that computes typed data, and one that only draws it."""
