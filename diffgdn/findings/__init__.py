"""What is kept of a failure: the finding, the corpus that holds it, its script."""
