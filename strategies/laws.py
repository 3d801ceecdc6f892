"""Draws laws of the values and gates of a case, and edits of single elements.

Numbers only: `diffgdn.tensors.inputs` makes the tensors.
"""

from __future__ import annotations

import math

from hypothesis import strategies as st

from diffgdn.cases.case import Edit, Gates, Values
from diffgdn.cases.operations import Operation
from diffgdn.cases.promises import Promises
from diffgdn.strategies import inside
from diffgdn.strategies.batch_layout import Batch, among, rarely, whole
from diffgdn.strategies.menu import Build

# Repeated to be drawn more often; the simplest first.
GATES = (
    "zero",
    "constant",
    "uniform",
    "mixed",
    "alternating",
    "jump",
    "jump",
    "underflow",
    "model",
    "huge",
    "model",
    "checkpoint",
    "extreme",
    "exact",
)
AT_THRESHOLD = "threshold"  # raw gates at a threshold of softplus, to the bit, and on either side of it
STRENGTHS = (1.0, 1.0, 0.125, 0.0078125, 4.0)
BETAS = ("one", "half", "zero", "uniform", "near_one", "near_one", "uniform", "exact", "two")
BETAS_RAW = BETAS[:-1]  # no sigmoid is 2
BOUNDS = (-5.0, -1.0, -0.125, -20.0)  # -5 is what published models use
VALUES = ("ones", "uniform", "normal", "parallel", "spiky", "zero_rows", "normal", "parallel")
# Powers of two: a product with one is exact. 0.0 is no default, though it is false.
SCALES = (None, None, None, 1.0, 0.5, 0.0625, 2.0) * 4 + (0.0,)
SEEDS = 999
MAX_EDITS = 3

# Powers of two that values are multiplied by. fp16 ends at 65504 and has few bits below 2**-14: values there
# keep to where neither an operand nor a result of a correct kernel gets near either end.
EXPONENTS_HALF = {"v": 3, "q": 3}
EXPONENTS = {"v": 20, "q": 12}

# Values of single elements. Keys stay of length about one, or the recurrence itself explodes; a positive log
# decay is nobody's promise.
EDITS = {
    "q": (0.0, 1.0, -4.0, 2.0**-8),
    "k": (0.0, 1.0, -0.5, 2.0**-8),
    "v": (0.0, 1.0, -8.0, 2.0**-8),
    "g": (0.0, -1.0, -64.0, -(2.0**-8)),
}


# In each of these all is drawn, whether it is needed or not: a case that takes fewer choices would pass for
# simpler.


def can_be_exact(build: Build, batch: Batch, own: Promises) -> bool:
    """Return whether a case may leave nothing to round: a sequence with tokens has a state to read, and the
    factor of q can be a power of two.
    """
    if "given" not in own.scale and not _is_power_of_four(build.K):
        return False
    return build.can_be_exact and any(
        length > 0 and slot >= 0
        for length, slot in zip(batch.lens, batch.pool.indices or [0] * len(batch.lens), strict=True)
    )


def draw_gates(
    draw: st.DrawFn, operation: Operation, build: Build, longest: int, exact: bool, own: Promises
) -> Gates:
    """Draw the laws of g and beta. longest: tokens of the longest sequence, within which a jump lies.

    exact: laws under which every number of the case can be exact. own: what is promised of the operation.
    """
    strength, laws = draw(among(*STRENGTHS)), list(GATES)
    if operation.is_chunked:  # near the boundary of a chunk, whatever the size of chunks
        chunk = max(0, min(draw(whole(0, 3)), (longest - 1) // build.chunk_size))
        at = chunk * build.chunk_size + draw(among(0, -1, 1))
        at = build.chunk_size - 1 if at < 0 else at
        laws += ["jump"] * (4 * (longest > build.chunk_size))
    else:
        at = draw(whole(0, max(0, longest - 1)))
    laws += ["extreme"] * (2 * build.bounded)  # whose A_log overflows: 0 in columns past K is to stay 0
    at, law = max(0, min(at, longest - 1)), draw(among(*laws))
    raw = operation.raw_gates or build.raw or build.operands.beta == "raw"
    beta = draw(among(*(BETAS_RAW if raw else BETAS)))
    bound = draw(among(*inside.bounds(own, BOUNDS)))
    if exact:
        law = "zero" if law == "zero" or build.bounded else "exact"  # a bounded gate is never below its bound
        beta = beta if beta in ("one", "zero") else "exact"
    elif not build.operands.plain_softplus:
        law, strength = AT_THRESHOLD, 1.0
    return Gates(
        law=law,
        strength=1.0 if law in ("zero", "exact") else strength,
        at=at if law == "jump" else 0,
        beta=beta,
        dtype=build.gate_dtype,
        lower_bound=bound if build.bounded else None,
        raw=build.raw,
    )


def draw_values(draw: st.DrawFn, build: Build, exact: bool) -> Values:
    """Draw the laws of q, k, v and the initial state. exact: those under which all numbers can be exact."""
    law, seed = draw(among(*VALUES)), draw(whole(0, SEEDS))
    state = draw(among("law", "law", "law", "zero"))
    dtypes = (build.dtype, build.state_dtype, build.operands.k, build.operands.v)
    limits = EXPONENTS_HALF if "float16" in dtypes else EXPONENTS
    scaled = {name: (draw(rarely(4)), draw(whole(-limits[name], limits[name]))) for name in "vq"}
    v, q = (exponent if wanted and not exact else 0 for wanted, exponent in scaled.values())
    return Values("exact" if exact else law, seed, v, q, state if build.given else "none")


def _is_power_of_four(K: int) -> bool:
    return K & (K - 1) == 0 and math.isqrt(K) ** 2 == K


def draw_scale(draw: st.DrawFn, K: int, exact: bool, own: Promises) -> float | None:
    """Draw the factor of q: None for K**-0.5, or a power of two.

    exact: a power of two, which K**-0.5 is if K is a power of four.
    """
    scale = draw(among(*inside.scales(own, SCALES)))
    return 1.0 if scale is None and exact and not _is_power_of_four(K) else scale


def draw_edits(draw: st.DrawFn, sizes: dict[str, int]) -> tuple[Edit, ...]:
    """Draw, once in seven times, one to three elements set by hand; else none.

    sizes: elements of each tensor that may be edited.
    """
    wanted = draw(rarely(7))
    names = [name for name, size in sizes.items() if size > 0]
    if not wanted or not names:
        return ()
    one = [
        st.builds(Edit, st.just(name), st.integers(0, sizes[name] - 1), st.sampled_from(EDITS[name]))
        for name in names
    ]
    found = draw(st.lists(st.one_of(one), min_size=1, max_size=MAX_EDITS))
    return tuple({(edit.tensor, edit.position): edit for edit in found}.values())
