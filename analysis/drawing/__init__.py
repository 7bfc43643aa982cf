"""How figures look, what they are made of, and how they become files."""
