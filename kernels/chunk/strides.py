"""Strides as the chunk kernels take them: runtime integers that the compiler knows multiples of.

A caller's stride may be any: tensors of a few elements reach past 2^31 where they are views of something
large. So kernels declare strides tl.int64. Within a chunk of a stage's own tensors, offsets stay below 2^31
and are formed in 32 bits.
"""

import triton
import triton.language as tl

UNIT_BYTES = 16  # the widest load
FAR = 2**24  # elements from one token to the next: 64 tokens of as many reach 2^30


@triton.jit
def chunk_and_head(i_ch, HV):
    """Return the chunk and the value head of the i_ch-th of chunks times HV heads, in 64 bits."""
    return (i_ch // HV).to(tl.int64), (i_ch % HV).to(tl.int64)


def in_units(*tensors):
    """Return strides of all but the last dimension, tensor by tensor, in units of UNIT elements; and UNIT.

    UNIT is 16 bytes' worth of elements where every stride is a multiple of it, every tensor starts on one
    (the kernel multiplies by the constant UNIT, which is how the compiler learns that wide loads are
    aligned), and a chunk's tokens are within 2^31 elements; else 1. tensors: [B, T, ...].
    """
    unit = UNIT_BYTES // tensors[0].element_size()
    strides = []
    for x in tensors:
        # The stride of an axis with one element is arbitrary and never used: 0 spoils no alignment.
        strides += [s if n > 1 else 0 for n, s in zip(x.shape[:-1], x.stride()[:-1], strict=True)]
        far = x.shape[1] > 1 and x.stride(1) >= FAR
        if x.element_size() * unit != UNIT_BYTES or x.data_ptr() % UNIT_BYTES or far:
            unit = 1
    if any(s % unit for s in strides):
        unit = 1
    return [s // unit for s in strides], unit
