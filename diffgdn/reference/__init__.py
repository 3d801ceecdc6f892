"""Say what is right, and how far a right kernel may stray from it: the oracle, the noise, the limit."""
