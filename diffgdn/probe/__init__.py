"""Asks of a target, feature by feature, what it supports."""
