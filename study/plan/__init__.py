"""What a study will cost and what it runs on, before anything runs."""
