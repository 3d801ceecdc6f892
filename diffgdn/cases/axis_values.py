"""Which value a case has on every axis of the domain, numbers put into the classes that kernels tell apart.

A value is written `axis=word`. The axes are those of promises, and those of which promises know nothing:
laws, strengths, edits, the order of programs. A case may have several values on one axis, such as the lengths
of its sequences, or none. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from diffgdn.cases import company, execution, lay, operand_options, promise_axes, state_options
from diffgdn.cases.case import Case
from diffgdn.cases.trace import Trace

FAR = 2**30  # elements between slots: the second or third slot lies past 2**31
ALIGNED = 64  # elements: a pitch that is a multiple of it keeps every slot aligned
NONE = "none"
UNSIZED = ("zero", "exact", "checkpoint", "extreme", "threshold")  # gate laws that take no strength
# Fields of a case that hold what differs from the usual call, and the modules of their records. A module that
# has `asked(case)` says there, for promises, what is counted; of others each field is an axis.
RECORDS = {
    "lay": lay,
    "operands": operand_options,
    "state_options": state_options,
    "before": company,
    "execution": execution,
}
COMPACT = (("strides", "compact"), ("alignment", "256"))  # where no argument lies in a way of its own
IN_WORDS = ("before", "execution")  # they hold words: each is counted in any case


def axis(value: str) -> str:
    """Return the axis of a value."""
    return value.partition("=")[0]


def word(value: str) -> str:
    """Return what a value says about its axis."""
    return value.partition("=")[2]


def values(subject: Case | Trace) -> tuple[str, ...]:
    """List the values of a case, or of a trace, each once, in alphabetical order."""
    pairs = _steps(subject) if isinstance(subject, Trace) else _of_case(subject)
    return tuple(sorted({f"{name}={said}" for name, said in pairs}))


def _of_case(case: Case) -> Iterator[tuple[str, str]]:
    yield "operation", case.op
    yield "dtype", case.dtype
    yield "gate_dtype", case.gates.dtype
    for name, value in promise_axes.asked(case):
        if name not in OWN_WORDS:
            yield name, WORDS.get(name, usual)(value)
    yield from _tokens(case)
    yield from _slots(case)
    yield from _laws(case)
    yield "order", case.order
    yield "config", str(case.config)
    if hasattr(lay, "asked") and not case.lay:
        yield from COMPACT
    for name, module in RECORDS.items():
        if name in IN_WORDS or not hasattr(module, "asked"):
            yield from _fields(name, getattr(case, name))


# Numbers, in words.


def dim(n: int) -> str:
    """Say which class a dimension of keys or values is in: powers of two from 16, and what lies between."""
    if n == 1:
        return "1"
    if n < 16:
        return "2 to 15"
    below = 1 << (n.bit_length() - 1)
    return str(n) if n == below else f"{below + 1} to {2 * below - 1}"


def count(n: int) -> str:
    """Say which class a number of heads is in, or any other number of which small ones are usual."""
    if n < 5:
        return str(n)
    return "5 to 8" if n <= 8 else "9 to 16" if n <= 16 else "more than 16"


def batch_size(n: int) -> str:
    """Say which class a number of sequences is in; past 64 a table of them takes a second block."""
    if n < 3:
        return str(n)
    return "3 to 8" if n <= 8 else "9 to 64" if n <= 64 else "more than 64"


def length(n: int) -> str:
    """Say which class a number of tokens is in, where there are no chunks."""
    if n < 3:
        return str(n)
    return "3 to 4" if n <= 4 else "5 to 8" if n <= 8 else "9 to 32" if n <= 32 else "more than 32"


def chunks(n: int, chunk: int) -> str:
    """Say how many chunks a number of tokens fills, and what is left of the last one."""
    if n < 2:
        return str(n)
    if n < chunk:
        return "a chunk less one" if n == chunk - 1 else "less than a chunk"
    if n <= chunk + 1:
        return "a chunk" if n == chunk else "a chunk and one"
    left = n % chunk
    return "chunks" if left == 0 else "chunks and one" if left == 1 else "chunks and a part"


def tail(n: int) -> str:
    """Say how many padding tokens follow the last sequence."""
    return str(n) if n < 2 else "more"


def pitch(n: int) -> str:
    """Say which class the elements between slots are in."""
    if n == 0:
        return "0"
    return "far" if n >= FAR else "unaligned" if n % ALIGNED else "aligned"


def lower_bound(bound: float) -> str:
    """Say which class the lower bound of a kda gate is in; -5 is that of published models."""
    if bound == -5.0:
        return "-5"
    return "over -1" if bound > -1 else "-1 to -5" if bound > -5 else "under -5"


def strength(size: float) -> str:
    """Say which class the strength of a gate is in."""
    if size == 1.0:
        return "1"
    return "over 1" if size > 1 else "1/16 to 1" if size >= 0.0625 else "under 1/16"


def scale(factor: float | None) -> str:
    """Say which class the factor of q is in."""
    if factor is None:
        return "default"
    return f"{factor:g}" if factor in (0.0, 1.0) else "below 1" if factor < 1 else "above 1"


def sign(n: int) -> str:
    """Say on which side of 0 a number lies."""
    return "0" if n == 0 else "below 0" if n < 0 else "above 0"


def usual(value: Any) -> str:
    """Say which class a value of any other axis is in."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value) if value >= 0 else "below 0"
    return f"{value:g}" if isinstance(value, float) else str(value)


WORDS: dict[str, Callable[[Any], str]] = {
    "K": dim,
    "V": dim,
    "chunk_size": str,
    "alignment": str,
    "tail": tail,
    "pitch": pitch,
    "lower_bound": lower_bound,
}
# Axes of promises of which more, or something else, is said below.
OWN_WORDS = ("dtype", "gate_dtype", "length", "empty", "scale", "padding", "tree", "bounded", "company")


def _tokens(case: Case) -> Iterator[tuple[str, str]]:
    """Lengths of sequences, how many there are, and what lies before each: the parts of a batch."""
    lens = case.lens
    yield "sequences", batch_size(len(lens))
    if case.operation.single_token:
        return
    if not case.operation.is_chunked:
        yield from (("length", length(n)) for n in set(lens))
        return
    chunk = case.chunk_size
    yield from (("chunks", chunks(n, chunk)) for n in set(lens))
    for before, n in pairwise(lens):
        if n > 0:
            said = "an empty one" if before == 0 else "whole chunks" if before % chunk == 0 else "a part"
            yield "behind", said


def _slots(case: Case) -> Iterator[tuple[str, str]]:
    """Padding in the pool, and the shape of trees."""
    if case.operation.has_pool and case.values.state != "none":
        padded = sum(index < 0 for index in case.pool.indices)
        yield "padding", "all" if padded == len(case.lens) else "some" if padded else NONE
    if case.needs_steps:
        chain = all(parent == step - 1 for tree in case.parents for step, parent in enumerate(tree))
        yield "tree", NONE if not case.parents else "chain" if chain else "branching"


def _laws(case: Case) -> Iterator[tuple[str, str]]:
    """How tensors are drawn."""
    gates, drawn = case.gates, case.values
    yield "scale", scale(case.scale)
    yield "value_law", drawn.law
    if drawn.state != "none":
        yield "state_law", drawn.state
    yield "v_exponent", sign(drawn.v_exponent)
    yield "q_exponent", sign(drawn.q_exponent)
    if case.operation.is_kda and case.raw_gates and gates.lower_bound is None:
        yield "lower_bound", NONE
    yield "gate_law", gates.law
    yield "beta_law", gates.beta
    if gates.law not in UNSIZED:
        yield "strength", strength(gates.strength)
    if gates.law == "jump":
        yield "jump", _jump(case)
    yield from (("edits", edit.tensor) for edit in case.edits)
    if not case.edits:
        yield "edits", NONE
    yield from (("only", one.tensor) for one in case.only)


def _jump(case: Case) -> str:
    """Say at which token a gate jumps."""
    at = case.gates.at
    if at == 0:
        return "first token"
    if not case.operation.is_chunked:
        return "later token"
    return "chunk's edge" if at % case.chunk_size in (0, case.chunk_size - 1) else "later token"


def _fields(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The values of a record, field by field; of a tuple, those of each entry."""
    if dataclasses.is_dataclass(value):
        for spec in dataclasses.fields(value):
            yield from _fields(f"{name}.{spec.name}", getattr(value, spec.name))
    elif isinstance(value, tuple) and not value:
        yield name, NONE
    elif isinstance(value, tuple):
        for one in value:
            yield from _fields(name, one)
    else:
        yield name, "far" if isinstance(value, int) and value >= FAR else usual(value)


def _steps(trace: Trace) -> Iterator[tuple[str, str]]:
    """The steps of a serving loop, and which follows which."""
    acts = [step.act for step in trace.steps]
    for act in acts:
        yield "step", act
    for first, second in pairwise(acts):
        yield "next", f"{first}, {second}"
    yield "family", trace.family
