"""Draws cases: a build, heads, sequences, laws and flags, simplest first, put together."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS, Operation
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.cases.state_options import StateOptions
from diffgdn.strategies import (
    geometries,
    inside,
    laws,
    lays,
    operand_draws,
    operand_forms,
    sizes,
    state_draws,
)
from diffgdn.strategies.batch_layout import Batch, among, draw_batch, rarely, whole
from diffgdn.strategies.company_draws import draw_before
from diffgdn.strategies.execution_draws import apart, draw_execution
from diffgdn.strategies.informative import LEFT_AS_DRAWN, make_informative
from diffgdn.strategies.menu import BACKENDS, STATES, Build, Menu, builds, exactable, options, promised

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
    op: str,
    *,
    backend: str = "interpret",
    menu: Menu | None = None,
    configs: int = 1,
    layout: str = "vk",
    promises: Promises = EVERYTHING,
) -> st.SearchStrategy[Case]:
    """Return the strategy of cases of an operation.

    op: a name of OPERATIONS. backend: "interpret" or "gpu", which decides how large they are. menu: what
    kernels specialise on comes from its builds; None: anything goes. configs: entries of a foreign kernel's
    configuration list, one of which each case is pinned to. layout: "vk" or "kv", of the target's states.
    promises: what the target supports; every case lies inside, and none is drawn and thrown away.
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
    own, executions = apart(promised(promises, op))
    if menu is None:
        chosen = builds(op, backend, own)
    else:
        names = tuple(options(op, backend))
        entries = [
            build
            for build in menu.entries(op)
            if inside.takes_build(op, build, names, own) and operand_forms.takes_build(op, build, own)
        ]
        if not entries:
            raise InvalidArgument(f"menu: no entry for {op!r} lies inside the promises; draw it with them")
        chosen = st.sampled_from(entries)
    exactness = _exact_draws(op, backend, menu, own)
    return _cases(op, backend, chosen, configs, exactness, own, menu is None, executions)


def _exact_draws(
    op: str, backend: str, menu: Menu | None, own: Promises
) -> dict[str, st.SearchStrategy[bool]]:
    """Return, by dtype, the draw of whether a case is to be exact if it can be.

    It is True more often if fewer builds allow it, so that EXACT_SHARE of all cases are.
    """
    wanted = EXACT_SHARE / LIVE_SHARE[OPERATIONS[op].has_pool]
    out = {}
    for dtype, share in exactable(op, backend, menu, own).items():
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
    own: Promises,
    free: bool,
    executions: tuple[str, ...],
) -> Case:
    """Draw one case.

    chosen: its build. exactness: by dtype, whether it is to be exact if it can be. own: what is promised of
    the operation, executions apart. free: the build comes from no menu.
    """
    operation = OPERATIONS[op]
    # First: where Hypothesis leaves all the rest at its simplest, the case is to prove something too.
    informed = draw(among(False, *[True] * (LEFT_AS_DRAWN - 1)))
    build = draw(chosen)
    wanted_exact = draw(exactness[build.dtype])
    H, HV = _draw_heads(draw, operation, backend, build, own)
    long = operation.kind in sizes.LONG_KINDS and draw(rarely(8)) and own == EVERYTHING
    room = sizes.room(op, backend, build, HV, draw(rarely(12)), long)
    batch = draw_batch(draw, operation, build, room, own)
    exact = wanted_exact and laws.can_be_exact(build, batch, own)
    gates = laws.draw_gates(draw, operation, build, max(batch.lens), exact, own)
    values = laws.draw_values(draw, build, exact)
    scale = laws.draw_scale(draw, build.K, exact, own)
    edits = laws.draw_edits(draw, {} if exact else _editable(operation, build, batch, H, HV))
    case = _assemble(op, build, batch, H, HV, gates, values)
    order = draw(among(*ORDERS)) if backend == "interpret" else Case.order
    config = draw(whole(0, configs - 1)) if build.config is None else build.config
    case = replace(case, scale=scale, edits=edits, config=config, order=order)
    case = operand_draws.drawn(draw, case, backend, own)
    case = state_draws.draw_options(draw, case, build, free, own)
    case = lays.with_lays(draw, case, build, backend, own)
    case = draw_before(draw, case, backend, own)
    case = draw_execution(draw, case, backend, executions)
    return make_informative(case, own) if informed else case


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
        operands=build.operands,
        state_options=StateOptions(accepted=batch.accepted),
    )


def _draw_heads(
    draw: st.DrawFn, operation: Operation, backend: str, build: Build, own: Promises
) -> tuple[int, int]:
    """Draw H and HV: a few heads and their ratio; on a GPU at times those of a published model."""
    if build.heads is not None:
        return build.heads
    few = backend == "interpret"
    if not inside.any_heads(own):
        pairs = _promised_heads(operation.family, backend, build.crowded, own)
        H, HV = draw(among(*pairs))
        return H, HV
    H = draw(among(*(H_FEW if few else H_MORE)))
    ratio = draw(among(*RATIOS))
    if few:
        return H, H * ratio
    published = geometries.heads(operation.family)
    limit = max(HV for _, HV in published) if build.crowded else STATES
    whole_model, pair = draw(rarely(10)), draw(among(*[pair for pair in published if pair[1] <= limit]))
    return pair if whole_model else (H, H * ratio)


def drawn_heads(operation: Operation, build: Build, own: Promises) -> tuple[tuple[int, int], ...]:
    """List what H and HV of a build are drawn from on a GPU, repeated to be drawn more often."""
    if not inside.any_heads(own):
        return _promised_heads(operation.family, "gpu", build.crowded, own)
    return tuple((H, H * ratio) for H in H_MORE for ratio in RATIOS)


def possible_heads(
    operation: Operation, backend: str, build: Build, own: Promises
) -> tuple[tuple[int, int], ...]:
    """List the pairs (H, HV) that cases of a build may have."""
    if build.heads is not None:
        return (build.heads,)
    if not inside.any_heads(own):
        return _promised_heads(operation.family, backend, build.crowded, own)
    few = backend == "interpret"
    drawn = {(H, H * ratio) for H in (H_FEW if few else H_MORE) for ratio in RATIOS}
    published = geometries.heads(operation.family)
    limit = max(HV for _, HV in published) if build.crowded else STATES
    return tuple(sorted(drawn | {pair for pair in published if pair[1] <= limit and not few}))


def _promised_heads(family: str, backend: str, crowded: bool, own: Promises) -> tuple[tuple[int, int], ...]:
    """Return what H and HV are drawn from where not all are promised, simplest first."""
    few = backend == "interpret"
    usual = [(H, H * ratio) for H in (H_FEW if few else H_MORE) for ratio in RATIOS]
    published = () if few else geometries.heads(family)
    most = max(HV for _, HV in published) if crowded and not few else STATES
    return inside.heads(own, backend, (*usual, *published), most)


def _editable(operation: Operation, build: Build, batch: Batch, H: int, HV: int) -> dict[str, int]:
    """Return how many elements each tensor that may be edited has, padding tokens left out."""
    tokens = sum(batch.lens)
    sizes = {"q": tokens * H * build.K, "k": tokens * H * build.K, "v": tokens * HV * build.V}
    if not (operation.raw_gates or build.raw):
        sizes["g"] = tokens * HV * (build.K if operation.is_kda else 1)
    return sizes


def representative(op: str, build: Build, promises: Promises = EVERYTHING) -> Case:
    """Return a small case that makes kernels compile the build."""
    return representatives(op, build, promises)[0]


def representatives(op: str, build: Build, promises: Promises = EVERYTHING) -> tuple[Case, ...]:
    """Return small cases that make kernels compile all that a build may meet: one; if crowded, one a tile.

    promises: of the target, inside which the build lies, and so the cases.
    """
    many = build.crowded and not build.batch_invariant and not OPERATIONS[op].is_chunked
    many = many and build.heads is None
    own = promised(promises, op)
    found = [_representative(op, build, heads, own) for heads in (CROWDS if many else CROWDS[:1])]
    return tuple(dict.fromkeys(found))  # where few heads are promised, some are the same


def _representative(op: str, build: Build, wanted: int, own: Promises) -> Case:
    """Return a case of two sequences with so many query heads and value heads, if that is promised."""
    operation = OPERATIONS[op]
    # Two of everything: a dimension of one element has no stride, and might pass for an aligned one.
    length = 1 if operation.single_token or (not build.packed and build.one) else 2
    length = inside.length(length, own, 2 if not build.packed and not build.one else 1)
    H, HV = build.heads or min(own.heads, key=lambda pair: (abs(pair[1] - wanted), pair[1] // pair[0]))
    first = 0 if own.slot_zero else 1
    pool = Pool(indices=(), dtype=build.state_dtype)
    if operation.has_pool and build.given:
        pitch = inside.pitches(own, build.odd_pitch)[0]
        pool = Pool(first + 2, (first, first + 1), pitch, build.state_dtype)
    elif operation.has_pool:
        pool = replace(pool, indices=(-1, -1))
    if operation.drafts or build.steps:
        pool = replace(pool, steps=length, buffer=2, rows=(0, 1))
    parents = ((-1, *range(length - 1)),) * 2 if build.tree else ()
    batched = build.packed and not operation.single_token and "packed" not in own.batch
    tail = 0 if operation.single_token or batched or not build.packed else inside.tails(own, 1)[0]
    batch = Batch(lens=(length, length), pool=pool, parents=parents, tail=tail, batched=batched)
    bound = inside.bounds(own, laws.BOUNDS)[0] if build.bounded else None
    gates = Gates(dtype=build.gate_dtype, raw=build.raw, lower_bound=bound)
    values = Values(state="law" if build.given else "none")
    scale = inside.scales(own, laws.SCALES)[0]
    case = replace(_assemble(op, build, batch, H, HV, gates, values), scale=scale, config=build.config or 0)
    case = state_draws.plain_options(case, build, own)
    return replace(case, lay=lays.of_build(case, build))
