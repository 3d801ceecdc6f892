"""Time kernels: GPU kernel time of each operation on the shapes that serving sees."""
