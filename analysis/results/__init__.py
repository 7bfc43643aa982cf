"""What a table of results is, and how its numbers are written down."""
