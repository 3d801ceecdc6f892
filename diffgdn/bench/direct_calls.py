"""Makes the calls that are timed: a target's own function on its keyword arguments, ready to be called.

What an adapter does around a released function, such as gathering states and noting what is launched, is no
part of that function, and would be timed with it. So the adapter makes its call once for each set of tensors,
and the function's call is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.targets import FunctionTarget, Target, pinning, recording
from diffgdn.tensors.arena import Arguments

Call = Callable[[], Any]


@dataclass(frozen=True)
class Calls:
    """The calls of one target on one shape.

    direct: one for each set of tensors, of the function itself if `own`, else of the whole target. whole: of
    the whole target, adapter included; none if nothing is around the function.
    """

    direct: tuple[Call, ...]
    whole: tuple[Call, ...]
    own: bool


def of(target: Target, case: Case, sets: Sequence[Arguments], tuned: bool = True) -> Calls:
    """Make the calls of a target on sets of tensors. Each set is used once where an adapter is around.

    tuned: kernels are tuned as they are shipped. If not, only an adapter can pin them, and is never left out.
    """
    if isinstance(target, FunctionTarget) and not target.adapts:
        function = target.functions[case.op]
        made = tuple(functools.partial(function, **target.given(case, one)) for one in sets)
        return Calls(made, (), own=True)
    if not tuned:
        whole = tuple(functools.partial(target.run, case, one) for one in sets)
        return Calls(whole, whole, own=False)
    whole = tuple(functools.partial(_run, target, case, one) for one in sets)
    kept = [_kept(call) for call in whole]
    if any(len(calls) != 1 for calls in kept):
        return Calls(whole, whole, own=False)  # several calls, or none that is watched
    direct = tuple(_with_tables(calls[0], kept[0][0]) for calls in kept)
    return Calls(direct, whole, own=True)


def _run(target: Target, case: Case, arguments: Arguments) -> Any:
    with pinning.as_shipped():
        return target.run(case, arguments)


def _kept(call: Call) -> list[recording.Again]:
    with recording.kept() as calls:
        call()
    return calls


def _with_tables(call: recording.Again, first: recording.Again) -> recording.Again:
    """Pass the cu_seqlens of the first call: one table goes to all layers of a model, and kernels keep what
    they made of it, where some adapters copy it for each call."""
    if "cu_seqlens" not in call.keywords:
        return call
    given = {**call.keywords, "cu_seqlens": first.keywords["cu_seqlens"]}
    return functools.partial(call.func, *call.args, **given)
