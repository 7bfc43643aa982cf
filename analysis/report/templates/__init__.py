"""The templates of the report page."""
