"""Runs the ordinary campaign on a mutant, with nothing to tell it where to look, until it is found."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from diffgdn import campaign
from diffgdn.campaign import events, reshrink
from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.findings.finding import COMPLETE
from diffgdn.mutants.mutant import Mutant
from diffgdn.mutants.mutant_targets import name_of

COMPILING = "compile"  # the phase in which a GPU's campaign runs each build once
LOOKING = (COMPILING, *events.COUNTED)  # phases in which a mutant may be found

SHRINK_WAIT = 10.0  # seconds that the campaign may go on to shrink the first finding, ...
SHRINK_SECONDS = 60.0  # ... and that it may take then, if something is left to shrink


@dataclass(frozen=True)
class Kill:
    """What a campaign made of a mutant.

    found: whether it found anything. seconds, cases: until then; on a GPU with those of the compilation
    before exploration, in which each build is run once. operation, kind, result: of the first finding;
    shrunk: its case as it was left; shrink_seconds: how long it took, shrink_steps: how many cases were run
    for it; all None if it was not. problem: why nothing can be said of one that was not found: its campaign
    could not run, or did not end. compile_seconds: what that compilation took of the seconds.
    """

    mutant: str
    found: bool
    seconds: float
    cases: int
    operation: str = ""
    kind: str = ""
    result: str | None = None
    shrunk: Case | None = None
    shrink_seconds: float | None = None
    shrink_steps: int | None = None
    problem: str | None = None
    compile_seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        case = None if self.shrunk is None else self.shrunk.to_json()
        return {**vars(self), "shrunk": case}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Kill:
        """Return what `to_json` made a dict of. Raises ValueError or KeyError for what is none."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        shrunk = values["shrunk"]
        return cls(**{**values, "shrunk": None if shrunk is None else Case.from_json(shrunk)})


class _Enough(KeyboardInterrupt):
    """Ends a campaign as Ctrl-C does: what was found is kept."""


class _Watch:
    """Listens to a campaign for the first finding, and for its being shrunk."""

    def __init__(self, shrink: bool) -> None:
        self.shrink, self.begin, self.cases = shrink, 0.0, 0
        self.first: events.FindingFound | None = None
        self.seconds, self.compile_seconds = 0.0, 0.0
        self.compiling = False
        self.smaller: events.FindingShrunk | None = None
        self.shrink_seconds, self.shrink_steps = 0.0, 0
        self.ended = False

    def _end(self) -> NoReturn:
        self.ended = True
        raise _Enough

    def __call__(self, event: events.Event) -> None:
        if self.ended or isinstance(event, events.CampaignEnded):
            return  # what a campaign still says while it ends, and what nothing is left to end after
        if isinstance(event, events.PhaseStarted) and event.phase in LOOKING and not self.begin:
            self.begin = time.monotonic()
        if isinstance(event, events.PhaseStarted):
            self.compiling = event.phase == COMPILING
        if isinstance(event, events.PhaseEnded) and event.phase == COMPILING and self.first is None:
            self.compile_seconds = event.seconds
        if isinstance(event, events.CaseRun) and event.phase in LOOKING and self.first is None:
            self.cases += not event.shrinking
        if isinstance(event, events.CaseRun) and event.shrinking and self._is_of_its_operation(event):
            self.shrink_steps += 1
        if isinstance(event, events.FindingFound) and self.first is None:
            now = time.monotonic()
            self.begin = self.begin or now  # found in a replay, before any case that counts
            self.first, self.seconds = event, now - self.begin
            if self.compiling:
                self.compile_seconds = self.seconds
            if not self.shrink:
                self._end()
        if isinstance(event, events.FindingShrunk) and self._is_of_the_first(event):
            self.smaller = event
            self.shrink_seconds += event.seconds
            if event.last:
                self._end()
        if self.first is not None and time.monotonic() - self.begin > self.seconds + SHRINK_WAIT:
            self._end()

    def _is_of_its_operation(self, event: events.CaseRun) -> bool:
        """Whether a case is of the operation of the first finding; one of its findings shrinks at a time."""
        return self.first is not None and event.operation == self.first.finding.operation

    def _is_of_the_first(self, event: events.FindingShrunk) -> bool:
        """Whether what became smaller is the first finding, not one that another operation had meanwhile."""
        latest = self.smaller or self.first
        return latest is not None and event.before == latest.finding.id


def hunt(
    mutant: Mutant,
    backend: str,
    seed: int,
    max_time: float,
    workers: int,
    folder: Path,
    shrink: bool = True,
    operations: tuple[str, ...] = tuple(OPERATIONS),
    hang_seconds: float | None = None,
    memory_bytes: int | None = None,
    isolation: str | None = None,
) -> Kill:
    """Fuzz a mutant over all operations until it is found and a finding is shrunk, or the time is up.

    max_time: seconds of exploration. folder: where its findings go. shrink: False to end at the first
    finding. operations: others than all. hang_seconds: after which a case counts as hung, memory_bytes:
    that a process may occupy, isolation: where kernels run; None for the usual.
    Raises RuntimeError if the campaign could not run, KeyboardInterrupt if the user ended it.
    """
    config = campaign.Config(
        target=name_of(mutant.id),
        operations=operations,
        backend=backend,
        seed=seed,
        workers=workers,
        corpus=folder,
        max_time=max_time,
        hang_seconds=hang_seconds,
        memory_bytes=memory_bytes,
        isolation=isolation,
        allow_unreached=True,
    )
    watch = _Watch(shrink)
    outcome = campaign.run(config, watch)
    if outcome.interrupted and not watch.ended:
        raise KeyboardInterrupt
    if watch.first is None:
        if outcome.problem is not None:
            raise RuntimeError(f"{mutant.id}: {outcome.problem}")
        spent = watch.compile_seconds
        return Kill(mutant.id, False, max_time + spent, watch.cases, compile_seconds=spent)
    first = watch.first.finding
    smaller, seconds, steps = _made_small(watch, backend) if shrink else (None, None, None)
    return Kill(
        mutant.id,
        True,
        watch.seconds,
        watch.cases,
        first.operation,
        first.kind,
        first.tensor,
        smaller,
        seconds,
        steps,
        compile_seconds=watch.compile_seconds,
    )


def _made_small(watch: _Watch, backend: str) -> tuple[Case | None, float | None, int | None]:
    """Go on with the shrink of the first finding, which a campaign leaves off for others.

    Returns the case, seconds and cases run, those of the campaign with them; None where nothing came of it.
    """
    latest = watch.smaller or watch.first
    assert latest is not None
    seconds, steps = watch.shrink_seconds, watch.shrink_steps
    if latest.finding.shrink == COMPLETE:
        return latest.finding.case, seconds, steps
    entry = (latest.finding, Path(latest.path))
    result = reshrink.run([entry], backend, SHRINK_SECONDS, trusted=True)[0]
    if result.smaller is not None and result.error is None:
        return result.smaller.case, seconds + result.seconds, steps + result.cases
    return (None, None, None) if watch.smaller is None else (latest.finding.case, seconds, steps)
