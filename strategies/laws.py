"""Laws of the values and gates of a case, and edits of single elements. Numbers only: `diffgdn.inputs` makes
the tensors."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from diffgdn.case import Edit, Gates, Values
from diffgdn.operations import Operation
from diffgdn.strategies.batch import rarely, snapped
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
BOUNDS = (-5.0, -5.0, -1.0, -0.125, -20.0)  # -5 is what published models use
VALUES = ("ones", "uniform", "normal", "parallel", "spiky", "zero_rows", "normal", "parallel")
SCALES = (None, None, None, 1.0, 0.5, 0.0625, 2.0)  # powers of two: a product with one is exact
SEEDS = 999
MAX_EDITS = 3

# Powers of two that values are multiplied by. fp16 ends at 65504 and has few bits below 2**-14: values there
# keep to where neither an operand nor a result of a correct kernel gets near either end.
EXPONENTS_HALF = {"v": (-3, 3), "q": (-3, 3)}
EXPONENTS = {"v": (-20, 20), "q": (-12, 12)}


def gates(operation: Operation, build: Build, longest: int, exact: bool) -> st.SearchStrategy[Gates]:
    """Laws of g and beta. exact: those under which every number of the case can be exact."""
    raw = operation.raw_gates or build.raw
    possible = tuple(law for law in BETAS if not (raw and law == "two"))  # no sigmoid is 2
    betas = ("one", "zero", "exact", "exact") if exact else possible
    return st.builds(
        lambda law, strength, at, beta, bound: Gates(
            law=law,
            strength=1.0 if law in ("zero", "exact") else strength,
            at=at if law == "jump" else 0,
            beta=beta,
            dtype=build.gate_dtype,
            lower_bound=bound,
            raw=build.raw,
        ),
        law=st.sampled_from(("zero", "exact", "exact") if exact else GATES),
        strength=st.sampled_from(STRENGTHS),
        at=snapped(max(0, longest - 1), build.chunk_size),
        beta=st.sampled_from(betas),
        bound=st.sampled_from(BOUNDS) if build.bounded else st.none(),
    )


def values(build: Build, exact: bool) -> st.SearchStrategy[Values]:
    """Laws of q, k, v and the initial state."""
    half = "float16" in (build.dtype, build.state_dtype)
    limits = EXPONENTS_HALF if half else EXPONENTS
    if exact:
        limits = {"v": (0, 0), "q": (0, 0)}
    state = st.sampled_from(("law", "law", "law", "zero")) if build.given else st.just("none")

    def exponent(name: str) -> st.SearchStrategy[int]:
        return st.one_of(st.just(0), st.just(0), st.integers(*limits[name]))

    return st.builds(
        Values,
        law=st.just("exact") if exact else st.sampled_from(VALUES),
        seed=st.integers(0, SEEDS),
        v_exponent=exponent("v"),
        q_exponent=exponent("q"),
        state=state,
    )


def scales(K: int, exact: bool) -> st.SearchStrategy[float | None]:
    """None for K**-0.5, or a power of two. exact: powers of two only, which K**-0.5 is where K is a power of
    four."""
    power_of_four = K & (K - 1) == 0 and math.isqrt(K) ** 2 == K
    return st.sampled_from(tuple(s for s in SCALES if s is not None or power_of_four or not exact))


def edits(sizes: dict[str, int]) -> st.SearchStrategy[tuple[Edit, ...]]:
    """At times one to three elements set by hand. sizes: of the tensors that may be edited."""
    names = tuple(name for name, size in sizes.items() if size > 0)
    if not names:
        return st.just(())
    # Keys stay of length about one, or the recurrence itself explodes; a positive log decay is nobody's
    # promise.
    powers = {
        "q": (0.0, 1.0, -4.0, 2.0**-8),
        "k": (0.0, 1.0, -0.5, 2.0**-8),
        "v": (0.0, 1.0, -8.0, 2.0**-8),
        "g": (0.0, -1.0, -64.0, -(2.0**-8)),
    }

    def one(name: str) -> st.SearchStrategy[Edit]:
        return st.builds(
            Edit,
            tensor=st.just(name),
            position=st.integers(0, sizes[name] - 1),
            value=st.sampled_from(powers[name]),
        )

    def distinct(found: list[Edit]) -> tuple[Edit, ...]:
        return tuple({(edit.tensor, edit.position): edit for edit in found}.values())

    some = st.lists(st.one_of([one(name) for name in names]), min_size=1, max_size=MAX_EDITS).map(distinct)
    return rarely(10).flatmap(lambda wanted: some if wanted else st.just(()))
