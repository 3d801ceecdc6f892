"""Writes a recorded call as Python source: tensors with their strides, and where one element comes out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from diffgdn.findings.repro import literals
from diffgdn.targets.recording import Recorded

MOST_LISTED = 4096  # elements of a tensor that are written out: a shrunk case has a few hundred
SET_ALONE = 12  # elements that are set one by one, all others of their tensor or part being equal
MOST_SET, MOST_LETTERS = 40, 4000  # parts of a tensor that are set by themselves, and what they may take
FEW = 8  # elements of a tensor that is listed in any case, unless all are equal
BESIDE = 64  # elements of NaN on either side of a guarded tensor; a multiple of any alignment
ALIGNED = 16  # bytes: what kernels are compiled for
PLAIN = (int, float, str, bool, type(None), torch.dtype)

# What a script takes to lay values out otherwise than one after another.
LAID = '''\
def laid(values, strides, first=0, last=0):
    """The values with these strides, in memory that is $gap (of integers the largest) everywhere else."""
    size = max(0, 1 + sum((n - 1) * stride for n, stride in zip(values.shape, strides)))
    gap = $gap if values.is_floating_point() else values.dtype == torch.bool or torch.iinfo(values.dtype).max
    memory = torch.empty(first + size + last, dtype=values.dtype, device=values.device)
    if memory.numel() < 1 << 26:  # of larger ones only what is used takes memory on a CPU
        memory.fill_(gap)
    return memory.as_strided(values.shape, strides, first).copy_(values)
'''

# What a script takes to see that memory beside a tensor stays as it was.
AROUND = '''\
def around(x):
    """Copy the bits of all memory of x's allocation that is not x."""
    outside = torch.ones_like(x._base, dtype=torch.bool)
    outside.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(False)
    return x._base[outside].view(torch.int16)
'''


class NotWritten(ValueError):
    """Raised for what no short script can show, in words that say why."""


def arguments(made: Recorded, guarded: bool, device: str) -> Iterator[str]:
    """Write statements that make every tensor of a call.

    guarded: with NaN on both sides of each. device: of the script, as source. Raises NotWritten for a tensor
    that is too large.
    """
    seen: dict[int, str] = {}
    for name, value in made.given.items():
        if not isinstance(value, Tensor):
            continue
        if id(value) in seen:
            yield f"{variable(name)} = {seen[id(value)]}"
            continue
        seen[id(value)] = variable(name)
        yield from _tensor(variable(name), value, made.before[name].cpu(), guarded, device)


def variable(name: str) -> str:
    """Name the variable of an argument: its keyword, or its number with a letter before it."""
    return f"x{name}" if name.isdecimal() else name


def _tensor(name: str, given: Tensor, values: Tensor, guarded: bool, device: str) -> Iterator[str]:
    """Write one tensor, of these contiguous values and laid out as it was given."""
    source, *more = _values(values)
    size = given.element_size()
    shift = given.data_ptr() % 64 // size if given.data_ptr() % ALIGNED and given.numel() else 0
    plain = given.is_contiguous() and not guarded and not shift
    last = f"{name}.to({device})" if more else f"{source}.to({device})"
    if plain and not more:
        yield f"{name} = {last}"
        return
    if more:
        yield f"{name} = {source}"
        yield from (f"{name}[{index}] = {value}" for index, value in more)
    beside = BESIDE if guarded else 0
    edges = f", {beside + shift}, {beside}" if guarded or shift else ""
    yield f"{name} = {last if plain else f'laid({last}, {tuple(given.stride())}{edges})'}"


def _values(values: Tensor) -> tuple[Any, ...]:
    """Write contiguous values: an expression, then an index and a value for each part that is otherwise.

    Raises NotWritten where they are too many.
    """
    usual = _usual(values)
    parts = (
        list(_otherwise(values, usual, ())) if values.numel() > FEW or _same(values, usual).all() else None
    )
    if (
        parts is not None
        and len(parts) <= MOST_SET
        and sum(len(source) for _, source in parts) <= MOST_LETTERS
    ):
        dtype = "" if values.dtype == torch.float32 else f", dtype={values.dtype}"
        number, shape = literals.number(usual), ", ".join(map(str, values.shape))
        made = {"0.0": f"torch.zeros({shape}{dtype})", "1.0": f"torch.ones({shape}{dtype})"}
        source = made.get(number, f"torch.full({tuple(values.shape)}, {number}, dtype={values.dtype})")
        return (source, *parts)
    if values.numel() > MOST_LISTED:
        raise NotWritten(f"a tensor has {values.numel()} elements; `diffgdn shrink` may find a smaller case")
    return (_listed(values),)


def _listed(values: Tensor) -> str:
    return literals.source(values, MOST_LISTED).replace(", dtype=torch.float32)", ")")


def _usual(values: Tensor) -> Tensor:
    """Find a value in the middle, of NaNs one: that which most elements have, if there is one."""
    flat = values.reshape(-1)
    if not flat.numel():
        return values.new_zeros(())
    if values.dtype == torch.bool:
        flat = flat.to(torch.uint8)
    holes = int(flat.isnan().sum()) if flat.is_floating_point() else 0
    if 2 * holes > flat.numel():
        return flat[flat.isnan()][0]
    usual = flat.nanmedian() if holes else flat.median()
    return usual.to(values.dtype) + 0 if values.dtype != torch.bool else usual.bool()


def _same(values: Tensor, usual: Tensor) -> Tensor:
    """Mark the elements that have a value, zeros of either sign and NaNs being one each."""
    return (values == usual) | ((values != values) & (usual != usual))


def _otherwise(values: Tensor, usual: Tensor, at: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """List what is not the usual value: an index and a source, of elements, or of parts of the first axis."""
    others = (~_same(values, usual)).nonzero().tolist()
    if len(others) <= SET_ALONE:
        for index in others:
            yield ", ".join(map(str, (*at, *index))), literals.number(values[tuple(index)])
        return
    for n, part in enumerate(values):
        own = _usual(part)
        if _same(part, usual).all():
            continue
        index = ", ".join(map(str, (*at, n)))
        if part.dim() and 2 * int(_same(part, own).sum()) > part.numel():
            if not _same(own, usual):
                yield index, literals.number(own)
            yield from _otherwise(part, own, (*at, n))
        else:
            yield index, _listed(part)


def call(made: Recorded, function: str, indent: str) -> str:
    """Write the call of a function, an argument a line, without those that are its defaults.

    Raises NotWritten for a value that has no source.
    """
    lines = []
    for name, value in made.given.items():
        if name in made.defaults and type(value) in PLAIN and value == made.defaults[name]:
            continue
        if not isinstance(value, Tensor) and type(value) not in PLAIN:
            raise NotWritten(f"{name} is {type(value).__name__}, which has no source")
        source = variable(name) if isinstance(value, Tensor) else _plain(value)
        lines.append(f"{source}," if name.isdecimal() else f"{name}={source},")
    inner = "".join(f"\n{indent}    {line}" for line in lines)
    return f"{function}({inner}\n{indent})"


def _plain(value: Any) -> str:
    """Write a value; numbers that are not finite by name, as scripts have it."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def addresses(tensor: Tensor) -> Tensor:
    """Compute the address of every element, int64, in the tensor's shape, on the CPU."""
    found = torch.full(tuple(tensor.shape), tensor.data_ptr(), dtype=torch.int64)
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        steps = torch.arange(size) * stride * tensor.element_size()
        found += steps.view(-1, *(1,) * (tensor.dim() - axis - 1))
    return found


def named(made: Recorded) -> Iterator[tuple[str, Tensor]]:
    """List the tensors of a call by an expression for each: what it returned, then its arguments."""
    returned = made.returned
    if isinstance(returned, Tensor):
        yield "returned", returned
    elif isinstance(returned, tuple | list):
        for n, one in enumerate(returned):
            if isinstance(one, Tensor):
                yield f"returned[{n}]", one
    for name, value in made.given.items():
        if isinstance(value, Tensor):
            yield variable(name), value


def not_zero(made: Recorded, rows: Tensor, at: Tensor, most: int) -> Iterator[tuple[str, float, float]]:
    """List elements that are to be zero and are not: where they come out, their truth and bound.

    rows: what came, at: the address of each. most: of them that are listed.
    """
    wrong = dict.fromkeys(int(at[tuple(index)]) for index in (rows != 0).nonzero()[:most])
    yield from ((place, 0.0, 0.0) for place in places(made, wrong).values())


def places(made: Recorded, wanted: Mapping[int, Any]) -> dict[int, str]:
    """Find expressions for elements, by their address. wanted: addresses, as keys."""
    found: dict[int, str] = {}
    for name, tensor in named(made):
        if not tensor.numel():
            continue
        at = addresses(tensor)
        for address in wanted:
            if address not in found:
                hits = (at == address).nonzero()
                if len(hits):
                    found[address] = f"{name}[{', '.join(map(str, hits[0].tolist()))}]"
    return found
