"""Published claims as data, and their check against a study: claims_file.py reads them, verdicts.py judges them."""
