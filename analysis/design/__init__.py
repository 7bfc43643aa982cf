"""What the design of a grid can tell apart, and the grid file that tells more."""
