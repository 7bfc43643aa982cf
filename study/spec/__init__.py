"""What is asked for: grid files, search spaces, and the specification of a study. Imports nothing of study's other folders."""
