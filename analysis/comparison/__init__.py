"""What a study says about its cells: pairs, the best, effects of factors, and the answer in words. Draws and formats nothing."""
