"""The shipped grids, as TOML."""
