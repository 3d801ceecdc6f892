"""Makes the matrix of a target: plain cases, features beside them, smaller cases of what is wrong, pairs.

Cells are asked about side by side, each thread with a child process. A feature that needs another one (gates
in fp16 need q in fp16) waits for it, and is not reached where the target does not have it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from diffgdn.cases import promise_axes
from diffgdn.cases.case import Case
from diffgdn.cases.promises import Promises
from diffgdn.findings.known import NOTHING, KnownFailures
from diffgdn.probe import plain_search
from diffgdn.probe.asker import Asked, Asker
from diffgdn.probe.cells import NOT_REACHED, PLAIN, RIGHT, WRONG, Cell, Matrix, Row
from diffgdn.probe.feature_pairs import Pair, pairs
from diffgdn.probe.features import Feature, cases, features
from diffgdn.probe.needs_of_cases import MET, OPEN, Known
from diffgdn.probe.plan import Plan, usual
from diffgdn.runner.gpu_turn import needs_turn

Listener = Callable[[str, int, int], None]
NO_GPU = "it needs a GPU"
NOT_PLAIN = "the plain case is not right"
INTERRUPTED = "the probe was interrupted"


@dataclass(frozen=True)
class Config:
    """What to probe.

    operations: those of the target that are asked about. pattern: of features, as a shell pattern; others are
    asked about where these need them. workers: threads, each with a child. max_seconds: after which no more
    pairs and smaller cases are looked for; cells are all decided, however long it takes.
    """

    target: str
    backend: str
    operations: tuple[str, ...]
    pattern: str = "*"
    workers: int = 1
    max_seconds: float = 120.0
    hang_seconds: float | None = None
    with_pairs: bool = True
    known: KnownFailures = NOTHING


@dataclass
class _Operation:
    """An operation while it is asked about."""

    op: str
    own: Promises
    plain: Cell | None = None
    plan: Plan | None = None
    instead: tuple[str, ...] = ()
    known: Known | None = None
    waiting: list[Feature] = field(default_factory=list)
    cells: dict[Feature, Cell] = field(default_factory=dict)
    left: list[Pair] | None = None
    pairs: list[Cell] = field(default_factory=list)
    asked_pairs: int = 0
    running: int = 0


def probe(config: Config, listen: Listener = lambda words, done, known: None) -> Matrix:
    """Probe a target. listen: told what was decided last, how many cells are, and of how many is known.

    After Ctrl-C it holds what is known by then. Raises SetupError where the target cannot be had, RunnerError
    where the machinery fails, KeyboardInterrupt if the user ends it before anything is known.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one child a core: threads of theirs would only queue
    began, interrupted = time.monotonic(), False
    # A child that is ended while it writes there must not keep the folder from going.
    with tempfile.TemporaryDirectory(prefix="diffgdn-probe-", ignore_cleanup_errors=True) as folder:
        asker = Asker(config.target, config.backend, Path(folder), config.hang_seconds, config.known)
        try:
            about = asker.harness.about(config.target)
            selected = tuple(op for op in config.operations if op in about.operations)
            table = [_Operation(op, about.promises.of(op)) for op in selected]
            run = _Run(config, asker, table, began, listen)
            try:
                run.run()
            except KeyboardInterrupt:
                interrupted = True
                run.leave_out()
        finally:
            asker.close()
    known = [one for one in table if one.plain is not None]
    if not known and interrupted:
        raise KeyboardInterrupt
    rows = tuple(_row(one) for one in known)
    seconds = time.monotonic() - began
    package = next((said["package"] for said in about.provenance.values() if "package" in said), "")
    return Matrix(
        config.target, config.backend, about.device, rows, seconds, about.promises, package, interrupted
    )


def _row(one: _Operation) -> Row:
    assert one.plain is not None
    plan = one.plan or usual(one.op)
    order = {feature: n for n, feature in enumerate(features(one.op, plan))}
    cells = tuple(one.cells[feature] for feature in sorted(one.cells, key=order.__getitem__))
    left = len(one.left or ())
    values = tuple(promise_axes.asked(plan.case()))
    return Row(one.op, one.plain, one.instead, values, cells, tuple(one.pairs), one.asked_pairs, left)


class _Run:
    """The jobs of a probe: what is asked next, and what becomes of an answer."""

    def __init__(
        self, config: Config, asker: Asker, table: list[_Operation], began: float, listen: Listener
    ) -> None:
        self._config, self._asker, self._table, self._listen = config, asker, table, listen
        self._until = began + config.max_seconds
        self._jobs: dict[Future[Any], Callable[[Any], None]] = {}
        self._pool = ThreadPoolExecutor(config.workers)
        # Large cases take turns on a GPU: workers that waited for theirs would ask about nothing else.
        self._large_pool = ThreadPoolExecutor(1)

    def run(self) -> None:
        """Ask until nothing is left to ask. Raises what an answer raises."""
        try:
            for one in self._table:
                self._find_plain(one)
            while self._jobs:
                done, _ = wait(self._jobs, return_when=FIRST_COMPLETED)
                for job in done:
                    self._jobs.pop(job)(job.result())
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._large_pool.shutdown(wait=False, cancel_futures=True)

    def leave_out(self) -> None:
        """Take what has not been asked for not reached."""
        for one in self._table:
            if one.plan is None:
                continue
            for feature in _wanted(features(one.op, one.plan), one.plan, self._config.pattern):
                if feature not in one.cells:
                    self._decide(one, feature, NOT_REACHED, INTERRUPTED)

    def _submit(
        self,
        then: Callable[[Any], None],
        work: Callable[..., Any],
        *arguments: Any,
        some: Collection[Case] = (),
    ) -> None:
        """Have a worker do something, and take what it returns. some: the cases that it asks about."""
        large = any(needs_turn(case, self._config.backend) for case in some)
        pool = self._large_pool if large else self._pool
        self._jobs[pool.submit(work, *arguments)] = then

    def _tell(self, cell: Cell) -> None:
        done = sum(len(one.cells) for one in self._table)
        known = sum(len(one.cells) + len(one.waiting) + one.running for one in self._table)
        self._listen(f"{cell.op} {cell.name}: {cell.status}", done, known)

    def _find_plain(self, one: _Operation) -> None:
        def ask(some: tuple[Case, ...]) -> Cell:
            return self._asker.cell(Asked(one.op, PLAIN, PLAIN, None), some, one.own)

        def then(found: tuple[Plan | None, Cell, tuple[str, ...]]) -> None:
            one.plan, one.plain, one.instead = found
            self._tell(one.plain)
            self._begin(one)

        self._submit(then, plain_search.find, one.op, one.own, ask)

    def _begin(self, one: _Operation) -> None:
        """Begin with the features of an operation whose plain case has been looked for."""
        every = features(one.op, one.plan or usual(one.op))
        if one.plan is None:
            for feature in every:
                if fnmatchcase(feature.name, self._config.pattern):
                    self._decide(one, feature, NOT_REACHED, NOT_PLAIN)
            return
        wanted = _wanted(every, one.plan, self._config.pattern)
        one.known = Known(one.plan, wanted)
        for feature in wanted:
            if (
                self._config.backend == "interpret"
                and feature.axis == "execution"
                and feature.value != "eager"
            ):
                self._decide(one, feature, NOT_REACHED, NO_GPU)
            else:
                one.waiting.append(feature)
        self._go_on(one)

    def _is_plain(self, one: _Operation, feature: Feature) -> None:
        """Take what came of the plain case for a feature that it has."""
        assert one.plain is not None
        assert one.known is not None
        one.cells[feature] = replace(
            one.plain, name=feature.name, axis=feature.axis, value=feature.value, asked=0
        )
        one.known.learn(feature, one.plain.status)

    def _decide(self, one: _Operation, feature: Feature, status: str, words: str) -> None:
        own = [case for case in cases(feature, one.plan or usual(one.op)) if not one.own.broken_by(case)]
        cell = Cell(one.op, feature.name, feature.axis, feature.value, status, bool(own), message=words)
        one.cells[feature] = cell
        if one.known is not None:
            one.known.learn(feature, status)

    def _go_on(self, one: _Operation) -> None:
        """Ask about the features of an operation that need nothing of which it is not known that it is right.

        Where none is being asked about any more, what still waits is not reached.
        """
        assert one.plan is not None
        assert one.known is not None
        for feature in tuple(one.waiting):
            found = cases(feature, one.plan)
            states = [one.known.state(case, feature.axes) for case in found]
            if any(state == OPEN for state, _ in states) and one.running:
                continue
            ready = [case for case, (state, _) in zip(found, states, strict=True) if state == MET]
            if not ready and any(state == OPEN for state, _ in states):
                continue
            one.waiting.remove(feature)
            if ready:
                self._ask(one, feature, ready)
            else:
                self._decide(one, feature, NOT_REACHED, f"it needs {states[0][1]}")
        if one.running:
            return
        if one.waiting:  # they need each other
            feature = one.waiting.pop(0)
            self._ask(one, feature, list(cases(feature, one.plan)))
        elif one.left is None:
            self._shrink(one)
            self._pair_up(one)

    def _ask(self, one: _Operation, feature: Feature, some: list[Case]) -> None:
        def then(cell: Cell) -> None:
            one.running -= 1
            one.cells[feature] = cell
            assert one.known is not None
            one.known.learn(feature, cell.status)
            self._tell(cell)
            self._go_on(one)

        one.running += 1
        about = Asked(one.op, feature.name, feature.axis, feature.value)
        self._submit(then, self._asker.cell, about, some, one.own, some=some)

    def _pair_up(self, one: _Operation) -> None:
        """Begin to ask about pairs of features that are right."""
        assert one.plan is not None
        assert one.known is not None
        right = [
            feature
            for feature, cell in one.cells.items()
            if cell.status == RIGHT and feature.value not in one.known.plain.get(feature.axis, ())
        ]
        every = pairs(one.plan, right) if self._config.with_pairs and self._config.pattern == "*" else ()
        one.left = [pair for pair in every if one.known.state(pair.case, pair.axes)[0] == MET]
        for _ in range(self._config.workers):
            self._pair(one)

    def _pair(self, one: _Operation) -> None:
        """Ask about the next pair, if there is time."""
        if not one.left or time.monotonic() > self._until:
            return
        pair = one.left.pop(0)

        def then(cell: Cell) -> None:
            one.asked_pairs += 1
            if cell.status != RIGHT:
                one.pairs.append(cell)
            self._tell(cell)
            self._pair(one)

        about = Asked(one.op, pair.name, pair.first.axis, pair.first.value)
        self._submit(then, self._asker.cell, about, [pair.case], one.own, some=[pair.case])

    def _shrink(self, one: _Operation) -> None:
        """Look for smaller cases of what is wrong, while there is time."""
        for feature, cell in one.cells.items():
            if cell.status == WRONG:
                self._shrink_cell(one, feature, cell)

    def _shrink_cell(self, one: _Operation, feature: Feature, cell: Cell) -> None:
        assert one.known is not None
        assert cell.case is not None

        def then(smaller: Cell) -> None:
            one.cells[feature] = smaller

        allowed = one.known.promises(feature, cell.case)
        self._submit(
            then, self._asker.smallest, cell, allowed, (feature.axis,), self._until, some=[cell.case]
        )


def _wanted(every: Collection[Feature], plan: Plan, pattern: str) -> list[Feature]:
    """Return the features that a pattern names, and those that they may need."""
    wanted = [one for one in every if fnmatchcase(one.name, pattern)]
    if len(wanted) == len(every):
        return wanted
    needed: set[tuple[str, Any]] = set()
    fresh = wanted
    while fresh:
        asked = {pair for one in fresh for case in cases(one, plan) for pair in promise_axes.asked(case)}
        needed |= asked
        more = [one for one in every if (one.axis, one.value) in needed and one not in wanted]
        wanted, fresh = [*wanted, *more], more
    return [one for one in every if one in wanted]
