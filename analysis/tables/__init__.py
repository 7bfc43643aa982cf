"""The tables of a report, as data, and how they are written."""
