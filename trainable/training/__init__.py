"""How a network is trained: the loop, its optimizer and learning rate, what runs the steps, and where branches begin."""
