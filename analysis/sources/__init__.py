"""Studies that come from elsewhere: pulled from a URL or from Weights and Biases, or several put side by side."""
