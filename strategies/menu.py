"""What kernels are compiled for, apart from what only runs through them.

A GPU campaign waits for compilation, so there everything that a kernel specialises on comes from a `Menu`: a
few `Build`s an operation, drawn anew for each campaign from its seed. In the interpreter nothing is compiled
and every build is drawn freely.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from diffgdn.cases.operand_options import USUAL, Operands
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.strategies import inside, operand_forms
from diffgdn.strategies.state_builds import with_states

BACKENDS = ("interpret", "gpu")
MOST_DRAWS = 400  # of builds for one operation of a menu
PER_OPERATION = 6  # entries a menu: all operations together stay within 200 compiled kernels
STAGES = {"gdn": 3, "kda": 4}  # of an extend, each a kernel that is compiled for the build
TABLES = 6  # kernels that lay out chunks: shared by all builds of a chunk size and dtype of cu_seqlens
STATES = 64  # states (sequences * value heads) up to which a recurrent kernel has one tile, unless crowded
TILES = 3  # tiles that a crowded, not batch-invariant build may meet

# Head dimensions, repeated to be drawn more often; the first of the list is where shrinking ends.
SMALL = (16, 1, 2, 3, 4, 5, 7, 8, 12, 15, 17, 24, 31, 32, 33, 40, 48, 60, 64)
LARGE = (65, 96, 100, 128, 160, 255, 256, 128, 256)
DIMS = {
    "interpret": SMALL * 4 + LARGE,
    "gpu": (16, 128, 64, 128, 32, 128, 64, 256, 1, 8, 17, 33, 48, 60, 100, 128, 192, 255),
}
OTHER_DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Build:
    """What the kernels of one operation are compiled for. The defaults are the simplest of each.

    one: a dense batch has exactly one token a sequence (else at least two). steps: update
    keeps the state after each step, as verify always does. tree: parents are passed.
    bounded: kda's gate with a lower bound. odd_pitch: slots of the pool are not 16 bytes aligned. given: an
    initial state is passed. crowded: so many states that launchers may take another tile. lay: "even", or in
    every case "odd", arguments that are not 16 bytes aligned, or "rows", rows of states that lie apart.
    operands: those that are not the usual ones, on a GPU. states: options of where states come from and go
    to, of `state_options.COMPILED`. heads, config: H and HV, and the entry of a configuration list, of
    kernels that are compiled for them (`specialised`); None where each case draws its own.
    """

    K: int = 16
    V: int = 16
    dtype: str = "float32"
    gate_dtype: str = "float32"
    state_dtype: str = "float32"
    l2norm: bool = False
    chunk_size: int = 64
    raw: bool = False
    bounded: bool = False
    packed: bool = True
    one: bool = False
    steps: bool = False
    tree: bool = False
    view: str = "contiguous"
    odd_pitch: bool = False
    cu_dtype: str = "int32"
    index_dtype: str = "int32"
    given: bool = True
    inplace: bool = True
    boundary: bool = False
    final: bool = True
    batch_invariant: bool = False
    crowded: bool = False
    lay: str = "even"
    operands: Operands = USUAL
    states: tuple[str, ...] = ()
    heads: tuple[int, int] | None = None
    config: int | None = None

    @property
    def can_be_exact(self) -> bool:
        """Return whether a case may leave nothing to round: no normalisation, and a state to read."""
        return self.given and not self.l2norm

    def variants(self, op: str) -> int:
        """Return how many kernels this build makes the compiler compile, at most."""
        if OPERATIONS[op].is_chunked:
            return STAGES[OPERATIONS[op].family] + self.l2norm
        calls = 2 if OPERATIONS[op].commits else 1
        return calls * (TILES if self.crowded and not self.batch_invariant else 1)


def exactable(op: str, backend: str, menu: Menu | None, promises: Promises = EVERYTHING) -> dict[str, float]:
    """Return, by dtype, the share (0 to 1) of an operation's builds that can have exact cases."""
    if menu is None:
        table = options(op, backend, promises)
        share = 1.0
        for name, value in (("l2norm", False), ("given", True)):
            share *= table.get(name, (value,)).count(value) / len(table.get(name, (value,)))
        return dict.fromkeys(table["dtype"], share)
    found: dict[str, list[bool]] = {}
    for build in menu.entries(op):
        found.setdefault(build.dtype, []).append(build.can_be_exact)
    return {dtype: sum(able) / len(able) for dtype, able in found.items()}


def published(op: str) -> Build:
    """Return the build of published models: K = V = 128, bf16, l2norm inside, fp32 states and gates."""
    operation = OPERATIONS[op]
    raw = op == "kda.extend"  # elsewhere the operation leaves no choice
    bounded = operation.is_kda and (operation.raw_gates or raw)
    return Build(
        K=128,
        V=128,
        dtype="bfloat16",
        l2norm=True,
        raw=raw,
        bounded=bounded,
        crowded=True,
    )


def options(op: str, backend: str, promises: Promises = EVERYTHING) -> dict[str, tuple[Any, ...]]:
    """Return what each choice of a build is drawn from, simplest first, repeated to be drawn more often.

    `square` and `own_gates` are choices without a field: K = V, the larger; and gates in the dtype of q.
    promises: of the operation, within which all lies.
    """
    operation = OPERATIONS[op]
    kind = operation.kind
    flag, rare = (False, True), (False, False, False, True)
    table: dict[str, tuple[Any, ...]] = {
        # before K and V: where K is to be large, a larger K is simpler than a square with a larger V
        "square": (False, False, True) if backend == "interpret" else flag,
        "K": DIMS[backend],
        "V": DIMS[backend],
        "dtype": ("float32", "bfloat16", "float16", "bfloat16"),
        "own_gates": rare,
        "state_dtype": ("float32", "bfloat16", "float16", "float32"),
        "l2norm": (False, False, True),
        "view": ("contiguous", "packed", "gapped"),
        "batch_invariant": rare,
    }
    if backend == "gpu":
        table["crowded"] = (False,) * 9 + (True,)
        table["lay"] = ("even",) * 14 + ("odd",) + ("rows",) * (operation.has_pool or kind == "recurrent")
    if operation.is_kda and (operation.raw_gates or kind == "extend"):
        table["bounded"] = flag
    if kind == "extend":
        table["chunk_size"] = (16, 16, 16, 32, 64) if backend == "interpret" else (16, 64, 32, 64)
        table |= {"boundary": flag}
        if operation.is_kda:
            table["raw"] = flag
    if operation.has_pool:
        table |= {"odd_pitch": rare, "index_dtype": ("int32", "int64")}
    if kind in ("extend", "recurrent"):
        table |= {"given": (True,) * 7 + (False,), "final": (True, True, False)}
    if kind in ("extend", "update", "decode") or op == "kda.recurrent":
        table["inplace"] = (True, True, True, False)
    if kind == "update":
        table["steps"] = rare
    if kind == "update" or operation.drafts:
        table["tree"] = flag
    if not operation.single_token:
        table |= {"packed": (True, True, False), "one": (True, False, False), "cu_dtype": ("int32", "int64")}
    return inside.narrowed(op, table, promises)


def make(op: str, picks: dict[str, Any], promises: Promises = EVERYTHING) -> Build:
    """Return the build of these choices, with what does not apply left at its default."""
    picks = dict(inside.fitted(picks, promises))
    if picks.pop("square"):
        picks["K"] = picks["V"] = max(picks["K"], picks["V"])
    if picks.pop("own_gates"):
        picks["gate_dtype"] = picks["dtype"]
    if picks.get("packed", True):
        picks.pop("one", None)
    else:
        picks.pop("cu_dtype", None)
    if not picks.get("given", True):
        picks.pop("odd_pitch", None)
        picks.pop("inplace", None)
        if picks.get("lay") == "rows":
            picks.pop("lay")
    if op == "kda.extend" and not picks["raw"]:
        picks.pop("bounded")
    if OPERATIONS[op].kind == "update" and not picks["steps"]:
        picks.pop("tree")
    if picks.get("steps", False):
        picks.pop("inplace")
    return Build(**picks)


@cache
def builds(op: str, backend: str, promises: Promises = EVERYTHING) -> st.SearchStrategy[Build]:
    """Return the strategy of any build of an operation that its promises allow."""
    table = {name: st.sampled_from(values) for name, values in options(op, backend, promises).items()}
    return st.fixed_dictionaries(table).map(partial(make, op, promises=promises))


def _simplicity(build: Build) -> tuple[Any, ...]:
    """Return what builds are ordered by: departures from the simplest one, then the size of a state."""
    departures = sum(getattr(build, name) != getattr(Build(), name) for name in Build.__dataclass_fields__)
    return departures, build.K * build.V, repr(build)


def _balanced(found: set[Build], build: Build, size: int) -> bool:
    """Return whether a menu of this size stays varied with one more build.

    Half of it at least can have exact cases, one build of its dtype among them, and no more than one entry is
    without a state.
    """
    stateless = sum(not other.given for other in found)
    able = [other.dtype for other in found if other.can_be_exact]
    room = len(found) - len(able) < size // 2 and build.dtype in able
    return (build.can_be_exact or room) and (build.given or stateless == 0)


def promised(promises: Promises, op: str) -> Promises:
    """Return what is promised of an operation. Raises InvalidArgument if that leaves no case."""
    if not isinstance(promises, Promises):
        raise InvalidArgument(f"promises={promises!r:.80}: expected Promises")
    try:
        return promises.of(op)
    except ValueError as error:
        raise InvalidArgument(f"promises: {error}") from None


@dataclass(frozen=True)
class Menu:
    """A few builds an operation, simplest first."""

    seed: int
    backend: str
    builds: tuple[tuple[str, tuple[Build, ...]], ...]

    @classmethod
    def draw(
        cls,
        seed: int,
        operations: Iterable[str],
        backend: str = "gpu",
        per_operation: int = PER_OPERATION,
        promises: Promises = EVERYTHING,
    ) -> Menu:
        """Draw the menu of a campaign: the same seed gives the same builds.

        promises: of the target, within which all builds lie; where they leave few, there are fewer. The
        build of published models is one of them if it is promised. Raises InvalidArgument for an unknown
        backend or operation, for less than one build an operation, and for promises that leave no case.
        """
        if backend not in BACKENDS:
            raise InvalidArgument(f"backend={backend!r}: expected one of {', '.join(BACKENDS)}")
        if not isinstance(per_operation, int) or per_operation < 1:
            raise InvalidArgument(f"per_operation={per_operation!r}: expected a whole number of 1 or more")
        drawn = []
        for op in operations:
            if op not in OPERATIONS:
                raise InvalidArgument(f"operations: {op!r} is not one of {', '.join(OPERATIONS)}")
            own = promised(promises, op)
            rng = random.Random(f"{seed}/{op}")
            table = options(op, backend, own)
            names = tuple(options(op, backend))
            model = operand_forms.fitted_build(op, published(op), own)
            found = {model} if inside.takes_build(op, model, names, own) else set()
            for attempt in range(MOST_DRAWS):
                if len(found) >= per_operation:
                    break
                build = make(op, {name: rng.choice(values) for name, values in table.items()}, own)
                build = operand_forms.fitted_build(op, build, own)
                # Where little is promised there may be no balance, and fewer builds than are wanted.
                if not found or _balanced(found, build, per_operation) or attempt >= MOST_DRAWS // 2:
                    found.add(build)
            found = with_states(op, found, model, own, f"{seed}/{op}")
            varied = operand_forms.varied(op, sorted(found, key=_simplicity), seed, own)
            drawn.append((op, tuple(sorted(varied, key=_simplicity))))
        return cls(seed=seed, backend=backend, builds=tuple(drawn))

    def entries(self, op: str) -> tuple[Build, ...]:
        """Return the builds of an operation, simplest first.

        Raises InvalidArgument for one that is not on the menu.
        """
        for name, found in self.builds:
            if name == op:
                return found
        known = ", ".join(name for name, _ in self.builds)
        raise InvalidArgument(f"menu: it has no entries for {op!r}, only for {known or 'nothing'}")

    @property
    def variants(self) -> int:
        """Return how many kernels are compiled for the whole menu, at most."""
        chunked = any(OPERATIONS[op].is_chunked for op, _ in self.builds)
        return TABLES * chunked + sum(build.variants(op) for op, found in self.builds for build in found)
