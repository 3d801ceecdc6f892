"""What all repro scripts share; `repro.inline` copies it from here, together with what it uses.

It asks what `execute` asks of one call, by copies of the same functions, and needs torch and numpy only. What
differs from case to case (tensors, the call, its results, their noise) a script holds as data.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffgdn.backend.interpreter.program_order import program_order  # noqa: F401 (copied into scripts)
from diffgdn.reference.limit import MAX_SIGMAS
from diffgdn.reference.noise.tolerance import (
    bound_of,
    error_in_sigmas,
    last_rounding,
    overflows,
    representable,
)
from diffgdn.tensors.far_memory import lazily
from diffgdn.tensors.poison import POISON, PoisonedEmpty, fill, unwritten
from diffgdn.tensors.region import aligned
from diffgdn.tensors.results import Result, WrongForm, by_name, collect, of_truth

BESIDE = 3  # elements shown on either side of the worst


def unpack(text: str, kind: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Unpack a tensor from base64 of zlib of its bits."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.dtype(kind).newbyteorder("<"))
    return torch.from_numpy(bits.astype(kind)).view(dtype).view(shape)


class Memory:
    """Hold the tensors that the kernel gets in one allocation, with poison (NaN) around and between them.

    `layout` is that of states, "vk" or "kv"; `views` holds the tensors by name.
    """

    def __init__(self, size: int, device: str, layout: str) -> None:
        """Allocate `size` bytes of poison on a device."""
        self.layout = layout
        self._words = aligned(size // 2, POISON).to(device)
        self.views: dict[str, Tensor] = {}
        self._far: list[Tensor] = []  # what is watched of tensors that lie elsewhere
        self._before: list[Tensor] = []
        self._old: list[tuple[Tensor, Any, Tensor]] = []  # what the call may write: where, and what was there

    def place(self, name: str, values: Tensor, start: int, strides: tuple[int, ...]) -> Tensor:
        """Put a tensor of these values at byte `start`, with strides in elements."""
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
        """Make a tensor at byte `start`, with strides in elements, filled with poison or another pattern of
        16 bits.
        """
        view = self._words.view(dtype).as_strided(shape, strides, start // dtype.itemsize)
        self.views[name] = view if pattern == POISON else fill(view, pattern)
        return view

    def clear(self, start: int, size: int) -> None:
        """Fill `size` bytes from byte `start` on with zeros."""
        self._words[start // 2 : (start + size) // 2] = 0

    def far_room(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        start: int,
        strides: tuple[int, ...],
        words: int,
        watched: Sequence[tuple[int, int]],
        pattern: int = POISON,
    ) -> Tensor:
        """Make a tensor at byte `start` of an allocation of its own, of so many 16-bit words, filled with
        poison or another pattern.

        Only pages between the `watched` pairs of words are touched; the others take no memory on a CPU.
        """
        storage = lazily(words, self._words.device)
        self._far += [fill(storage[first:last], pattern) for first, last in watched]
        self.views[name] = storage.view(dtype).as_strided(shape, strides, start // dtype.itemsize)
        return self.views[name]

    def _watched(self) -> list[Tensor]:
        """List what is compared before and after the call, as 16-bit words."""
        return [self._words, *self._far]

    def bits(self) -> Tensor:
        """Copy all watched words to the CPU."""
        return torch.cat([part.cpu() for part in self._watched()])

    def snapshot(self, results: Iterable[Result]) -> None:
        """Remember all watched memory, and which parts of it the call may write."""
        self._before = [part.clone() for part in self._watched()]
        for result in results:
            if result.lies in self.views:
                view = self.views[result.lies]
                self._old.append((view, result.index, view[result.index].clone()))

    def restore(self) -> None:
        """Put back what `snapshot` remembered."""
        for part, before in zip(self._watched(), self._before, strict=True):
            part.copy_(before)

    def places(self) -> set[int]:
        """Return the addresses of the allocations."""
        return {part.untyped_storage().data_ptr() for part in self._watched()}

    def changed(self) -> Iterator[str]:
        """Say, a line each, where memory differs from the snapshot although the call must not write there."""
        new = [view[index].clone() for view, index, _ in self._old]
        for view, index, old in self._old:
            view[index] = old
        for part, before in zip(self._watched(), self._before, strict=True):
            words = (part != before).nonzero().flatten()
            if words.numel():
                where = self._describe(int(words[0])) if part is self._words else "memory of a far tensor"
                yield f"{where} was changed ({words.numel()} 16-bit words)"
        for (view, index, _), values in zip(self._old, new, strict=True):
            view[index] = values

    def _describe(self, word: int) -> str:
        """Name the tensor nearest to a word of the allocation, and the element there."""
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
    """Reshape to [tokens, *shape] in float64 on the CPU, however the leading axes are cut."""
    return x.cpu().double().reshape(x.numel() // math.prod(shape), *shape)


def l2norm(x: Tensor) -> Tensor:
    """Divide by the norm over the last axis: x / sqrt(sum(x * x) + 1e-6)."""
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def log_decay(
    a: Tensor,
    dt_bias: Tensor | None,
    A_log: Tensor,
    lower_bound: float | None,
    softplus: tuple[float, float] = (1.0, 20.0),
) -> Tensor:
    """Compute g [tokens, HV, 1 or K] from raw gates, in float64.

    a is [tokens, HV, 1 or K], A_log [HV], dt_bias [HV] or [HV, K], None for zeros. g = -exp(A_log) *
    softplus(a + dt_bias), or with a lower bound g = lower_bound * sigmoid(exp(A_log) * (a + dt_bias)). With
    `softplus` (c, threshold), softplus(x) = log(1 + exp(c x)) / c, and x where c x is past the threshold.
    """
    HV, width = a.shape[1:]
    rate = torch.exp(A_log.cpu().double()).view(HV, 1)
    x = a if dt_bias is None else a + dt_bias.cpu().double().view(HV, width)
    if lower_bound is None:
        factor, threshold = softplus
        curved = torch.logaddexp(factor * x, torch.zeros_like(x)) / factor
        return -rate * torch.where(factor * x > threshold, x, curved)
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
    """Compute the gated delta rule token by token, in float64.

    q and k are [tokens, HV, K], v [tokens, HV, V], g [tokens, HV, 1 or K], beta [tokens, HV], each state of
    `initial` [HV, V, K]. `spans` gives each sequence's first token and one past its last; `trees` gives for
    each sequence the token that each token follows, -1 for none. For each token S = S * exp(g); S = S + beta
    * (v - S k) k^T; o = scale * S q.

    Returns o [tokens, HV, V], and for each sequence its initial state and the state after each token, [HV, V,
    K].
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
    """Make what results are compared with, by name, each when it is asked for.

    `o` has the outputs of the first `total` tokens; `state`, `steps` and `boundary` have the states after the
    last token, after every token, and before every chunk.
    """

    def stacked(states: list[Tensor]) -> Tensor:
        return torch.stack(states) if states else paths[0][0].new_zeros(0, *paths[0][0].shape)

    return {
        "o": lambda: o[:total],
        "state": lambda: stacked([path[-1] for path in paths]),
        "steps": lambda: stacked([state for path in paths for state in path[1:]]),
        "boundary": lambda: stacked([path[t] for path in paths for t in range(0, len(path) - 1, chunk_size)]),
    }


def compare(result: Result, got: Tensor, truth: Tensor, noise: Tensor, pattern: int, exact: bool) -> bool:
    """Print the worst element of a result and its neighbours, and return whether no element is wrong.

    `noise` is the root mean square of what allowed roundings do to each element, `pattern` what the memory
    was filled with before the call; `exact` says that nothing rounds.
    """
    expected, noise = of_truth(result, truth), of_truth(result, noise)
    got = got.cpu().reshape(expected.shape)
    hole, values = unwritten(got, pattern).view(got.shape), got.double()
    last = last_rounding(expected, noise, got.dtype)
    bound, error = bound_of(last, noise), (values - expected).abs()
    over = overflows(expected, bound, got.dtype)
    wrong = values != expected if exact else (error_in_sigmas(error, last, noise) > MAX_SIGMAS) & ~over
    wrong |= hole | (~values.isfinite() & ~over)
    axes = {"o": "token, head, V", "steps": "token, head, V, K"}
    axes |= dict.fromkeys(("boundary", "tracked"), "chunk, head, V, K")
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
    again: Callable[[], Any] | None,
    tail: int = 0,
    asked: dict[str, str] | None = None,
    exact: bool = False,
) -> bool:
    """Make the call, print what is wrong, and return whether nothing is.

    `names` are those of what the kernel returns; `truth` and `noise` are by `Result.truth`; `unrounded` names
    truths that no rounding but the last one changes; `again` makes the call again, from the same memory. The
    output of `tail` padding tokens is promised to be zero. `asked` has the keyword that asks for a result;
    with `exact` nothing else may be returned.
    """
    memory.snapshot(results)
    try:
        fresh, returned, found = called(memory, call, names, results, asked, exact)
    except WrongForm as error:
        print(f"{error.name}: {error}")
        return False
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
    if tail:
        right &= zero_rows(returned["o"].reshape(-1, *results[0].shape[1:])[-tail:])
    return (again is None or same_again(memory, again, names, results, returned, found)) and right


def zero_rows(rows: Tensor) -> bool:
    """Print how much of the output behind the last sequence is not zero, and return whether nothing is."""
    wrong = rows[rows != 0]
    if wrong.numel():
        print(f"o behind the last sequence: {wrong.numel()} of {rows.numel()} elements are not zero;")
        print(f"  the first is {float(wrong[0]):.6g} (nan: never written, or of forbidden memory)")
    return not wrong.numel()


def called(
    memory: Memory,
    call: Callable[[], Any],
    names: Sequence[str],
    results: Sequence[Result],
    asked: dict[str, str] | None = None,
    exact: bool = False,
) -> tuple[PoisonedEmpty, dict[str, Tensor], dict[str, Tensor]]:
    """Make the call, and return what was allocated in it, what it returned, and every result.

    Memory that torch allocates inside the call starts as NaN, so that an element left unwritten shows.
    Raises WrongForm for a result that did not come, or in another shape or dtype than its own, and with
    `exact` for what nothing asks for.
    """
    fresh = PoisonedEmpty()
    with fresh:
        returned = by_name(names, call(), asked, memory.views.values() if exact and names else None)
    if "out" in memory.views:
        returned = {"o": memory.views["out"]}
    if any(view.is_cuda for view in memory.views.values()):
        torch.cuda.synchronize()
    return fresh, returned, collect(results, memory.views, returned, memory.layout)


def same_again(
    memory: Memory,
    call: Callable[[], Any],
    names: Sequence[str],
    results: Sequence[Result],
    returned: dict[str, Tensor],
    first: dict[str, Tensor],
) -> bool:
    """Make the call again from the same memory, print what differs, and return whether nothing does."""
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
    """View a tensor's elements as 16-bit words, in one row."""
    return x.reshape(-1).contiguous().view(torch.int16)
