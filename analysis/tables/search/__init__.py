"""The tables of a search."""
