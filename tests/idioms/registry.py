"""What an idiom is: a tiny Triton kernel as people write them, its inputs, what it must leave behind, and
how exactly.

An idiom has a truth of its own, computed by torch on the CPU, and a record of an H100 (record.json). Results
are held to both by one rule: the same bits where IEEE 754 or the integer arithmetic fixes them, else within
the documented error of the function, of which the rule names the source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
POISON_BYTE = 0x5A
Out = tuple[torch.dtype, tuple[int, ...]] | Tensor


@dataclass(frozen=True)
class Rule:
    """The largest distance from the truth: the sum of the terms that are given. None given: the same bits.

    `ulp` counts units in the last place of the truth in the output's dtype, `relative` multiplies its
    magnitude, `absolute` is added, and `bound` gives a distance for each element from the inputs.
    """

    source: str
    ulp: float = 0.0
    relative: float = 0.0
    absolute: float = 0.0
    bound: Callable[..., Tensor] | None = None

    @property
    def exact(self) -> bool:
        return not (self.ulp or self.relative or self.absolute or self.bound)


BITS = Rule("IEEE 754, round to nearest even; integers modulo 2^n")


@dataclass(frozen=True)
class Idiom:
    """A kernel, called as kernel[grid](*inputs, *outputs, *arguments, **constants).

    `truth` takes the inputs and returns the outputs, one tensor or several, exact or in float64; None where
    only hardware decides. An output given as a tensor is what the memory holds before the call.
    `raises` holds what the interpreter is expected to say in one line where it cannot do what a GPU does.
    `removed` is the version of Triton that no longer has what the kernel uses, `changed` the one that does it
    otherwise than the record's: from it on only the truth counts.
    """

    name: str
    kernel: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Out, ...]
    truth: Callable[..., Any] | None
    rule: Rule = BITS
    grid: tuple[int, ...] = (1,)
    arguments: tuple[Any, ...] = ()
    constants: dict[str, Any] = field(default_factory=dict)
    launch: Callable[..., None] | None = None
    raises: str = ""
    removed: tuple[int, int] | None = None
    changed: tuple[int, int] | None = None

    def run(self, device: str = "cpu") -> list[Tensor]:
        """Call the kernel on fresh copies; returns the outputs on the CPU."""
        inputs = [tensor.clone().to(device) for tensor in self.inputs]
        outputs = [fresh(out, device) for out in self.outputs]
        if self.launch is not None:
            self.launch(self.kernel, inputs, outputs)
        else:
            self.kernel[self.grid](*inputs, *outputs, *self.arguments, **self.constants)
        return [tensor.cpu() for tensor in outputs]

    def truths(self) -> list[Tensor] | None:
        """The outputs that `truth` expects."""
        if self.truth is None:
            return None
        found = self.truth(*self.inputs)
        return list(found) if isinstance(found, (tuple, list)) else [found]


IDIOMS: dict[str, Idiom] = {}


def fresh(out: Out, device: str) -> Tensor:
    """Memory for an output: a copy of what it holds before the call, else a pattern that no result has."""
    if isinstance(out, Tensor):
        return out.clone().to(device)
    dtype, shape = out
    memory = torch.empty(shape, dtype=dtype)
    memory.view(torch.uint8).fill_(0 if dtype == torch.bool else POISON_BYTE)
    return memory.to(device)


def idiom(
    *inputs: Tensor,
    out: Out | Sequence[Out],
    truth: Callable[..., Any] | None,
    name: str = "",
    rule: Rule = BITS,
    grid: tuple[int, ...] = (1,),
    arguments: Sequence[Any] = (),
    launch: Callable[..., None] | None = None,
    raises: str = "",
    removed: tuple[int, int] | None = None,
    changed: tuple[int, int] | None = None,
    **constants: Any,
) -> Callable[[Any], Any]:
    """Enter a kernel into IDIOMS, under its own name or `name`. Raises ValueError if the name is taken."""
    several = isinstance(out, list)

    def enter(kernel: Any) -> Any:
        plain = kernel
        while not hasattr(plain, "__name__"):  # autotuned or under heuristics
            plain = plain.fn
        own = name or plain.__name__
        if own in IDIOMS:
            raise ValueError(f"two idioms have the name {own}")
        IDIOMS[own] = Idiom(
            name=own,
            kernel=kernel,
            inputs=inputs,
            outputs=tuple(out) if several else (out,),  # type: ignore[arg-type]
            truth=truth,
            rule=rule,
            grid=grid,
            arguments=tuple(arguments),
            constants=constants,
            launch=launch,
            raises=raises,
            removed=removed,
            changed=changed,
        )
        return kernel

    return enter
