"""Where kernels run, chosen before torch is imported, and Triton's interpreter, repaired."""
