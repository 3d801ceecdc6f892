"""Bugs that shipped elsewhere, put back into copies of the kernels, and what a campaign makes of them."""
