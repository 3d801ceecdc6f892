"""Tiny Triton kernels, written as people write them, with what an H100 makes of them."""
