"""The bugs that are put back, by id: each shipped elsewhere, or has the shape of one that did."""

from __future__ import annotations

from diffgdn.mutants import chunk_bugs, launch_bugs, memory_bugs, numeric_bugs, recurrent_bugs
from diffgdn.mutants.mutant import Mutant

_FILES = (chunk_bugs, numeric_bugs, memory_bugs, recurrent_bugs, launch_bugs)

# Bugs that shipped and are not put back, with the reason. Shown in docs/bugs-found.md.
NOT_HERE: dict[str, str] = {
    "alignment-hint-too-early": (
        "FLA #142, attention-gym #368: a hint to the compiler, which the interpreter does not read; GPU only"
    ),
    "commit-into-freed-slot": (
        "SGLang #29449: of an engine's books, where kernels only get numbers of slots; planted in the serving"
        " loop by tests/quality/test_serving.py"
    ),
    "dot-race": (
        "FLA #953, #988, #1229: right source that a compiler turned wrong for some numbers of warps and"
        " stages; no edit puts it back"
    ),
    "dot-tf32": (
        "Triton #5895: allowing tf32 changes nothing in the interpreter, which multiplies in fp32; GPU only"
    ),
    "grid-axis-limit": (
        "FLA #1077: a GPU's limit of 65535 programs along an axis, which the interpreter does not have"
    ),
    "stale-graph-tail": "SGLang #32555: of a captured CUDA graph that is replayed; GPU only",
}

# Mutants that no campaign of a minute has been seen to find.
OPEN: dict[str, str] = {
    "cache-by-address": "found after 2670 cases (144 s), and not in 1729 (45 s)",
    "cache-by-identity": "put back, and not found in 1670 cases (60 s)",
    "compile-key-lacks-dtype": "put back, and not found in 2399 cases (60 s)",
}

# Every bug that was read of, in the order of reading: each is a mutant or has a reason above.
_NAMES = """
tail-exp-unmasked offdiag-rows-unmasked subst-past-end kkt-left-empty out-left-empty
pad-rows-last-chunk-only empty-seq-epilogue chunk-ids-wrong-source cumsum-ignores-chunks
chunk-size-hardcoded glast-wrong-row log-linear-gate-mix scale-loop-bound h-read-as-kv
clamp-breaks-cancel inf-times-zero-anchor mask-after-overflow split-exponent neumann-fp16 newton-too-few
gva-gate-not-repeated safe-gate-as-clamp wy-row-unwritten cache-by-address cache-by-identity
autotune-on-live-pool index-int32 grid-axis-limit dot-race pad-slot-unguarded-extend
pad-slot-unguarded-decode pad-slot-off-by-one pad-slot-clamped pool-copied ab-token-stride
qkv-assumed-compact default-buffer-aliased k-mask-missing delta-inside-branch stale-slot-state
output-aliases-v verify-index-minus-one verify-state-advanced ab-not-gathered tree-parent-chain
kda-gate-per-head state-in-input-dtype dot-tf32 boundary-state-final qk-scale-twice
softplus-no-linear-branch batch-stride-from-shape buffer-pitch-from-steps recording-disables-update
token-offset-int32 index-stride-ignored inner-pool-strides aux-dtype-rounded compile-key-lacks-dtype
stale-graph-tail tail-rows-over-next program-order-race key-heads-grid scale-from-v dt-bias-per-head
scratch-by-tokens uniform-verify-length split-truncated eps-on-mean max-not-sum inf-times-zero-gate
neumann-slow-decay alignment-hint-too-early snapshot-precision snapshot-wrong-chunk
snapshot-never-written commit-into-freed-slot rollback-after-two-drafts inverse-state-layout-of-segment
commit-one-too-many commit-path-as-chain commit-without-decay
"""
ROWS = tuple(_NAMES.split())

MUTANTS: dict[str, Mutant] = {mutant.id: mutant for file in _FILES for mutant in file.BUGS}
