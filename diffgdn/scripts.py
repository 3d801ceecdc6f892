"""What the scripts of findings import. These names stay, so that a script runs with later versions too."""

from __future__ import annotations

from collections.abc import Sequence

from diffgdn.backend import selection
from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.cases.lay import Lay
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.prelude import Call
from diffgdn.cases.sparsity import Only
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_form import Form
from diffgdn.cases.trace_steps import Step
from diffgdn.verdict.question import question_of

__all__ = [
    "Call",
    "Case",
    "Edit",
    "Form",
    "Gates",
    "Lay",
    "Only",
    "Operands",
    "Pool",
    "Step",
    "Trace",
    "Values",
    "ask",
]


def ask(call: Call, target: str, backend: str, before: Sequence[Call] = ()) -> int:
    """Run a call on a target in this process, after others, and print what came of it.

    before: calls that run first, in this order; nothing is asked of them. The heap of the process is looked
    at in the end, where it can be. Returns the exit status: 0 the call is right, 1 it is wrong.
    """
    selection.enter(backend)
    from diffgdn.runner.in_process import InProcess  # imports torch, for which the backend must be chosen

    runner = InProcess(backend)
    heap_is_readable = runner.damage() is None
    for earlier in before:
        runner.run(earlier.subject, target, question_of(earlier))
    verdict = runner.run(call.subject, target, question_of(call))
    print(verdict.refused or verdict.failure or "right")
    if verdict.comparison is not None:
        at = verdict.comparison.worst()
        got, expected = float(verdict.comparison.got[at]), float(verdict.comparison.expected[at])
        print(f"got {got}, expected {expected}")
    damage = runner.damage() if heap_is_readable else None
    if damage is not None:
        print(f"the heap of this process is damaged: {damage}", flush=True)
    return 0 if verdict.ok and damage is None else 1
