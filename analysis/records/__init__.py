"""The study folder from the reader's side: its files as typed tables, one row a trial, and the metrics made of them."""
