"""What a call leaves behind: which results, of which shape and dtype, where each lies, and what truth it is
compared with.

The one place that knows. Whatever reads results (`execute`), makes them without a kernel (`emulate`,
`targets.eager`), says what a call may write (`arena`) or how its return value is read (`targets.calls`), and
every repro script, which holds these values as data, goes by it. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffgdn.cases.case import Case

if TYPE_CHECKING:
    from torch import Tensor

RETURNED = "returned"


@dataclass(frozen=True)
class Result:
    """One result of a call: shape [rows, HV, V] for the output, [rows, HV, V, K] for states.

    name: o, state (written in place), final (returned), boundary (before each chunk) or steps (after every
    token). truth: the field of `oracle.Expected` that it is compared with. dtype: what it is rounded to by
    contract; what comes in another dtype is judged by that one. lies: RETURNED, or the argument that it is
    written to: "out", "state" or "buffer". at: the place of each row in that argument, (slot,) or (row,
    step); of "out", all. rows: which row of the truth each row is; None for all of them, in order.
    zero: rows that are zero whatever the truth says. held: rows of the tensor that it comes in, padding
    tokens at its end included. sure: every target has it; one that writes the state in place need not return
    it as well.
    """

    name: str
    truth: str
    shape: tuple[int, ...]
    dtype: str
    lies: str
    at: tuple[tuple[int, ...], ...] = ()
    rows: tuple[int, ...] | None = None
    zero: tuple[int, ...] = ()
    held: int = 0
    sure: bool = True

    @property
    def index(self) -> tuple[Any, ...]:
        """Its rows in the argument that it is written to, as an index: a list for each leading axis."""
        if self.lies == "out":
            return (...,)
        return tuple(list(axis) for axis in zip(*self.at, strict=True)) or ([],)


def results_of(case: Case) -> tuple[Result, ...]:
    """Everything that a call of a case leaves behind, in the order in which it is checked."""
    found = (_output(case), _state(case), _final(case), _boundary(case), _steps(case))
    return tuple(one for one in found if one is not None)


def result_of(case: Case, name: str) -> Result:
    """The result of that name. Raises KeyError where the case has none."""
    for result in results_of(case):
        if result.name == name:
            return result
    raise KeyError(f"{case.op} leaves no {name} behind in this case")


def _output(case: Case) -> Result:
    """Padding tokens are no rows; the rows of packed_decode's padding are zero."""
    single = case.operation.single_token
    return Result(
        "o",
        "o",
        (case.total, case.HV, case.V),
        case.dtype,
        lies="out" if single else RETURNED,
        zero=tuple(n for n, slot in enumerate(case.pool.indices) if slot < 0) if single else (),
        held=case.tokens,
    )


def _state(case: Case) -> Result | None:
    if not case.writes_state:
        return None
    slots = case.pool.indices if case.operation.has_pool else range(len(case.lens))
    at = tuple((slots[n],) for n in case.stored)
    return _states(case, "state", "state", len(at), case.pool.dtype, "state", at, case.stored)


def _final(case: Case) -> Result | None:
    """gdn.recurrent returns fp32 whatever state it was given, the others what they were given."""
    if not case.final or case.operation.kind not in ("extend", "recurrent"):
        return None
    fresh = case.op == "gdn.recurrent" or case.values.state == "none"
    dtype = "float32" if fresh else case.pool.dtype
    return _states(case, "final", "state", len(case.lens), dtype, sure=not case.writes_state)


def _boundary(case: Case) -> Result | None:
    if not (case.operation.is_chunked and case.boundary):
        return None
    chunks = sum(-(-length // case.chunk_size) for length in case.lens)
    return _states(case, "boundary", "boundary", chunks, case.dtype)


def _steps(case: Case) -> Result | None:
    if not case.keeps_steps:
        return None
    at, tokens = tuple((row, step) for _, row, step in case.kept), tuple(token for token, _, _ in case.kept)
    return _states(case, "steps", "steps", len(at), case.pool.dtype, "buffer", at, tokens)


def _states(
    case: Case,
    name: str,
    truth: str,
    count: int,
    dtype: str,
    lies: str = RETURNED,
    at: tuple[tuple[int, ...], ...] = (),
    rows: tuple[int, ...] | None = None,
    sure: bool = True,
) -> Result:
    shape = (count, case.HV, case.V, case.K)
    return Result(name, truth, shape, dtype, lies, at, rows, held=count, sure=sure)


def of_truth(result: Result, truth: Tensor) -> Tensor:
    """The rows of a truth, or of its noise, [all rows, HV, V(, K)], that a result holds."""
    picked = truth if result.rows is None else truth[list(result.rows)]
    if result.zero:
        picked = picked.clone()
        picked[list(result.zero)] = 0
    return picked


class WrongSize(ValueError):
    """What was returned has not the elements of the result it should be. name: of the result."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def collect(
    results: Iterable[Result], arguments: Any, returned: Mapping[str, Tensor], layout: str
) -> dict[str, Tensor]:
    """Every result that a call left behind, of its shape, states as [V, K] whatever the layout, each in the
    dtype that it came in.

    arguments: by name, of the call. returned: by name of the result, what the target returned. Raises
    WrongSize.
    """
    out = {}
    for result in results:
        if result.lies in ("state", "buffer"):
            held = arguments[result.lies]
            out[result.name] = (held.mT if layout == "kv" else held)[result.index]
        elif result.name in returned:
            out[result.name] = _shaped(result, returned[result.name], layout)
    return out


def _shaped(result: Result, tensor: Tensor, layout: str) -> Tensor:
    inner = result.shape[1:]
    expected = result.held * math.prod(inner)
    if tensor.numel() != expected:
        message = f"returned shape {tuple(tensor.shape)}, expected {expected} elements"
        raise WrongSize(result.name, message)
    if layout == "kv" and len(inner) == 3:
        tensor = tensor.mT
    return tensor.reshape(result.held, *inner)[: result.shape[0]]


def returned_names(case: Case) -> tuple[str, ...]:
    """Names of what the operation's function returns, in its order; "" for what is no result of this case.

    A function may return fewer, and None for what it was not asked for.
    """
    operation = case.operation
    if operation.single_token:
        return ()  # whatever it returns, the output lies in `out`
    if operation.kind not in ("extend", "recurrent"):
        return ("o",)
    asked = {one.name for one in results_of(case)}
    if case.op == "kda.extend":
        return ("o", *(name for name in ("boundary", "final") if name in asked))
    return ("o", *(name if name in asked else "" for name in ("final", "boundary")))


def by_name(names: Iterable[str], returned: Any) -> dict[str, Any]:
    """What a function returned, by `returned_names`. Raises TypeError for what is no tensor."""
    values = returned if isinstance(returned, tuple) else (returned,)
    found = {name: value for name, value in zip(names, values, strict=False) if name}
    for name, value in found.items():
        if not (hasattr(value, "data_ptr") or (value is None and name != "o")):
            raise TypeError(f"returned {type(value).__name__} for {name}, expected a tensor")
    return {name: value for name, value in found.items() if value is not None}
