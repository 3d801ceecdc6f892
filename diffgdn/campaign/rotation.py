"""Which batch of cases comes next: operations in turn, first small batches, then larger ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffgdn.campaign.tasks import Explore, Key
from diffgdn.search.seeds import derive_seed
from diffgdn.verdict.question import ORACLE, Question

# A first batch is small so that every operation is soon reached. None is large: after its first ten examples
# Hypothesis mostly varies the last ones (of 200 gdn.extend cases, twenty batches gave 171 builds, one batch
# 62).
FIRST_CASES = {"interpret": 3, "gpu": 8}
MOST_CASES = {"interpret": 12, "gpu": 16}
BARREN_BATCHES = 4  # batches without one new case after which an operation has no more of them
CALM_ROUNDS = 1  # of all operations, in which nothing fails in a new way, before shrinks go deep


class Rotation:
    """Hands out batches until the time or the number of cases is used up, or no operation is left.

    Every batch has a seed of its own, made from the campaign's seed, the operation and the batch's number. So
    no two workers explore the same stream, and which streams there are does not depend on how many workers
    there are.
    """

    def __init__(
        self,
        operations: Iterable[str],
        backend: str,
        seed: int,
        max_cases: int | None,
        shrink_seconds: float,
        menu: Any = None,
        clock: Callable[[], float] = time.monotonic,
        questions: Mapping[str, Sequence[Question]] | None = None,
        shrinks: bool = True,
        shard: tuple[int, int] = (1, 1),
    ) -> None:
        """questions: of each operation, to be asked in turn, one a batch; None to compare with the oracle.
        shrinks: whether batches shrink what fails themselves; else each failure is told of and let pass.
        shard: which machine this is of how many with this seed: theirs are the batches of one, dealt out.
        """
        self._queue = list(operations)
        self._backend, self._seed, self._left = backend, seed, max_cases
        self._shrink_seconds, self._menu, self._clock = shrink_seconds, menu, clock
        self._questions, self._shrinks = questions or {}, shrinks
        self._part, self._parts = shard[0] - 1, shard[1]
        self._asked: Counter[tuple[str, Question]] = Counter()  # batches; "" for all operations
        self._deadline: float | None = None
        self._shrink_until: float | None = None
        self._batches = dict.fromkeys(self._queue, 0)
        self._again: list[Explore] = []
        self._barren = dict.fromkeys(self._queue, 0)
        self._quiet = 0  # batches since one failed in a new way

    def start(self, max_time: float | None, grace: float) -> None:
        """The time begins to count. grace: seconds that a shrink may take beyond the end."""
        if max_time is not None:
            self._deadline = self._clock() + max_time
            self._shrink_until = self._deadline + grace

    @property
    def operations(self) -> tuple[str, ...]:
        return tuple(self._queue)

    @property
    def out_of_time(self) -> bool:
        return self._deadline is not None and self._clock() >= self._deadline

    @property
    def seconds_left(self) -> float | None:
        """For exploration; None without a limit of time."""
        return None if self._deadline is None else max(0.0, self._deadline - self._clock())

    @property
    def ended(self) -> bool:
        """Whether no batch is left to hand out."""
        return self.out_of_time or self._left == 0 or not self._queue

    @property
    def has_begun(self) -> bool:
        """Whether every operation has had a batch."""
        return all(self._batches[operation] for operation in self._queue)

    @property
    def is_calm(self) -> bool:
        """Whether nothing has failed in a new way for as long as all operations take."""
        return self.has_begun and self._quiet >= CALM_ROUNDS * len(self._queue)

    @property
    def give_up(self) -> float | None:
        """When even shrinks must have ended."""
        return self._shrink_until

    def next(self, known: frozenset[Key]) -> Explore | None:
        """The next batch; None if there is none now.

        The first batch of an operation does not shrink, or a few findings would keep all workers from the
        other operations. One that failed is run again, from the same seed, when all have had theirs.
        """
        if self.out_of_time:
            return None
        if self._again and (self._left == 0 or self.has_begun):
            return replace(self._again.pop(0), known=known)
        if not self._queue or self._left == 0:
            return None
        operation = self._queue.pop(0)
        self._queue.append(operation)
        number = self._batches[operation]
        self._batches[operation] += 1
        self._quiet += 1
        question = self._next_question(operation)
        most = question.most_cases or MOST_CASES[self._backend]
        cases = min(FIRST_CASES[self._backend] << min(number, 16), most)
        if self._left is not None:
            cases = min(cases, self._left)
            self._left -= cases
        return Explore(
            operation=operation,
            cases=cases,
            seed=derive_seed(self._seed, operation, number * self._parts + self._part),
            shrink_seconds=self._shrink_seconds,
            deadline=self._deadline,
            shrink_until=self._shrink_until,
            known=known,
            menu=self._menu,
            shrink=number > 0 and self._shrinks,
            question=question,
        )

    def _next_question(self, operation: str) -> Question:
        """Take what an operation was asked least, and of that what all were asked least: so that a short
        campaign still asks every question."""
        asked = self._questions.get(operation) or (ORACLE,)
        question = min(asked, key=lambda one: (self._asked[operation, one], self._asked["", one]))
        self._asked.update([(operation, question), ("", question)])
        return question

    def done(self, task: Explore, cases: int, failed: bool = False) -> str | None:
        """A batch has ended, or its worker has. cases: how many it ran; failed: in a new way.

        Returns why no more of its operation will be handed out, if that is so from now on.
        """
        if task.again:
            return None
        self._quiet = 0 if failed else self._quiet
        if failed and not task.shrink and self._shrinks:
            self._again.append(replace(task, shrink=True, again=True))
        if self._left is not None:
            self._left += max(0, task.cases - cases)
        if task.operation in self._barren and not self.out_of_time:
            self._barren[task.operation] = 0 if cases else self._barren[task.operation] + 1
            if self._barren[task.operation] >= BARREN_BATCHES and self.drop(task.operation):
                return f"{BARREN_BATCHES} batches in a row held no case that is new and that the target takes"
        return None

    def drop(self, operation: str) -> bool:
        """Take an operation out; whether it was in."""
        if operation not in self._queue:
            return False
        self._queue.remove(operation)
        self._again = [task for task in self._again if task.operation != operation]
        return True
