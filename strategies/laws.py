"""Laws of the values and gates of a case, and edits of single elements. Numbers only: `diffgdn.inputs` makes
the tensors."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from diffgdn.case import Edit, Gates, Values
from diffgdn.operations import Operation
from diffgdn.strategies.batch import among, rarely, snapped, whole
from diffgdn.strategies.menu import Build

# Repeated to be drawn more often; the simplest first.
GATES = (
    "zero",
    "constant",
    "uniform",
    "mixed",
    "alternating",
    "jump",
    "underflow",
    "model",
    "huge",
    "model",
    "exact",
)
STRENGTHS = (1.0, 1.0, 0.125, 0.0078125, 4.0)
BETAS = ("one", "half", "zero", "uniform", "near_one", "near_one", "uniform", "exact", "two")
BETAS_RAW = BETAS[:-1]  # no sigmoid is 2
BETAS_EXACT = ("one", "zero", "exact", "exact")
BOUNDS = (-5.0, -5.0, -1.0, -0.125, -20.0)  # -5 is what published models use
VALUES = ("ones", "uniform", "normal", "parallel", "spiky", "zero_rows", "normal", "parallel")
SCALES = (None, None, None, 1.0, 0.5, 0.0625, 2.0)  # powers of two: a product with one is exact
SCALES_EXACT = SCALES[3:]
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


def draw_gates(draw: st.DrawFn, operation: Operation, build: Build, longest: int, exact: bool) -> Gates:
    """Laws of g and beta. exact: those under which every number of the case can be exact."""
    law = draw(among("zero", "exact", "exact") if exact else among(*GATES))
    steady = law in ("zero", "exact")
    strength = 1.0 if steady else draw(among(*STRENGTHS))
    at = snapped(draw, max(0, longest - 1), build.chunk_size) if law == "jump" else 0
    betas = BETAS_EXACT if exact else BETAS_RAW if operation.raw_gates or build.raw else BETAS
    beta = draw(among(*betas))
    bound = draw(among(*BOUNDS)) if build.bounded else None
    return Gates(law, strength, at, beta, build.gate_dtype, bound, build.raw)


def draw_values(draw: st.DrawFn, build: Build, exact: bool) -> Values:
    """Laws of q, k, v and the initial state."""
    seed = draw(whole(0, SEEDS))
    state = draw(among("law", "law", "law", "zero")) if build.given else "none"
    if exact:
        return Values("exact", seed, state=state)
    law = draw(among(*VALUES))
    half = "float16" in (build.dtype, build.state_dtype)
    limits = EXPONENTS_HALF if half else EXPONENTS
    v, q = (draw(whole(-limits[name], limits[name])) if draw(rarely(4)) else 0 for name in "vq")
    return Values(law, seed, v, q, state)


def draw_scale(draw: st.DrawFn, K: int, exact: bool) -> float | None:
    """None for K**-0.5, or a power of two.

    exact: powers of two only, which K**-0.5 is where K is a power of four.
    """
    power_of_four = K & (K - 1) == 0 and math.isqrt(K) ** 2 == K
    return draw(among(*SCALES) if power_of_four or not exact else among(*SCALES_EXACT))


def draw_edits(draw: st.DrawFn, sizes: dict[str, int]) -> tuple[Edit, ...]:
    """At times one to three elements set by hand. sizes: of the tensors that may be edited."""
    names = [name for name, size in sizes.items() if size > 0]
    if not names or not draw(rarely(10)):
        return ()
    one = [
        st.builds(Edit, st.just(name), st.integers(0, sizes[name] - 1), st.sampled_from(EDITS[name]))
        for name in names
    ]
    found = draw(st.lists(st.one_of(one), min_size=1, max_size=MAX_EDITS))
    return tuple({(edit.tensor, edit.position): edit for edit in found}.values())
