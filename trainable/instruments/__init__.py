"""Instruments measure a quantity of training without changing it; one file per quantity, called explicitly by the loop."""
