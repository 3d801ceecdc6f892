"""Time kernels: how long each operation takes on the shapes that serving sees, beside what the GPU allows."""
