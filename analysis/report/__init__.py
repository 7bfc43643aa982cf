"""The only writer of tables, figures and the page."""
