"""What a failing test leaves: a finding, and lines that say how to see it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from diffgdn.findings.finding import OUT_OF_TIME
from diffgdn.pytest_plugin.plugin_harness import unfinished
from diffgdn.pytest_plugin.plugin_state import State
from diffgdn.report.finding_lines import company
from diffgdn.runner.confirm import Confirmed
from diffgdn.verdict.failures import CheckFailure, Verdict


def save_first(state: State, verdict: Verdict, sure: Confirmed, target: str) -> None:
    """The failure as it was seen, before it is shrunk: a shrink may be interrupted."""
    harness = state.harness
    finding = harness.finding(sure, target)
    state.first[type(sure.failure) if sure.alone else verdict.case.id] = finding
    if not (harness.findings.path / f"{finding.id}.json").exists():
        harness.findings.keep(finding)
        state.saved.add(finding.id)


def saved(state: State, failure: CheckFailure) -> str:
    """Save the finding that a test ended with, and say how to see it again."""
    call, verdict, target, drawn = failure.__dict__["diffgdn"]
    harness, first = state.harness, state.first.pop(type(failure), None)
    first = state.first.pop(verdict.case.id, first)
    sure = state.answers.company.get((verdict.case.id, target))
    if sure is None and first is not None and first.case == verdict.case:
        sure = Confirmed(call, verdict)  # it has been asked when it was first seen
    sure = sure or harness.confirm(call, verdict, target)
    # A first case with earlier calls of its own depended on them from the start.
    alone = first is not None and first.reproduced and not (first.prelude or first.case.before)
    astray = alone and not sure.alone
    if sure.alone:
        sure = replace(
            sure, verdict=replace(sure.verdict, failure=harness.explained(sure.failure, sure.call, target))
        )
    finding = harness.finding(sure, target, None if first is None else first.case)
    finding = replace(finding, shrink=OUT_OF_TIME if astray else state.answers.shrunk(verdict, drawn))
    path, problem = harness.findings.keep(finding, anew=first is not None and first.id == finding.id)
    example = [f"    @example(case={verdict.case!r})"] if sure.alone else []
    said = [f"{type(sure.failure).__name__}: {sure.failure}"]
    if problem is not None:
        return "\n".join([*said, problem, "Reproduce with:", *example])
    if astray:
        assert first is not None
        said += [f"its shrink went astray: {line.strip()}" for line in company(finding)[:1]]
        said.append(f"as it was first seen: {harness.findings.path / first.id}.json")
    elif first is not None and first.id != finding.id and first.id in state.saved:
        harness.findings.remove(first)
    depends = company(finding)
    depends += [f"  {finding.case!r}"] if depends else []
    lines = [*said, *depends, f"saved as {path}", *harness.documented(finding)]
    return "\n".join(
        [*lines, "Reproduce with:", f"    diffgdn replay {path}", *example, *unfinished(finding, path)]
    )


def leaves(error: BaseException) -> Iterator[CheckFailure]:
    """The checked failures in an exception, which Hypothesis groups where there are several."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    elif "diffgdn" in error.__dict__:
        yield error  # type: ignore[misc]
