"""Looks for the version with which a finding begins to fail, or ends: released ones, or revisions in git.

Each step is a replay in processes of its own. A version that cannot be run, or that fails in another way,
tells nothing and is left out; what is found is then said to lie among several.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffgdn.backend import git_tree
from diffgdn.backend.git_tree import GitError
from diffgdn.campaign import replay_findings
from diffgdn.findings import bucket
from diffgdn.findings.finding import Finding

RIGHT, WRONG, UNTOLD = "right", "wrong", "cannot tell"
OURS = "diffgdn"  # a folder of this name in a tree would be imported in place of this package


class BisectError(ValueError):
    """Raised for what cannot be bisected, in one line."""


class NoChange(BisectError):
    """Raised where all versions that tell something say the same. steps: of those asked, in their order."""

    def __init__(self, steps: Sequence[Step]) -> None:
        told = [step for step in steps if step.status != UNTOLD]
        names = " and ".join(dict.fromkeys((told[0].version.name, told[-1].version.name)))
        self.words = {f"{told[0].status} in": names}
        untold = [step.version.name for step in steps if step.status == UNTOLD]
        if untold:
            self.words["not told of"] = ", ".join(untold)
        super().__init__(f"it is {told[0].status} in {names}, of those that can be run")


@dataclass(frozen=True)
class Version:
    """One of the versions, in their order. name: in words; place: a wheel, a folder, or a commit."""

    name: str
    place: str


@dataclass(frozen=True)
class Step:
    """What a version does: RIGHT, WRONG or UNTOLD, and why, in one line."""

    version: Version
    status: str
    why: str = ""


@dataclass(frozen=True)
class Change:
    """Where a finding begins to fail, or ends.

    before, after: neighbours of which one is right and one is wrong. untold: versions between them that tell
    nothing.
    """

    before: Step
    after: Step
    untold: tuple[Step, ...] = ()

    @property
    def words(self) -> dict[str, str]:
        """Say it as a finding has it."""
        begins = self.after.status == WRONG
        first, last = ("first wrong", "last right") if begins else ("first right", "last wrong")
        said = {first: self.after.version.name, last: self.before.version.name}
        if self.untold:
            said["not told of"] = ", ".join(step.version.name for step in self.untold)
        return said


def search(versions: Sequence[Version], ask: Callable[[Version], Step], every: bool = False) -> Change:
    """Find where a finding begins to fail, or ends, by halves.

    versions: the oldest first. ask: replays it with one, and is asked once of each. every: all of them, of
    which the last change counts. Raises BisectError if those that tell something all say the same.
    """
    steps: dict[int, Step] = {}

    def at(n: int) -> Step:
        if n not in steps:
            steps[n] = ask(versions[n])
        return steps[n]

    if every:
        for n in range(len(versions)):
            at(n)
    numbers = range(len(versions))
    low = next((n for n in numbers if at(n).status != UNTOLD), None)
    if low is None:
        raise BisectError("none of these versions tells anything")
    high = next(n for n in reversed(numbers) if at(n).status != UNTOLD)
    if every:
        told = [n for n in numbers if steps[n].status != UNTOLD]
        pairs = [(a, b) for a, b in itertools.pairwise(told) if steps[a].status != steps[b].status]
        low, high = pairs[-1] if pairs else (low, high)
    if at(low).status == at(high).status:
        raise NoChange([steps[n] for n in sorted(steps)])
    while True:
        between = [n for n in range(low + 1, high) if n not in steps or steps[n].status != UNTOLD]
        if not between:
            return Change(at(low), at(high), tuple(steps[n] for n in range(low + 1, high)))
        ends = low + high
        middle = min(between, key=lambda n: abs(2 * n - ends))
        status = at(middle).status
        if status == at(low).status:
            low = middle
        elif status == at(high).status:
            high = middle


@dataclass(frozen=True)
class Asker:
    """Replays a finding with one version. options: of `replay_findings.run`."""

    finding: Finding
    backend: str | None
    options: dict[str, Any]

    def step(self, version: Version, target: str) -> Step:
        """Replay it on a target, and say what the version does."""
        there = replace(self.finding, target=target)
        (result,) = replay_findings.run([there], self.backend, trusted=True, **self.options)
        why = result.detail or ""
        if result.error is not None or result.skipped is not None:
            return Step(version, UNTOLD, why)
        failed = [failure for failure in result.failures if failure is not None]
        if not failed:
            return Step(version, RIGHT)
        alike = any(_alike(failure["kind"], self.finding.kind) for failure in failed)
        return Step(version, WRONG if alike else UNTOLD, why)


def _alike(one: str, other: str) -> bool:
    """Tell whether two kinds of failure are the same, or may be of one stray read."""
    return bucket.fault(one) == bucket.fault(other) or (one in bucket.STRAY and other in bucket.STRAY)


# Revisions in git.


def git(repository: Path, *words: str) -> str:
    """Ask git about a repository. Raises BisectError with what it says."""
    try:
        return git_tree.git(repository, *words)
    except GitError as error:
        raise BisectError(f"git: {error}") from None


def revisions(repository: Path, first: str, last: str) -> list[Version]:
    """List the commits from one to another, both among them, along first parents. Raises BisectError."""
    ends = [
        git(repository, "rev-parse", "--verify", "--end-of-options", f"{one}^{{commit}}")
        for one in (first, last)
    ]
    listed = git(repository, "rev-list", "--reverse", "--first-parent", f"{ends[0]}..{ends[1]}").splitlines()
    if not listed or git(repository, "merge-base", *ends) != ends[0]:
        raise BisectError(f"{last} does not come after {first}")
    names = git(repository, "log", "--no-walk=unsorted", "--format=%h %s", ends[0], *listed).splitlines()
    return [Version(name, commit) for name, commit in zip(names, [ends[0], *listed], strict=True)]


@contextlib.contextmanager
def tree(repository: Path, commit: str) -> Iterator[Path]:
    """While active, have the files of a commit in a folder of their own; the repository is left alone.

    Raises BisectError.
    """
    with tempfile.TemporaryDirectory(prefix="diffgdn-") as name:
        folder = Path(name) / "tree"
        try:
            git_tree.lay_out(repository, commit, folder)
        except GitError as error:
            raise BisectError(f"git: {error}") from None
        if (folder / OURS / "__init__.py").is_file():
            raise BisectError(f"the repository has a package {OURS} of its own; `git bisect run` does that")
        yield folder


def of_commit(asker: Asker, repository: Path, version: Version, folder: Path, target: str) -> Step:
    """Replay a finding with the files of a commit. folder: of the repository, in which it is run."""
    with tree(repository, version.place) as top:
        there = top / folder
        missing = _missing(there, target)
        if missing is not None:
            return Step(version, UNTOLD, missing)
        with contextlib.chdir(there):
            return asker.step(version, target)


def _missing(folder: Path, target: str) -> str | None:
    """Say what is not there of a target's code: then Python would take another version of it."""
    module = target.rpartition(":")[0]
    top = module if module.endswith(".py") else module.partition(".")[0]
    places = [folder / top] if top.endswith(".py") else [folder / top, folder / f"{top}.py"]
    return None if any(place.exists() for place in places) else f"it has no {top}"
