"""Puts findings of one cause together: those that hang on the same features, as replays show.

Of each finding it is asked which features of its case its failure needs (`search.one_feature`): without one
of those it passes. Findings of one target that need the same, in the same function, are of one cause, if each
also fails with the values that the other has. So two faults that hang on the same features count as one until
one of them is mended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from diffgdn.cases import target_names
from diffgdn.cases.case import Case
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.findings import bucket
from diffgdn.findings.finding import Finding, shows_in_company
from diffgdn.runner.harness import Harness
from diffgdn.runner.messages import RunnerError
from diffgdn.search.one_feature import FAILS, PASSES, UNTOLD, Features, Needed, exchanged, features, needed
from diffgdn.verdict.failures import FORM_KINDS, relation_of

CONFIRMED, LIKELY, ALONE, GONE = "same cause, confirmed", "same cause, likely", "alone", "does not fail here"
TOKENS = "how tokens lie"
NOT_RUN = "nothing was run"
APART = ("raised", "hung", "not_captured", *FORM_KINDS)  # kinds that are of one cause with their like alone
Ask = Callable[[Finding, Case], str]


@dataclass(frozen=True)
class Member:
    """A finding, and what its failure needs.

    asked: whether replays say so, or only its case. why: why it was not asked, or what does not hold.
    """

    finding: Finding
    needed: Needed
    asked: bool = True
    why: str = ""

    @property
    def core(self) -> Features:
        """The features that name its cause."""
        return self.needed.core


@dataclass
class Cause:
    """Findings of one cause, the plainest first.

    doubts: what keeps it from being confirmed, in words. likely: numbers of causes before it, from 1, that
    it likely is one with, and what keeps them apart. gone: whether its finding does not fail any more.
    """

    members: list[Member]
    doubts: list[str] = field(default_factory=list)
    likely: dict[int, list[str]] = field(default_factory=dict)
    gone: bool = False

    @property
    def status(self) -> str:
        """CONFIRMED, LIKELY, ALONE, or GONE."""
        if self.gone:
            return GONE
        if len(self.members) == 1:
            return ALONE
        return LIKELY if self.doubts else CONFIRMED


def by_case(finding: Finding) -> Member:
    """Guess what a finding's failure needs from its case alone; nothing is run."""
    case = finding.case
    found = features(case)
    return Member(finding, Needed(case, found, dict.fromkeys(found, False)), asked=False, why=NOT_RUN)


def by_replays(finding: Finding, ask: Ask, promises: Promises = EVERYTHING) -> Member | None:
    """Find out what a finding's failure needs; None if it does not fail any more."""
    if finding.trace is not None or shows_in_company(finding) or relation_of(finding.kind) is not None:
        return Member(finding, by_case(finding).needed, asked=False, why="it takes several calls")
    told = ask(finding, finding.case)
    if told == PASSES:
        return None
    if told == UNTOLD:
        return Member(finding, by_case(finding).needed, asked=False, why="it cannot be run here")
    return Member(finding, needed(finding.case, lambda case: ask(finding, case), promises))


def grouped(members: Sequence[Member], ask: Ask | None, promises: Promises = EVERYTHING) -> list[Cause]:
    """Group findings by cause. ask: None where nothing is run."""
    causes: list[Cause] = []
    for member in sorted(members, key=lambda one: (len(one.core), len(one.needed.features), one.finding.id)):
        likely: dict[int, list[str]] = {}
        for number, cause in enumerate(causes, 1):
            between = _differences(cause.members[0], member, ask, promises)
            if between == []:
                cause.members.append(member)
                break
            if between is not None:
                likely[number] = between
        else:
            causes.append(Cause([member], likely=likely))
    for cause in causes:
        own = [line for member in cause.members for line in _not_shown(member)]
        cause.doubts = list(dict.fromkeys(own))
    return causes


def _differences(head: Member, other: Member, ask: Ask | None, promises: Promises) -> list[str] | None:
    """Say what keeps two findings from being of one cause though they likely are; None if they are of two."""
    one, two = head.finding, other.finding
    if one.target != two.target or one.backend != two.backend:
        return None
    ours, theirs = _concepts(head.core), _concepts(other.core)
    if set(ours) - set(theirs) or (not ours and (theirs or one.operation != two.operation)):
        return None
    shared = _function_in_common(one, two)
    if shared is False:
        return None
    between = []
    if family(one) != family(two):
        if set(theirs) != set(ours) or any(theirs[concept] != own for concept, own in ours.items()):
            return None
        between.append(f"one is {one.kind}, the other {two.kind}")
    if shared is None and one.operation != two.operation:
        between.append("nobody noted whether one function serves both operations")
    if set(theirs) != set(ours):
        between.append(f"it also needs {', '.join(sorted(set(theirs) - set(ours)))}")
    for concept, own in ours.items():
        if theirs[concept] == own:
            continue
        told = _crosswise(head, other, concept, ask, promises) if _is_number(own) else _alike_in(concept)
        if told is None:
            return None
        between += told
    return between


def _is_number(some: Features) -> bool:
    """Tell whether features ask for numbers, as large or as small, of which another may do as well."""
    return all(isinstance(value, dict) and "not" not in value for value in some.values())


def _alike_in(concept: str) -> list[str] | None:
    """Say what keeps features of one concept that differ from being one; None if they are two."""
    return ["their tokens lie in different ways"] if concept == TOKENS else None


def _concepts(core: Features) -> dict[str, Features]:
    """Sort features by what they are about: those that say how tokens lie in memory are about one thing."""
    found: dict[str, Features] = {}
    for word, value in core.items():
        tokens = word == "view" or (word == "strides" and str(value).endswith("tokens"))
        found.setdefault(TOKENS if tokens else word, {})[word] = value
    return found


def _not_shown(member: Member) -> list[str]:
    """Say what no replay has shown of a finding."""
    if not member.asked:
        return [member.why if member.why == NOT_RUN else f"{_short(member.finding)}: {member.why}"]
    missing = [word for word in member.core if not member.needed.shown.get(word)]
    return [f"{_short(member.finding)} could not be run without {word}" for word in missing]


def _crosswise(
    head: Member, other: Member, word: str, ask: Ask | None, promises: Promises
) -> list[str] | None:
    """Give each of two findings the number that the other has, and say what keeps both from failing so.

    None if neither fails.
    """
    if ask is None:
        return [f"{word} differs"]
    told = {}
    for one, two in ((head, other), (other, head)):
        case = exchanged(one.needed.case, (word,), two.needed.case, promises)
        told[_short(one.finding)] = UNTOLD if case is None else ask(one.finding, case)
    if set(told.values()) == {PASSES}:
        return None
    said = {PASSES: "passes with", UNTOLD: "cannot be run with"}
    return [f"{name} {said[one]} {word} of the other" for name, one in told.items() if one != FAILS]


def family(finding: Finding) -> str:
    """Name what a failure is comparable with: a stray access shows as a leak, a wrong number or a crash."""
    if finding.kind == "raised":
        return f"raised {bucket.region(finding.case, finding.kind, None, None, finding.message)}"
    return finding.kind if finding.kind in APART else "wrong"


def _function_in_common(one: Finding, two: Finding) -> bool | None:
    """Tell whether two findings ran one function or kernel; None where nobody noted it."""
    ran = [_ran(finding) for finding in (one, two)]
    return bool(ran[0] & ran[1]) if all(ran) else None


def _ran(finding: Finding) -> set[str]:
    kernels = finding.provenance.get("kernels", "").split(", ")
    return {name for name in (finding.provenance.get("function", ""), *kernels) if name}


def _short(finding: Finding) -> str:
    return f"{finding.operation} {finding.kind} ({(finding.trace or finding.case).id})"


class Replays:
    """Asks findings in child processes, from several threads."""

    def __init__(self, folder: Path, isolation: str | None = None, hang_seconds: float | None = None) -> None:
        self._folder, self._isolation, self._hang_seconds = folder, isolation, hang_seconds
        self._here, self._lock = threading.local(), threading.Lock()
        self._harnesses: list[Harness] = []
        self.errors: dict[str, str] = {}  # by id of the finding

    def close(self) -> None:
        """End all children."""
        for harness in self._harnesses:
            harness.close()

    def _harness(self, finding: Finding) -> Harness:
        found: dict[str, Harness] = self._here.__dict__.setdefault("harnesses", {})
        if finding.backend not in found:
            with self._lock:
                name = self._folder / f"causes-{len(self._harnesses)}"
                note, log = name.with_suffix(".note"), name.with_suffix(".log")
                made = Harness(finding.backend, note, log, self._isolation, self._hang_seconds)
                self._harnesses.append(made)
            found[finding.backend] = made
        return found[finding.backend]

    def promises(self, finding: Finding) -> Promises:
        """What a finding's target promises. Raises RunnerError."""
        return self._harness(finding).about(finding.target).promises

    def ask(self, finding: Finding, case: Case) -> str:
        """Say whether a case fails as a finding does."""
        try:
            verdict = self._harness(finding).ask(case, finding.target, kind=finding.kind)
        except RunnerError as error:
            self.errors[finding.id] = str(error)
            return UNTOLD
        if verdict.refused is not None:
            return UNTOLD
        failure = verdict.failure
        if failure is None:
            return PASSES
        if finding.kind in APART or failure.kind in APART:
            return FAILS if _alike(finding, failure.kind, failure.message) else PASSES
        return FAILS


def _alike(finding: Finding, kind: str, message: str) -> bool:
    first = finding.message.partition(":")[0]
    return kind == finding.kind and (kind != "raised" or message.partition(":")[0] == first)


def find(found: Sequence[Finding], replays: Replays, workers: int = 1) -> list[Cause]:
    """Group findings by cause, by replays; last come those that do not fail here. Raises RunnerError."""
    promises: dict[str, Promises] = {}

    def one(finding: Finding) -> Member | None:
        own = replays.promises(finding)
        promises[finding.target] = own
        return by_replays(finding, replays.ask, own)

    with ThreadPoolExecutor(workers) as pool:
        members = list(pool.map(one, found))
    causes: list[Cause] = []
    for target in dict.fromkeys(finding.target for finding in found):
        some = [one for one in members if one is not None and one.finding.target == target]
        causes += grouped(some, replays.ask, promises[target])
    gone = [by_case(finding) for finding, one in zip(found, members, strict=True) if one is None]
    return causes + [Cause([one], gone=True) for one in gone]


def clash(found: Sequence[Finding]) -> str | None:
    """Name a target of which two versions are asked for, which one process cannot have."""
    names = list(dict.fromkeys(finding.target for finding in found))
    return next((name for name in names if target_names.clash(name, [n for n in names if n != name])), None)
