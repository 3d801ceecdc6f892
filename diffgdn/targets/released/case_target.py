"""A released target whose calls are made for a case, where an adapter must know more than keywords say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.targets import pinning
from diffgdn.targets.released.package import Found, Function, ReleasedTarget, adapter
from diffgdn.tensors.arena import Arguments

Call = Callable[[Case, Arguments], dict[str, Tensor]]


class CaseTarget(ReleasedTarget):
    """A target of calls that take a case and its arguments, and return what `Target.run` does."""

    def __init__(
        self, found: Found, made: Mapping[str, Call], asked: Mapping[str, frozenset[str]], **given: Any
    ) -> None:
        """Make a target of calls by operation.

        asked: keywords of `targets.calls` that a call is for, of those without which a function is not asked
        (`calls.unspoken`). given: as of ReleasedTarget. Raises TargetError.
        """
        self._calls = dict(made)
        adapters = {op: adapter(_not_called(op), asked.get(op, frozenset())) for op in made}
        super().__init__(found, adapters, **given)

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        with self._noted(case.op), pinning.pinned(self._all_tuners(), case.config):
            return self._calls[case.op](case, arguments)


def _not_called(op: str) -> Function:
    def call(**given: Any) -> Any:
        raise NotImplementedError(f"{op} is called for a case")

    return call
