"""What is measured of a network and of its training: loss, gradients and weights, curvature, barriers, FLOPs, memory."""
