"""The shipped claims, as TOML."""
