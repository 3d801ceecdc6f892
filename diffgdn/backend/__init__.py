"""Choose where kernels run, before torch is imported; and repair Triton's interpreter."""
