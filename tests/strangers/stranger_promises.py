"""What the authors of the kernels beside this file would promise, where they would promise the same.

They take compact tensors, but for slots of a pool at any distance, and operands as models have them. What one
of them takes beyond that, it says itself.
"""

# A stride of an axis of one element is never used. Of cu_seqlens there are two elements at least.
COMPACT = (
    "compact",
    *(f"lying {kind}" for kind in ("tokens", "outputs", "weights", "indices", "trees", "states", "buffers")),
)
# Of a launcher that makes q, k, v and gates contiguous, so that no stride of theirs matters.
COPIED = tuple(f"{form} tokens" for form in ("gapped", "wide", "nested", "far"))
# dt_bias is loaded as fp32 whatever it is; it must be there.
DT_BIAS = ("float32", "float16", "bfloat16")

USUAL = {
    "strides": COMPACT,
    "A_log": ("float32",),
    "dt_bias": DT_BIAS,
    "softplus": False,
    "mixed_qkv": False,
    # No launcher makes the device of its arguments the current one.
    "execution": ("eager", "graph", "graph_stale", "graph_poisoned", "stream"),
}
