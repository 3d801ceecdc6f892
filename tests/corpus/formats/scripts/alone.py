"""gdn.decode on vk: beyond_bound

an example: nothing is wrong

Found 2026-11-27 with diffgdn; versions: diffgdn 0.1.0.
    python vk-gdn.decode-beyond_bound-8817dbd92193.py             exits 1 while the kernel is wrong, 0 once it is right
    diffgdn replay vk-gdn.decode-beyond_bound-8817dbd92193.json   the same case under every check

Case(op='gdn.decode', K=2, V=2)

The case, its tensors and the call stand at the end, below what all scripts share.
"""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # Triton's interpreter, where it was found: no GPU needed
try:  # diffgdn mends what is wrong in some versions of it; without diffgdn it runs as it is
    from diffgdn import interpreter

    interpreter.repair()
except ImportError:
    pass

import base64
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffgdn.kernels import fused_sigmoid_gating_delta_rule_update as kernel

# Noises that an error may come to; docs/calibration.md has the distributions that it rests on.
LIMIT = 10.0
TINY = 2.0**-120  # below any result that fp32 arithmetic with flushed denormals resolves
# Significant bits, and the smallest normal number.
PRECISION = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}
LOWEST_POWER = {torch.float32: 2.0**-126, torch.bfloat16: 2.0**-126, torch.float16: 2.0**-14}
EXPONENT_BITS = 0x7FF << 52  # of a float64


def half_ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the spacing of `dtype` at |x|, the largest error of one correct rounding. x: float64."""
    power = (x.contiguous().view(torch.int64) & EXPONENT_BITS).view(torch.float64)  # the one below |x|
    return power.clamp_(min=LOWEST_POWER[dtype]).mul_(2.0 ** -PRECISION[dtype])


def last_rounding(expected: Tensor, noise: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest error of the rounding to the dtype that a result is kept in, which no kernel can avoid."""
    return half_ulp(expected.abs() + LIMIT * noise, dtype)


def bound_of(last: Tensor, noise: Tensor) -> Tensor:
    """The largest error that passes. last: of the last rounding; noise: what roundings before it may do."""
    return last + LIMIT * noise + TINY


def overflows(expected: Tensor, bound: Tensor, dtype: torch.dtype) -> Tensor:
    """Where a correct kernel may round to infinity, as the format ends within the bound."""
    return expected.abs() + bound >= torch.finfo(dtype).max


def in_noises(error: Tensor, last: Tensor, noise: Tensor) -> Tensor:
    """Errors less the last rounding, in noises, of which LIMIT pass; infinite for an error that is NaN."""
    excess = (error - last).clamp_(min=0.0).div_(noise + TINY / LIMIT)
    return excess.nan_to_num_(nan=torch.inf)


def representable(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether all of x is what it is in another format."""
    return (x.to(dtype).double() == x).all()


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


def collected(
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


def by_name(names: Iterable[str], returned: Any) -> dict[str, Any]:
    """What a function returned, by `returned_names`. Raises TypeError for what is no tensor."""
    values = returned if isinstance(returned, tuple) else (returned,)
    found = {name: value for name, value in zip(names, values, strict=False) if name}
    for name, value in found.items():
        if not (hasattr(value, "data_ptr") or (value is None and name != "o")):
            raise TypeError(f"returned {type(value).__name__} for {name}, expected a tensor")
    return {name: value for name, value in found.items() if value is not None}


POISON = 0x7FDB
FRESH = 0x7FD5
OWN = [pattern for pattern in range(0x7FC1, 0x8000) if pattern not in (POISON, FRESH)]  # quiet NaNs as well
GUARD_BYTES = 1024  # of a guard zone
PARTS = ("guards", "inside")  # of fresh memory that is poisoned
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def _repeated(pattern: int, size: int) -> int:
    """A 16-bit pattern side by side, in `size` bytes."""
    return int.from_bytes(pattern.to_bytes(2, "little") * (size // 2), "little")


def fill(tensor: Tensor, pattern: int = POISON) -> Tensor:
    """Overwrite every element that the tensor shows, in place; tensors of odd-sized elements are left
    alone."""
    size = tensor.dtype.itemsize
    if tensor.numel() and size in _WORDS and not tensor.dtype.is_complex:
        tensor.view(_WORDS[size]).fill_(_repeated(pattern, size))
    return tensor


def full(shape: tuple[int, ...], dtype: torch.dtype, pattern: int = POISON) -> Tensor:
    """A new CPU tensor of poison."""
    units = math.prod(shape) * dtype.itemsize // 2
    return torch.full((units,), pattern, dtype=torch.int16).view(dtype).view(shape)


def unwritten(tensor: Tensor, pattern: int = FRESH) -> Tensor:
    """Boolean mask of the elements of a float tensor that still hold what their memory was filled with."""
    size = tensor.dtype.itemsize
    return tensor.contiguous().view(_WORDS[size]) == _repeated(pattern, size)


@dataclass(frozen=True)
class Stray:
    """A write beside fresh memory. offset: in elements of the tensor, from its first one; count: of bytes."""

    tensor: Tensor
    offset: int
    count: int


class Fresh:
    """A tensor in memory of its own, with a guard zone on either side."""

    def __init__(self, like: Tensor, parts: Collection[str] = PARTS, pattern: int = FRESH) -> None:
        """like: whose shape, strides, dtype and device it takes. parts: what is poisoned. pattern: inside."""
        self.pattern = pattern
        size = like.dtype.itemsize
        extent = 1 + sum((n - 1) * stride for n, stride in zip(like.shape, like.stride(), strict=True))
        self._end = GUARD_BYTES + extent * size
        numel = -(-(self._end + GUARD_BYTES) // 16) * 16
        self._bytes = torch.zeros(numel, dtype=torch.uint8, device=like.device)
        self._inside = self._bytes[GUARD_BYTES : self._end].view(like.dtype)
        self.tensor = self._inside.as_strided(like.shape, like.stride())
        if "guards" in parts or "before" in parts:
            fill(self._bytes[:GUARD_BYTES].view(torch.int16))
        if "guards" in parts or "after" in parts:
            tail = self._bytes[self._end :]
            tail.copy_(full((numel,), torch.uint8)[self._end % 2 :][: tail.numel()])
        if "inside" in parts:
            fill(self._inside, pattern)
        self._guards = self.guards().clone()

    def guards(self) -> Tensor:
        return torch.cat([self._bytes[:GUARD_BYTES], self._bytes[self._end :]])

    def stray(self) -> Stray | None:
        """The first byte of a guard zone that has changed."""
        changed = (self.guards() != self._guards).nonzero().flatten()
        if not changed.numel():
            return None
        first = int(changed[0])
        place = first - GUARD_BYTES if first < GUARD_BYTES else first - 2 * GUARD_BYTES + self._end
        return Stray(self.tensor, place // self.tensor.dtype.itemsize, changed.numel())


class PoisonedEmpty(TorchDispatchMode):
    """While active, memory that torch allocates without initialising it is filled, with poison or with zeros,
    and lies between guard zones.

    A kernel's launcher allocates outputs and workspaces by torch.empty and its kin; an element that a kernel
    then leaves unwritten still holds the pattern, and a read of it shows as NaN. Every allocation has a
    pattern of its own: what an output took from a workspace is no hole in the output. only: with zeros, the
    number of one allocation, and the part of it ("before", "inside", "after") that is poisoned all the same.
    """

    NAMES = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")

    def __init__(self, zeros: bool = False, only: tuple[int, str] | None = None) -> None:
        super().__init__()
        self.zeros, self.only = zeros, only
        self.allocated: list[Fresh] = []
        self._overloads = {overload for name in self.NAMES for overload in _overloads(name)}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is ever compiled; True would import the whole of torch._dynamo, which takes
        seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func not in self._overloads or not isinstance(out, Tensor):
            return out
        if not _plain(out):
            return out.zero_() if self.zeros else fill(out, FRESH)
        parts: Collection[str] = () if self.zeros else PARTS
        if self.only is not None and self.only[0] == len(self.allocated):
            parts = self.only[1:]
        self.allocated.append(Fresh(out, parts, OWN[len(self.allocated) % len(OWN)]))
        return self.allocated[-1].tensor

    def pattern(self, tensor: Tensor) -> int:
        """What the memory of a tensor was filled with."""
        place = tensor.untyped_storage().data_ptr()
        same = (one.pattern for one in self.allocated if one.tensor.untyped_storage().data_ptr() == place)
        return next(same, FRESH)

    def stray(self) -> Stray | None:
        """The first write beside any of the memory allocated."""
        found = (fresh.stray() for fresh in self.allocated)
        return next((stray for stray in found if stray is not None), None)


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor may lie anywhere in memory, as far as a caller of torch.empty can tell."""
    return (
        tensor.numel() > 0
        and tensor.layout == torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and not tensor.requires_grad
        and not (tensor.device.type == "cpu" and torch.cuda.is_available() and tensor.is_pinned())
    )


def _overloads(name: str) -> list[Any]:
    packet = getattr(torch.ops.aten, name)
    return [getattr(packet, overload) for overload in packet.overloads()]


BESIDE = 3  # elements shown on either side of the worst


def unpack(text: str, kind: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor from base64 of zlib of its bits."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.dtype(kind).newbyteorder("<"))
    return torch.from_numpy(bits.astype(kind)).view(dtype).view(shape)


class Memory:
    """The tensors that the kernel gets, in one allocation, poison (NaN) around and between them.

    layout: of states, "vk" or "kv". views: the tensors by name.
    """

    def __init__(self, size: int, device: str, layout: str) -> None:
        """size: of the allocation, in bytes."""
        self.layout = layout
        self._words = torch.full((size // 2,), POISON, dtype=torch.int16, device=device)
        self.views: dict[str, Tensor] = {}
        self._far: list[Tensor] = []  # what is watched of a pool that lies elsewhere
        self._before: list[Tensor] = []
        self._old: list[tuple[Tensor, Any, Tensor]] = []  # what the call may write: where, and what was there

    def place(self, name: str, values: Tensor, start: int, strides: tuple[int, ...]) -> Tensor:
        """A tensor of these values, from byte `start` on."""
        return self.room(name, tuple(values.shape), values.dtype, start, strides).copy_(values)

    def room(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        start: int,
        strides: tuple[int, ...],
        pattern: int = POISON,
    ) -> Tensor:
        """A tensor of poison, from byte `start` on."""
        view = self._words.view(dtype).as_strided(shape, strides, start // dtype.itemsize)
        self.views[name] = view if pattern == POISON else fill(view, pattern)
        return view

    def far_room(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        strides: tuple[int, ...],
        numel: int,
        watched: Sequence[tuple[int, int]],
    ) -> Tensor:
        """A tensor in an allocation of its own, whose pages are touched between some elements alone; the
        others take no memory on a CPU."""
        storage = torch.empty(numel, dtype=dtype, device=self._words.device)
        self._far = [fill(storage[start:stop]).view(torch.int16) for start, stop in watched]
        self.views[name] = storage.as_strided(shape, strides)
        return self.views[name]

    def _watched(self) -> list[Tensor]:
        return [self._words, *self._far]

    def bits(self) -> Tensor:
        return torch.cat([part.cpu() for part in self._watched()])

    def snapshot(self, results: Iterable[Result]) -> None:
        """Remember everything, and what of it the call may write."""
        self._before = [part.clone() for part in self._watched()]
        for result in results:
            if result.lies in self.views:
                view = self.views[result.lies]
                self._old.append((view, result.index, view[result.index].clone()))

    def restore(self) -> None:
        for part, before in zip(self._watched(), self._before, strict=True):
            part.copy_(before)

    def places(self) -> set[int]:
        """Addresses of the allocations."""
        return {part.untyped_storage().data_ptr() for part in self._watched()}

    def changed(self) -> Iterator[str]:
        """In words, where memory differs from the snapshot though the call must not write there."""
        new = [view[index].clone() for view, index, _ in self._old]
        for view, index, old in self._old:
            view[index] = old
        for part, before in zip(self._watched(), self._before, strict=True):
            words = (part != before).nonzero().flatten()
            if words.numel():
                where = self._describe(int(words[0])) if part is self._words else "state: memory of the pool"
                yield f"{where} was changed ({words.numel()} 16-bit words)"
        for (view, index, _), values in zip(self._old, new, strict=True):
            view[index] = values

    def _describe(self, word: int) -> str:
        """What lies at a word of the allocation: the nearest tensor."""
        least, nearest = -1, ""
        for name, view in self.views.items():
            if view.untyped_storage().data_ptr() == self._words.untyped_storage().data_ptr():
                size, steps = view.element_size(), zip(view.shape, view.stride(), strict=True)
                start = view.storage_offset() * size
                end = start + (1 + sum((n - 1) * stride for n, stride in steps)) * size
                distance = int(max(start - 2 * word, 2 * word - end + 1, 0))
                if least < 0 or distance < least:
                    least, nearest = distance, f"{name}: memory at element {(2 * word - start) // size}"
        return nearest


def per_token(x: Tensor, *shape: int) -> Tensor:
    """[tokens, *shape] in float64, however its leading axes are cut."""
    return x.cpu().double().reshape(x.numel() // math.prod(shape), *shape)


def l2norm(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def log_decay(a: Tensor, dt_bias: Tensor, A_log: Tensor, lower_bound: float | None) -> Tensor:
    """g [tokens, HV, 1 or K] from raw gates."""
    HV, width = a.shape[1:]
    rate = torch.exp(A_log.cpu().double()).view(HV, 1)
    x = a + dt_bias.cpu().double().view(HV, width)
    if lower_bound is None:
        return -rate * torch.logaddexp(x, torch.zeros_like(x))  # softplus
    return lower_bound * torch.sigmoid(rate * x)


def recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    initial: Sequence[Tensor],
    spans: Sequence[tuple[int, int]],
    scale: float,
    trees: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, list[list[Tensor]]]:
    """o [tokens, HV, V], and of each sequence its initial state and the state after each token, [HV, V, K].

    q, k [tokens, HV, K], v [tokens, HV, V], g [tokens, HV, 1 or K], beta [tokens, HV], in float64. spans:
    first token of each sequence and one past its last. trees: of each sequence the token that each token
    follows, -1 for none.
    """
    o, paths = torch.zeros_like(v), []
    for n, (start, stop) in enumerate(spans):
        path = [initial[n]]
        for t in range(start, stop):
            S = path[-1] if trees is None else path[trees[n][t - start] + 1]
            S = S * torch.exp(g[t]).unsqueeze(-2)
            d = beta[t].unsqueeze(-1) * (v[t] - (S * k[t].unsqueeze(-2)).sum(-1))
            S = S + d.unsqueeze(-1) * k[t].unsqueeze(-2)
            o[t] = scale * (S * q[t].unsqueeze(-2)).sum(-1)
            path.append(S)
        paths.append(path)
    return o, paths


def truths(
    o: Tensor, paths: list[list[Tensor]], total: int, chunk_size: int
) -> dict[str, Callable[[], Tensor]]:
    """What results are compared with: outputs of the first `total` tokens, states after the last token, after
    every token, and before every chunk."""

    def stacked(states: list[Tensor]) -> Tensor:
        return torch.stack(states) if states else paths[0][0].new_zeros(0, *paths[0][0].shape)

    return {
        "o": lambda: o[:total],
        "state": lambda: stacked([path[-1] for path in paths]),
        "steps": lambda: stacked([state for path in paths for state in path[1:]]),
        "boundary": lambda: stacked([path[t] for path in paths for t in range(0, len(path) - 1, chunk_size)]),
    }


def compare(result: Result, got: Tensor, truth: Tensor, noise: Tensor, pattern: int, exact: bool) -> bool:
    """Print the worst element and its neighbours. Whether none is wrong.

    noise: root mean square of what allowed roundings do to each element. pattern: what the memory was filled
    with. exact: nothing rounds.
    """
    expected, noise = of_truth(result, truth), of_truth(result, noise)
    got = got.cpu().reshape(expected.shape)
    hole, values = unwritten(got, pattern).view(got.shape), got.double()
    last = last_rounding(expected, noise, got.dtype)
    bound, error = bound_of(last, noise), (values - expected).abs()
    over = overflows(expected, bound, got.dtype)
    wrong = values != expected if exact else (in_noises(error, last, noise) > LIMIT) & ~over
    wrong |= hole | (~values.isfinite() & ~over)
    axes = {"o": "token, head, V", "steps": "token, head, V, K", "boundary": "chunk, head, V, K"}
    name = f"{result.name} [{axes.get(result.name, 'sequence, head, V, K')}]"
    print(f"{name}: {int(wrong.sum())} of {wrong.numel()} elements are wrong")
    if not wrong.any():
        return True
    if hole.any():
        print(f"  {int(hole.sum())} were never written")
    ratio = torch.where(wrong, (error / bound).nan_to_num(nan=math.inf), -1.0)
    at = tuple(int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape))
    first = max(at[-1] - BESIDE, 0)
    near = at[:-1] + (slice(first, first + 2 * BESIDE + 1),)
    place = [at[0] if result.rows is None else result.rows[at[0]], *at[1:]]
    most = 0.0 if exact else float(bound[at])
    print(f"  worst at {place}: error {error[at]:.3g}, bound {most:.3g}; its row from {first} on:")
    print("    got     ", *(f"{x:<12.6g}" for x in values[near].tolist()))
    print("    expected", *(f"{x:<12.6g}" for x in expected[near].tolist()))
    return False


def judge(
    memory: Memory,
    call: Callable[[], Any],
    names: Sequence[str],
    results: Sequence[Result],
    truth: dict[str, Callable[[], Tensor]],
    noise: dict[str, Tensor],
    unrounded: Sequence[str],
    twice: bool,
) -> bool:
    """Make the call and say what is wrong. Whether nothing is.

    names: of what the kernel returns. truth, noise: by `Result.truth`. unrounded: truths that no rounding
    before the last changes. twice: make the call again, from the same memory.
    """
    memory.snapshot(results)
    try:
        fresh, returned, found = called(memory, call, names, results)
    except (Exception, SystemExit) as error:
        print(f"the kernel raised {type(error).__name__}: {error}")
        return False
    right = True
    for line in memory.changed():
        print(line)
        right = False
    stray = fresh.stray()
    if stray is not None:
        shape = list(stray.tensor.shape)
        print(
            f"memory beside a tensor {shape} that the kernel allocated was changed, at element {stray.offset}"
        )
        right = False
    kept = [one for one in results if one.name in found]
    wanted = {one.truth: truth[one.truth]() for one in kept}
    exact = all(
        one.truth in unrounded and representable(wanted[one.truth], found[one.name].dtype) for one in kept
    )
    for one in kept:
        pattern = fresh.pattern(returned.get(one.name, found[one.name]))
        right &= compare(one, found[one.name], wanted[one.truth], noise[one.truth], pattern, exact)
    return (not twice or same_again(memory, call, names, results, returned, found)) and right


def called(
    memory: Memory, call: Callable[[], Any], names: Sequence[str], results: Sequence[Result]
) -> tuple[PoisonedEmpty, dict[str, Tensor], dict[str, Tensor]]:
    """Make the call. Memory that torch allocates inside it starts as NaN, so that an element left unwritten
    shows. What was allocated, what was returned, and every result."""
    fresh = PoisonedEmpty()
    with fresh:
        returned = by_name(names, call())
    if "out" in memory.views:
        returned = {"o": memory.views["out"]}
    if any(view.is_cuda for view in memory.views.values()):
        torch.cuda.synchronize()
    return fresh, returned, collected(results, memory.views, returned, memory.layout)


def same_again(
    memory: Memory,
    call: Callable[[], Any],
    names: Sequence[str],
    results: Sequence[Result],
    returned: dict[str, Tensor],
    first: dict[str, Tensor],
) -> bool:
    """Whether the same call from the same memory gives the same bits."""
    first = {name: tensor.cpu().clone() for name, tensor in first.items()}
    after = memory.bits()
    memory.restore()
    try:
        _, again, second = called(memory, call, names, results)
    except (Exception, SystemExit) as error:
        print(f"the same call again raised {type(error).__name__}: {error}")
        return False
    right = True
    for name, tensor in again.items():
        place = tensor.untyped_storage().data_ptr()
        shared = tensor.numel() and place == returned[name].untyped_storage().data_ptr()
        if shared and place not in memory.places():
            print("the same call again returned the memory of the first call's result")
            right = False
    pairs = [(first[name], second[name].cpu()) for name in first] + [(after, memory.bits())]
    if not all(torch.equal(bits(one), bits(other)) for one, other in pairs):
        print("the same call twice gave different bits")
        right = False
    return right


def bits(x: Tensor) -> Tensor:
    return x.reshape(-1).contiguous().view(torch.int16)


# The case.
nan, inf = float("nan"), float("inf")
DEVICE = "cpu"
H, HV, K, V = 1, 1, 2, 2
TOKENS, SCALE = 1, 0.7071067811865476
SPANS = [(0, 1)]  # first and last token of each sequence

# The arguments, as they lie in memory: values, first byte, strides.
memory = Memory(13824, DEVICE, "vk")
q = memory.place(
    "q",
    torch.full((1, 1, 1, 2), 0.5, dtype=torch.float32),
    1024,
    (
        2,
        2,
        2,
        1,
    ),
)
k = memory.place(
    "k",
    torch.full((1, 1, 1, 2), 0.5, dtype=torch.float32),
    2304,
    (
        2,
        2,
        2,
        1,
    ),
)
v = memory.place(
    "v",
    torch.full((1, 1, 1, 2), 1.0, dtype=torch.float32),
    3584,
    (
        2,
        2,
        2,
        1,
    ),
)
a = memory.place(
    "a",
    torch.tensor([[[-16384.0]]], dtype=torch.float32),
    4864,
    (
        1,
        1,
        1,
    ),
)
b = memory.place(
    "b",
    torch.tensor([[[16384.0]]], dtype=torch.float32),
    6144,
    (
        1,
        1,
        1,
    ),
)
A_log = memory.place("A_log", torch.tensor([0.0], dtype=torch.float32), 7424, (1,))
dt_bias = memory.place("dt_bias", torch.tensor([0.0], dtype=torch.float32), 8704, (1,))
cu_seqlens = memory.place("cu_seqlens", torch.tensor([0, 1], dtype=torch.int32), 9984, (1,))
indices = memory.place("indices", torch.tensor([0], dtype=torch.int32), 11264, (1,))
state = memory.room(
    "state",
    (1, 1, 2, 2),
    torch.float32,
    12544,
    (
        4,
        4,
        2,
        1,
    ),
)
state[0] = torch.full((1, 2, 2), 1.0, dtype=torch.float32)

# What should come out: the recurrence in float64, a sequence at a time.
xq, xk, xv = q, k, v
rq, rk, rv = per_token(xq, H, K), per_token(xk, H, K), per_token(xv, HV, V)
rq, rk = (x.repeat_interleave(HV // H, 1) for x in (rq, rk))
rg, rbeta = log_decay(per_token(a, HV, 1), dt_bias, A_log, lower_bound=None), torch.sigmoid(per_token(b, HV))
zero = torch.zeros(HV, V, K, dtype=torch.float64)
initial = [state[slot].cpu().double() if slot >= 0 else zero for slot in [0]]
o, paths = recurrence(rq, rk, rv, rg, rbeta, initial, SPANS, SCALE, trees=None)
truth = truths(o, paths, 1, 64)

# What the call leaves behind: where it lies, and with which rows of which truth it is compared.
results = (
    Result(
        name="o",
        truth="o",
        shape=(1, 1, 2),
        dtype="float32",
        lies="returned",
        at=(),
        rows=None,
        zero=(),
        held=1,
        sure=True,
    ),
    Result(
        name="state",
        truth="state",
        shape=(1, 1, 2, 2),
        dtype="float32",
        lies="state",
        at=((0,),),
        rows=(0,),
        zero=(),
        held=1,
        sure=True,
    ),
)
# What the roundings that the kernel may make do to each, root mean square; 10 times that passes.
noise = {
    "o": torch.tensor([[[5.041568359812053e-08, 5.905977369731579e-08]]], dtype=torch.float64),
    "state": torch.full((1, 1, 2, 2), 5.960464477539063e-08, dtype=torch.float64),
}


def call():
    return kernel(
        A_log=A_log,
        a=a,
        dt_bias=dt_bias,
        q=q,
        k=k,
        v=v,
        b=b,
        initial_state_source=state,
        initial_state_indices=indices,
        layout="vk",
        scale=None,
        cu_seqlens=cu_seqlens,
        softplus_beta=1.0,
        softplus_threshold=20.0,
        is_kda=False,
        lower_bound=None,
        use_qk_l2norm_in_kernel=False,
        batch_invariant=False,
    )


right = judge(memory, call, ("o",), results, truth, noise, (), twice=True)
print("right" if right else "WRONG")
sys.exit(0 if right else 1)
