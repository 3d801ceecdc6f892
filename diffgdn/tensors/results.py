"""Says what a call leaves behind: each result, its shape and dtype, where it lies, and the truth that it is
compared with.

The one place that knows. Whatever reads results (`execute`), makes them without a kernel
(`reference_kernel`, `targets.eager`), says what a call may write (`layout`) or how its return value is read
(`targets.calls`), and every repro script, which holds these values as data, goes by it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diffgdn.cases.case import Case
from diffgdn.cases.operand_options import dtype_of
from diffgdn.cases.promises import AS_V, EXACT, WIDER, Promises

if TYPE_CHECKING:
    from torch import Tensor

RETURNED = "returned"
# Dtypes that hold all numbers of another: it, and wider ones.
HOLDING = {
    "float32": ("float32", "float64"),
    "float16": ("float16", "float32", "float64"),
    "bfloat16": ("bfloat16", "float32", "float64"),
}


@dataclass(frozen=True)
class Result:
    """One result of a call: [rows, HV, V] of the output, [rows, HV, V, K] of states.

    name: o, state (written in place), final (returned), boundary (before each chunk), steps (after every
        token) or tracked (before one chunk of a sequence).
    truth: the field of `oracle.Expected` that it is compared with.
    dtype: to which the contract rounds it; a result that comes in another dtype is judged by that one.
    shapes: in which a new tensor of it comes, the contract's first, states as [V, K]; none where it is
        written to an argument.
    dtypes: in which a new tensor of it comes; none for any.
    lies: RETURNED, or the argument that it is written to: "out", "state", "buffer" or "track".
    at: the place of each row in that argument, (slot,) or (row, step); empty for "out", which holds all.
    rows: the row of the truth that each row is compared with; None for all of them, in order.
    zero: rows that are zero whatever the truth says.
    held: rows of the tensor that it comes in, padding tokens at its end included.
    sure: every target has it; one that writes the state in place need not return it as well.
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
    shapes: tuple[tuple[int, ...], ...] = ()
    dtypes: tuple[str, ...] = ()

    @property
    def index(self) -> tuple[Any, ...]:
        """An index that selects its rows in the argument that it is written to: a list for each leading
        axis."""
        if self.lies == "out":
            return (...,)
        return tuple(list(axis) for axis in zip(*self.at, strict=True)) or ([],)


def results_of(case: Case, promises: Promises | None = None) -> tuple[Result, ...]:
    """List all that a call of a case leaves behind, in the order in which it is checked.

    promises: of the target in the case's operation, which say in what form results come; None for any.
    """
    makers = (_output(case), _state(case), _final(case), _boundary(case), _steps(case), _tracked(case))
    found = tuple(one for one in makers if one is not None)
    return found if promises is None else tuple(_promised(case, one, promises) for one in found)


def _promised(case: Case, result: Result, promises: Promises) -> Result:
    """Say in which form a target promises to return a result."""
    if not result.shapes:
        return result
    swapped = result.name == "o" and promises.output_dtype == AS_V
    dtype = dtype_of(case, "v") if swapped else result.dtype
    if promises.result_form == EXACT:
        return replace(result, shapes=result.shapes[:1], dtypes=(dtype,))
    return replace(result, dtypes=HOLDING[dtype] if promises.result_form == WIDER else ())


def result_of(case: Case, name: str) -> Result:
    """Find the result of a name. Raises KeyError if the case has none."""
    for result in results_of(case):
        if result.name == name:
            return result
    raise KeyError(f"{case.op} leaves no {name} behind in this case")


def _output(case: Case) -> Result | None:
    """The output, without padding tokens; rows of packed_decode's padding are zero."""
    if not case.state_options.output:
        return None
    single = case.operation.single_token
    rows = (1, case.tokens) if case.packed and not case.batched else (len(case.lens), case.lens[0])
    return Result(
        "o",
        "o",
        (case.total, case.HV, case.V),
        case.dtype,
        lies="out" if single else RETURNED,
        zero=tuple(n for n, slot in enumerate(case.pool.indices) if slot < 0) if single else (),
        held=case.tokens,
        shapes=() if single else ((*rows, case.HV, case.V),),
    )


def _state(case: Case) -> Result | None:
    if not case.writes_state:
        return None
    slots = case.pool.indices if case.operation.has_pool else range(len(case.lens))
    at = tuple((slots[n],) for n in case.stored)
    if case.operation.commits:
        last = tuple(case.starts[n] + case.accepted[n] - 1 for n in case.stored)
        return _states(case, "state", "steps", len(at), case.pool.dtype, "state", at, last)
    return _states(case, "state", "state", len(at), case.pool.dtype, "state", at, case.stored)


def _final(case: Case) -> Result | None:
    """Returned states: gdn.recurrent's in fp32 whatever state it was given, others' in the pool's dtype."""
    if not case.final or case.operation.kind not in ("extend", "recurrent"):
        return None
    fresh = case.op == "gdn.recurrent" or case.values.state == "none"
    dtype = "float32" if fresh else case.pool.dtype
    return _states(case, "final", "state", len(case.lens), dtype, sure=not case.writes_state)


def _boundary(case: Case) -> Result | None:
    """States at chunk boundaries, in the dtype of k: [B, chunks, ...], or all chunks in a row."""
    if not (case.operation.is_chunked and case.boundary):
        return None
    chunks = sum(-(-length // case.chunk_size) for length in case.lens)
    result = _states(case, "boundary", "boundary", chunks, dtype_of(case, "k"))
    rows = 1 if case.packed else len(case.lens)
    shapes = ((rows, chunks // rows), (1, chunks), (chunks,))
    return replace(result, shapes=tuple((*one, *result.shape[1:]) for one in dict.fromkeys(shapes)))


def _steps(case: Case) -> Result | None:
    if not case.keeps_steps:
        return None
    lies = "buffer" if case.has_buffer else "state"
    at = tuple((place, step) if case.has_buffer else (place,) for _, place, step in case.kept)
    tokens = tuple(token for token, _, _ in case.kept)
    return _states(case, "steps", "steps", len(at), case.pool.dtype, lies, at, tokens)


def _tracked(case: Case) -> Result | None:
    """States before a chunk of each sequence that names one, not rounded: rows of those before all chunks."""
    track = case.state_options.track
    if not track:
        return None
    counts = [-(-length // case.chunk_size) for length in case.lens]
    rows = tuple(sum(counts[:n]) + chunk for n, chunk in enumerate(track) if chunk >= 0)
    at = tuple((n,) for n, chunk in enumerate(track) if chunk >= 0)
    return _states(case, "tracked", "boundary", len(at), "float32", "track", at, rows)


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
    shapes = (shape,) if lies == RETURNED else ()
    return Result(name, truth, shape, dtype, lies, at, rows, held=count, sure=sure, shapes=shapes)


def of_truth(result: Result, truth: Tensor) -> Tensor:
    """Pick the rows that a result holds from its truth, or from the noise, [all rows, HV, V(, K)]."""
    picked = truth if result.rows is None else truth[list(result.rows)]
    if result.zero:
        picked = picked.clone()
        picked[list(result.zero)] = 0
    return picked


class WrongForm(ValueError):
    """Raised for a result that did not come, or in a shape or dtype that is not its own.

    kind: not_returned, not_asked, wrong_shape or wrong_dtype. name: of the result, or which value it is.
    """

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.name = kind, name


def collect(
    results: Iterable[Result], arguments: Any, returned: Mapping[str, Tensor], layout: str
) -> dict[str, Tensor]:
    """Collect what a call left behind, by name: each result [rows, ...], states [..., V, K] whatever the
    layout, in the dtype in which it came.

    arguments: the tensors of the call, by name. returned: what the target returned, by name of the result; a
    result that is neither there nor in an argument is left out. layout: of states, "vk" or "kv". Raises
    WrongForm.
    """
    out = {}
    for result in results:
        if result.lies in ("state", "buffer", "track"):
            held = arguments[result.lies]
            out[result.name] = (held.mT if layout == "kv" else held)[result.index]
        elif result.name in returned:
            out[result.name] = _rows(result, returned[result.name], layout)
    return out


def in_layout(result: Result, layout: str) -> list[tuple[int, ...]]:
    """List the shapes in which a result comes, states in a layout."""
    states_kv = layout == "kv" and len(result.shape) == 4
    return [(*one[:-2], one[-1], one[-2]) if states_kv else one for one in result.shapes]


def _rows(result: Result, tensor: Tensor, layout: str) -> Tensor:
    """View a returned tensor as the rows of its result. Raises WrongForm."""
    inner = result.shape[1:]
    states_kv = layout == "kv" and len(inner) == 3
    shapes = in_layout(result, layout)
    if shapes and tuple(tensor.shape) not in shapes:
        _refuse("wrong_shape", result.name, [str(list(one)) for one in shapes], list(tensor.shape))
    came = str(tensor.dtype).removeprefix("torch.")
    if result.dtypes and came not in result.dtypes:
        _refuse("wrong_dtype", result.name, result.dtypes, came)
    if states_kv:
        tensor = tensor.mT
    return tensor.reshape(result.held, *inner)[: result.shape[0]]


def _refuse_more(names: Sequence[str], returned: Any, passed: list[Any]) -> None:
    """Raise WrongForm for a tensor that nothing asks for. One element is none: it stands for no output."""
    if len(names) == 1 and isinstance(returned, tuple):
        _refuse("wrong_shape", names[0] or "o", ["a tensor"], f"a tuple of {len(returned)}")
    for n, value in enumerate(returned if isinstance(returned, tuple) else (returned,)):
        wanted = n < len(names) and names[n]
        if wanted or not hasattr(value, "data_ptr") or any(value is one for one in passed):
            continue
        if value.numel() > 1:
            _refuse("not_asked", f"value {n + 1}", ["None, as nothing asks for it"], list(value.shape))


def _refuse(kind: str, name: str, expected: Iterable[str], came: object) -> None:
    """Raise WrongForm in words: what was expected, and what came."""
    raise WrongForm(kind, name, f"expected {' or '.join(dict.fromkeys(expected))}, got {came}")


def tail_of(case: Case, output: Tensor) -> Tensor:
    """View the rows of a returned output that belong to padding tokens, [tail, HV, V]."""
    return output.reshape(case.tokens, case.HV, case.V)[case.total :]


def returned_names(case: Case) -> tuple[str, ...]:
    """Name what the operation's function returns, in its order; "" for what is no result of this case.

    A function may return fewer values, and None for what it was not asked for.
    """
    operation = case.operation
    if operation.single_token:
        return ()  # whatever it returns, the output lies in `out`
    if operation.kind not in ("extend", "recurrent"):
        return ("o" if case.state_options.output else "",)
    asked = {one.name for one in results_of(case)}
    if case.op == "kda.extend":
        return ("o", *(name for name in ("boundary", "final") if name in asked))
    return ("o", *(name if name in asked else "" for name in ("final", "boundary")))


def by_name(
    names: Sequence[str],
    returned: Any,
    asked: Mapping[str, str] | None = None,
    passed: Iterable[Any] | None = None,
) -> dict[str, Any]:
    """Name the tensors that a function returned, by `returned_names`, without those that are None.

    asked: the keyword that asks for a result, by its name: it has to be there. passed: the arguments of the
    call, where no more than what is asked for may come, but for one of these; None where more may. Raises
    TypeError for a value that is no tensor, and for an output that is None; WrongForm for what did not come
    or may not.
    """
    values = returned if isinstance(returned, tuple) else (returned,)
    if passed is not None:
        _refuse_more(names, returned, list(passed))
    found = {name: value for name, value in zip(names, values, strict=False) if name}
    for name, value in found.items():
        if not (hasattr(value, "data_ptr") or (value is None and name != "o")):
            raise TypeError(f"returned {type(value).__name__} for {name}, expected a tensor")
    found = {name: value for name, value in found.items() if value is not None}
    for name, keyword in (asked or {}).items():
        if name not in found:
            raise WrongForm("not_returned", name, f"returned no {name}, which {keyword}=True asks for")
    return found
