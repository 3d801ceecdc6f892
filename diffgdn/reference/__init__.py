"""What is right, and how far a right kernel may stray from it."""
