"""Where a shrink ends: at the smallest case that fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffgdn.cases.case import Case
from diffgdn.runner.confirm import Confirmed
from diffgdn.verdict.failures import Verdict


def smallest_alone(
    steps: Sequence[Verdict],
    found: Case,
    first: Confirmed,
    confirm: Callable[[Case, Verdict], Confirmed],
    tell: Callable[[Confirmed], None],
) -> Confirmed:
    """Find the smallest case of a shrink that fails in a fresh process, which `first` does.

    steps: the verdicts that the shrink took for failures of its kind, in their order. Where `found`, its
    result, does not fail alone, it was led astray by what other cases had left in the process, which is a
    failure of its own and is told of.
    """
    if found == first.verdict.case:
        return first
    last = next((n for n, step in enumerate(steps) if step.case == found), len(steps) - 1)
    sure = confirm(found, steps[last])
    if sure.alone and sure.verdict.known is None:
        return sure
    tell(sure)
    least, best = 0, first
    while last - least > 1:
        middle = (least + last) // 2
        sure = confirm(steps[middle].case, steps[middle])
        if sure.alone and sure.verdict.known is None:
            least, best = middle, sure
        else:
            last = middle
    return best
