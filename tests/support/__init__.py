"""What tests share: studies of known truth, clusters, servers and readers."""
