"""Measure how good the verdicts are: by planted faults, and by the smallest error that is found."""
