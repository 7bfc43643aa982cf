"""Everything a trial leaves on disk: its columns, tables, checkpoints and state, and how they are written and read."""
