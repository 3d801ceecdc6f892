"""The runner in this process, as scripts of 0.1.0 call it: `from diffgdn.isolate.here import Here`."""

from __future__ import annotations

from typing import Any

from diffgdn.cases.prelude import Call
from diffgdn.runner.in_process import InProcess
from diffgdn.verdict.failures import Verdict
from diffgdn.verdict.question import question_of


class Here(InProcess):
    """Runs cases in this process. A relation goes by its name."""

    def run(self, case: Any, target: str, *, relation: str | None = None) -> Verdict:  # type: ignore[override]
        """Ask about a case or a trace, under a relation if one is named."""
        return super().run(case, target, question_of(Call(case, relation)))
