"""The limit on an error. Imports no torch: reports show it."""

MAX_SIGMAS = 10.0  # that an error may come to; docs/calibration.md has the distributions that it rests on
