"""Makes the calls that a case names before its own (`cases.company`), of which nothing is asked."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from diffgdn.backend import interpreter
from diffgdn.cases import company
from diffgdn.cases.case import Case
from diffgdn.targets import Target
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.layout import arrange
from diffgdn.tensors.poison import PoisonedEmpty
from diffgdn.verdict.failures import KernelRaised


def make(
    case: Case, target: Target, backend: str, arguments: Arguments, zeros: bool = False
) -> list[Arguments]:
    """Make the earlier calls of a case in their order, after which its own arguments are as they were laid
    out.

    arguments: of its own call; a call with new values in the same memory is made with these very tensors.
    zeros: for all that is otherwise poison. Returns the arguments of the calls: as long as they are kept, no
    address of theirs comes again. Raises KernelRaised of an earlier call.
    """
    kept = []
    for word, earlier in company.calls(case):
        given = _arranged(earlier, target, arguments.arena.device, zeros)
        if word == company.IN_PLACE:
            _overwrite(arguments, given)
            _call(word, earlier, target, backend, arguments, zeros)
            arguments.restore()
        else:
            _call(word, earlier, target, backend, given, zeros)
            kept.append(given)
    return kept


def _arranged(case: Case, target: Target, device: torch.device, zeros: bool) -> Arguments:
    """Lay the tensors of a case out in memory of their own."""
    data = inputs.draw(case)
    if zeros:  # padding tokens too
        data = {name: x.nan_to_num(nan=0.0) if x.is_floating_point() else x for name, x in data.items()}
    return arrange(case, data, device, target.layout, zeros)


def _overwrite(arguments: Arguments, other: Arguments) -> None:
    """Give tensors, in place, the values of others of the same shapes."""
    for name, tensor in arguments.tensors.items():
        if tensor is not None:
            tensor.copy_(other[name])


def _call(word: str, case: Case, target: Target, backend: str, arguments: Arguments, zeros: bool) -> None:
    """Call the target once, fresh memory poisoned. Raises KernelRaised."""
    order = interpreter.program_order(case.order, case.values.seed, False) if backend == "interpret" else None
    try:
        with PoisonedEmpty(zeros), order or nullcontext():
            target.run(case, arguments)
        if arguments.arena.is_cuda:
            torch.cuda.synchronize()
    except Exception as error:
        message = interpreter.explain(str(error).strip()) or "no message"
        said = f"{type(error).__name__}: {message}; in the call before it, {word}: {case!r}"
        raise KernelRaised(case.op, None, None, said) from error
