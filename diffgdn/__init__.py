"""Property-based differential testing for gated delta-rule attention kernels."""

__version__ = "0.1.0"
