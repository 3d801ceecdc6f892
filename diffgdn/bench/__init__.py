"""How fast kernels are: GPU kernel time of each operation on the shapes that serving sees."""
