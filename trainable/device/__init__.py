"""Does this device train as it should? Asked before it does, in processes of their own."""
