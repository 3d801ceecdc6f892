"""Hold the limit on an error, counted in sigmas. Imports no torch, so that reports can show it."""

MAX_SIGMAS = 10.0  # that an error may come to; docs/calibration.md has the distributions that it rests on
