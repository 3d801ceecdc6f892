"""Plant a fault in a target: another target, and what happens after its call on some cases."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.reference.noise import Contract
from diffgdn.targets import get, heads_compiled, promises_of
from diffgdn.tensors.arena import Arguments


class Planted:
    """Behave as another target, with a fault."""

    def __init__(
        self,
        name: str,
        fault: Callable[[Case, dict[str, Tensor]], None],
        planted: Callable[[Case], bool],
        target: str = "eager",
        operations: tuple[str, ...] | None = None,
    ) -> None:
        """Plant a fault.

        Args:
            name: of the new target.
            fault: called with a case and what the kernel returned, after each call of a case that is
                `planted`; changes the results in
            place, raises, or ends the process.
            planted: whether a case has the fault.
            target: the name of the one that it is planted in.
            operations: some of that one's; None for all.
        """
        self.name, self._fault, self._planted, self._right = name, fault, planted, get(target)
        self.layout, self.promises = self._right.layout, promises_of(self._right)
        self.heads_compiled = heads_compiled(self._right)
        self.operations = self._right.operations if operations is None else operations

    def contract(self, op: str) -> Contract:
        """Return the precision contract of the target that the fault is planted in."""
        return self._right.contract(op)

    def configurations(self, op: str) -> int:
        """Return how many configurations that target has for an operation."""
        return self._right.configurations(op)

    def refuses(self, case: Case, backend: str) -> str | None:
        """Return why that target does not take a case, or None."""
        return self._right.refuses(case, backend)

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        """Run a case on that target, and then the fault, if the case has it."""
        results = self._right.run(case, arguments)
        if self._planted(case):
            self._fault(case, results)
        return results
