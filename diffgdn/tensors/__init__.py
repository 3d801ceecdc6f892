"""From a case to memory: its tensors, poison around them, one watched allocation."""
