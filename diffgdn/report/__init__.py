"""Listeners: what a campaign's events look like on a screen and in a file."""
