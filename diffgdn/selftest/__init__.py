"""How good the verdicts are: planted faults, and the smallest error that is found."""
