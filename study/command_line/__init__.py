"""What the commands share: options and exit statuses."""
