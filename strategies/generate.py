"""Draws cases: a build, heads, sequences, laws and flags, simplest first, put together."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS, Operation
from diffgdn.strategies import geometries, laws, sizes
from diffgdn.strategies.batch_layout import Batch, among, draw_batch, rarely, whole
from diffgdn.strategies.informative import LEFT_AS_DRAWN, make_informative
from diffgdn.strategies.menu import BACKENDS, STATES, Build, Menu, builds, exactable

LAYOUTS = ("vk", "kv")
H_FEW = (1, 1, 1, 1, 2, 2, 3)
RATIOS = (1, 1, 1, 2, 2, 3, 4)
H_MORE = (1, 1, 2, 2, 3, 4, 6, 8)
# Of all cases of a dtype. A fifth is wanted of a few hundred too, and their shares scatter: Hypothesis varies
# its latest examples more often than it draws afresh.
EXACT_SHARE = 0.31
# Of batches, by whether there is a pool: some sequence has tokens and a state to read.
LIVE_SHARE = {True: 0.86, False: 0.95}
ODDS = 60
# Of programs, in the interpreter. One case in eight: each of these is run twice.
ORDERS = ("ascending",) * 14 + ("descending", "shuffled")
CROWDS = (2, 40, 264)  # heads of two sequences: with 64 states or fewer, with more, and with more than 512


def cases(
    op: str, *, backend: str = "interpret", menu: Menu | None = None, configs: int = 1, layout: str = "vk"
) -> st.SearchStrategy[Case]:
    """Return the strategy of cases of an operation.

    op: a name of OPERATIONS. backend: "interpret" or "gpu", which decides how large they are. menu: what
    kernels specialise on comes from its builds; None: anything goes. configs: entries of a foreign kernel's
    configuration list, one of which each case is pinned to. layout: "vk" or "kv", of the target's states.
    Shrinks toward one sequence, one head, one token, ones, and no gate. Raises InvalidArgument, with the
    value, for anything else.
    """
    if op not in OPERATIONS:
        raise InvalidArgument(f"op={op!r}: expected one of {', '.join(OPERATIONS)}")
    if backend not in BACKENDS:
        raise InvalidArgument(f"backend={backend!r}: expected one of {', '.join(BACKENDS)}")
    if menu is not None and not isinstance(menu, Menu):
        raise InvalidArgument(f"menu={menu!r}: expected a Menu or None")
    if not isinstance(configs, int) or isinstance(configs, bool) or configs < 1:
        raise InvalidArgument(f"configs={configs!r}: expected a whole number of 1 or more")
    if layout not in OPERATIONS[op].layouts:
        raise InvalidArgument(f"layout={layout!r}: {op} has {' and '.join(OPERATIONS[op].layouts)}")
    chosen = builds(op, backend) if menu is None else st.sampled_from(menu.entries(op))
    return _cases(op, backend, chosen, configs, _exact_draws(op, backend, menu))


def _exact_draws(op: str, backend: str, menu: Menu | None) -> dict[str, st.SearchStrategy[bool]]:
    """Return, by dtype, the draw of whether a case is to be exact if it can be.

    It is True more often if fewer builds allow it, so that EXACT_SHARE of all cases are.
    """
    wanted = EXACT_SHARE / LIVE_SHARE[OPERATIONS[op].has_pool]
    out = {}
    for dtype, share in exactable(op, backend, menu).items():
        often = min(ODDS, round(ODDS * wanted / share)) if share else 0
        out[dtype] = among(*[False] * (ODDS - often), *[True] * often)
    return out


@st.composite
def _cases(
    draw: st.DrawFn,
    op: str,
    backend: str,
    chosen: st.SearchStrategy[Build],
    configs: int,
    exactness: dict[str, st.SearchStrategy[bool]],
) -> Case:
    """Draw one case. chosen: its build. exactness: by dtype, whether it is to be exact if it can be."""
    operation = OPERATIONS[op]
    # First: where Hypothesis leaves all the rest at its simplest, the case is to prove something too.
    informed = draw(among(False, *[True] * (LEFT_AS_DRAWN - 1)))
    build = draw(chosen)
    wanted_exact = draw(exactness[build.dtype])
    H, HV = _draw_heads(draw, operation, backend, build)
    room = sizes.room(
        op, backend, build, HV, draw(rarely(12)), operation.kind == "verify" and draw(rarely(10))
    )
    batch = draw_batch(draw, operation, build, room)
    exact = wanted_exact and laws.can_be_exact(build, batch)
    gates = laws.draw_gates(draw, operation, build, max(batch.lens), exact)
    values = laws.draw_values(draw, build, exact)
    scale = laws.draw_scale(draw, build.K, exact)
    edits = laws.draw_edits(draw, {} if exact else _editable(operation, build, batch, H, HV))
    case = _assemble(op, build, batch, H, HV, gates, values)
    order = draw(among(*ORDERS)) if backend == "interpret" else Case.order
    case = replace(case, scale=scale, edits=edits, config=draw(whole(0, configs - 1)), order=order)
    return make_informative(case) if informed else case


def _assemble(op: str, build: Build, batch: Batch, H: int, HV: int, gates: Gates, values: Values) -> Case:
    """Return the case of these parts, without scale, edits and configuration."""
    return Case(
        op=op,
        lens=batch.lens,
        H=H,
        HV=HV,
        K=build.K,
        V=build.V,
        dtype=build.dtype,
        pool=batch.pool,
        gates=gates,
        values=values,
        packed=build.packed,
        batched=batch.batched,
        tail=batch.tail,
        cu_dtype=build.cu_dtype,
        index_dtype=build.index_dtype,
        view=build.view,
        l2norm=build.l2norm,
        chunk_size=build.chunk_size,
        inplace=build.inplace,
        boundary=build.boundary,
        final=build.final,
        batch_invariant=build.batch_invariant,
        parents=batch.parents,
    )


def _draw_heads(draw: st.DrawFn, operation: Operation, backend: str, build: Build) -> tuple[int, int]:
    """Draw H and HV: a few heads and their ratio; on a GPU at times those of a published model."""
    few = backend == "interpret"
    H = draw(among(*(H_FEW if few else H_MORE)))
    ratio = draw(among(*RATIOS))
    if few:
        return H, H * ratio
    published = geometries.heads(operation.family)
    limit = max(HV for _, HV in published) if build.crowded else STATES
    whole_model, pair = draw(rarely(10)), draw(among(*[pair for pair in published if pair[1] <= limit]))
    return pair if whole_model else (H, H * ratio)


def _editable(operation: Operation, build: Build, batch: Batch, H: int, HV: int) -> dict[str, int]:
    """Return how many elements each tensor that may be edited has, padding tokens left out."""
    tokens = sum(batch.lens)
    sizes = {"q": tokens * H * build.K, "k": tokens * H * build.K, "v": tokens * HV * build.V}
    if not (operation.raw_gates or build.raw):
        sizes["g"] = tokens * HV * (build.K if operation.is_kda else 1)
    return sizes


def representative(op: str, build: Build) -> Case:
    """Return a small case that makes kernels compile the build."""
    return representatives(op, build)[0]


def representatives(op: str, build: Build) -> tuple[Case, ...]:
    """Return small cases that make kernels compile all that a build may meet: one; if crowded, one a tile."""
    many = build.crowded and not build.batch_invariant and not OPERATIONS[op].is_chunked
    return tuple(_representative(op, build, heads) for heads in (CROWDS if many else CROWDS[:1]))


def _representative(op: str, build: Build, heads: int) -> Case:
    """Return a case of two sequences with so many query heads and value heads."""
    operation = OPERATIONS[op]
    # Two of everything: a dimension of one element has no stride, and might pass for an aligned one.
    length = 1 if operation.single_token or (not build.packed and build.one) else 2
    pool = Pool(indices=(), dtype=build.state_dtype)
    if operation.has_pool and build.given:
        pool = Pool(slots=2, indices=(0, 1), pitch=int(build.odd_pitch), dtype=build.state_dtype)
    elif operation.has_pool:
        pool = replace(pool, indices=(-1, -1))
    if operation.keeps_steps or build.steps:
        pool = replace(pool, steps=length, buffer=2, rows=(0, 1))
    parents = ((-1, 0)[:length],) * 2 if build.tree else ()
    batch = Batch(lens=(length, length), pool=pool, parents=parents, tail=0, batched=False)
    bound = laws.BOUNDS[0] if build.bounded else None
    gates = Gates(dtype=build.gate_dtype, raw=build.raw, lower_bound=bound)
    values = Values(state="law" if build.given else "none")
    return _assemble(op, build, batch, heads, heads, gates, values)
