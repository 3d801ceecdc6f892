"""Makes the other calls of a relation on the target, or says that they cannot be made."""

from __future__ import annotations

from dataclasses import dataclass

from diffgdn.cases.case import Case
from diffgdn.targets import Target, refusal
from diffgdn.tensors.inputs import Data
from diffgdn.verdict.relations import registry
from diffgdn.verdict.relations.labelled_results import Side, call, with_bounds


class DoesNotApply(Exception):
    """Raised, with the reason, if a relation says nothing about a case, or the target does not take its other
    calls."""


@dataclass(frozen=True)
class Calls:
    """Makes the other calls on a target."""

    target: Target
    backend: str

    def __call__(
        self,
        case: Case,
        data: Data,
        measured: bool = False,
        target: Target | None = None,
        again: bool = False,
    ) -> Side:
        """Make one call. measured: measure its own bounds. target: instead of the one under test. again: as
        the case's second call, see `execute.is_turned`.

        Raises KernelRaised, and DoesNotApply if the target refuses the case.
        """
        target = target or self.target
        refused = refusal(target, case, self.backend)
        if refused is not None:
            raise DoesNotApply(refused)
        side = call(case, data, target, self.backend, again)
        return with_bounds(side, case, data, target) if measured else side

    def counterpart(self, relation: str, case: Case) -> str:
        """Name the operation of the other calls. Raises DoesNotApply if the target has none."""
        other = registry.counterpart(relation, case.op, tuple(self.target.operations))
        if other is None:
            raise DoesNotApply(f"{self.target.name} has no counterpart of {case.op}")
        return other
