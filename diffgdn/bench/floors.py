"""Say how fast a call can be at best: the bytes that it must move, the products that it must form, and what
the GPU was measured to do of each.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffgdn.cases.case import Case
from diffgdn.cases.operand_options import dtype_of

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}  # of an element
# The chunks at which FLOPs are counted: those that the fastest released kernels take (FlashQLA and FlashInfer
# 64 for gdn, FlashKDA 16 for kda).
CHUNKS = {"gdn": 64, "kda": 16}


@dataclass(frozen=True)
class Limits:
    """What this GPU was measured to do at the start of a run.

    Attributes:
        copy_gb: GB/s that a copy moves, read and written bytes added.
        in_place_gb: GB/s that an update in place moves, read and written bytes added.
        matrix_tflops: TFLOP/s of a product of bf16 matrices of normal random numbers.
    """

    copy_gb: float
    in_place_gb: float
    matrix_tflops: float

    @property
    def bandwidth(self) -> float:
        """GB/s: the larger of the two, since a kernel may read and write as either does."""
        return max(self.copy_gb, self.in_place_gb)


@dataclass(frozen=True)
class Floor:
    """The least time of a call.

    Attributes:
        bytes: that must be moved; flops: of the products that must be formed.
        memory, matrix: microseconds that the two take at the limits.
    """

    bytes: int
    flops: int
    memory: float
    matrix: float

    @property
    def microseconds(self) -> float:
        """The longer of the two: they may go on at the same time."""
        return max(self.memory, self.matrix)

    @property
    def bound(self) -> str:
        """Which of the two is the longer, "memory" or "matrix"."""
        return "memory" if self.memory >= self.matrix else "matrix"


def token_bytes(case: Case) -> int:
    """Count the bytes of what comes in and goes out for each token, each once: q, k, v, gate and beta are
    read, and o, in the dtype of q, is written."""
    key = case.H * case.K
    value = case.HV * case.V
    gate = case.HV * case.K if case.operation.is_kda else case.HV
    decay, *beta = case.decay_and_beta
    each = key * (_size(case, "q") + _size(case, "k")) + value * (_size(case, "v") + _size(case, "q"))
    each += gate * _size(case, decay) + sum(case.HV * _size(case, name) for name in beta)
    return case.total * each


def state_bytes(case: Case) -> int:
    """Count the bytes of states [HV, V, K] that must be read and written: one read for each sequence that
    has one, one write where the call leaves the state in place, and one write for each step that is kept."""
    one = case.HV * case.V * case.K * BYTES[case.pool.dtype]
    reads = len(case.stored) if case.values.state != "none" else 0
    writes = len(case.stored) if case.writes_state else 0
    return one * (reads + writes + len(case.kept))


def moved_bytes(case: Case) -> int:
    """Count all bytes that a call must move; index tables and the few numbers of a head are left out."""
    return token_bytes(case) + state_bytes(case)


def flops(case: Case) -> int:
    """Count the FLOPs of the products that a call must form.

    For each token and value head the state is read by k and by q and has v k^T added: 6 K V. A chunked call
    forms the products inside its chunks of C tokens too (k k^T and q k^T, the triangular system, and what
    these are multiplied by): 8 C K. Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2024, section 3.3,
    has the products; C is that of CHUNKS.
    """
    each = 6 * case.K * case.V
    if case.operation.is_chunked:
        each += 8 * CHUNKS[case.op.partition(".")[0]] * case.K
    return case.total * case.HV * each


def floor(moved: int, formed: int, limits: Limits) -> Floor:
    """Say how long it takes at best to move some bytes and to form products of some FLOPs."""
    return Floor(moved, formed, moved / (limits.bandwidth * 1e3), formed / (limits.matrix_tflops * 1e6))


def _size(case: Case, name: str) -> int:
    """Bytes of an element of an operand."""
    return BYTES[dtype_of(case, name)]
