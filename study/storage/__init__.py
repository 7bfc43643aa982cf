"""Where studies live: folders, shared folders and URLs, with their locks."""
