"""Studies as jobs of a running Ray cluster: submitting, watching, stopping and fetching them over its Jobs API."""
