"""Measure many cases, in batches over worker processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from diffgdn.cases.case import Case
from diffgdn.selftest.resolution.smallest_error import Measured, measure
from diffgdn.strategies import cases

BATCH = 10  # cases after which Hypothesis turns to variations of the latest one: new batches differ more


@dataclass(frozen=True)
class Study:
    """Describe a study.

    Attributes:
        cases: of each operation, drawn; a case that is drawn twice is measured once. None: without an end.
        dtype: of q, k and v.
    """

    operations: tuple[str, ...]
    cases: int | None
    seed: int
    dtype: str = "bfloat16"
    workers: int = 1

    @property
    def number_of_batches(self) -> int | None:
        """Count the batches; None if there is no end to them."""
        return None if self.cases is None else len(self.operations) * -(-self.cases // BATCH)

    def batches(self) -> Iterator[tuple[str, str, str, int]]:
        """Yield operation, dtype, seed and number of cases of each batch, of all operations in turn."""
        for first in itertools.count(0, BATCH):
            count = BATCH if self.cases is None else min(BATCH, self.cases - first)
            if count <= 0:
                return
            for op in self.operations:
                yield op, self.dtype, f"{self.seed}/{op}/{first // BATCH}", count


def drawn(op: str, dtype: str, batch: str, count: int) -> list[Case]:
    """Draw cases of an operation and dtype; `batch` is the seed."""
    found: dict[str, Case] = {}

    @seed(batch)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),  # most cases may have another dtype, and some are large
    )
    @given(case=cases(op).filter(lambda case: case.dtype == dtype))
    def collect(case: Case) -> None:
        found[case.id] = case

    collect()
    return list(found.values())


def measured(op: str, dtype: str, batch: str, count: int) -> list[Measured]:
    """Measure one batch: with the same arguments the same results, on any worker."""
    return [measure(case, random.Random(f"{batch}/{case.id}")) for case in drawn(op, dtype, batch, count)]


def run(
    study: Study, done: Callable[[int], None] = lambda batches: None, max_seconds: float | None = None
) -> list[Measured]:
    """Measure all cases of a study; the results by operation.

    Always in workers, also one: what Hypothesis draws depends on which modules are loaded, whose constants
    it tries. Spawned, not forked: a fork copies torch's locks, but not the threads that would open them
    again.

    Args:
        done: told how many batches are, after each.
        max_seconds: after which no batch is begun; each operation has one all the same.
    """
    found: dict[int, list[Measured]] = {}
    end = None if max_seconds is None else time.monotonic() + max_seconds
    left = enumerate(study.batches())
    running: dict[Future[list[Measured]], int] = {}
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="diffgdn-") as folder,
        ProcessPoolExecutor(study.workers, spawn, _start, (folder,)) as pool,
    ):
        try:
            while True:
                begun = len(found) + len(running)
                late = end is not None and time.monotonic() > end and begun >= len(study.operations)
                task = None if late or len(running) > study.workers else next(left, None)
                if task is not None:
                    running[pool.submit(measured, *task[1])] = task[0]
                    continue
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    found[running.pop(future)] = future.result()
                    done(len(found))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    once = {one.case: one for number in sorted(found) for one in found[number]}
    return sorted(once.values(), key=lambda one: study.operations.index(one.op))


def _start(folder: str) -> None:
    """Set a worker up: Ctrl-C is the parent's to act on; Hypothesis keeps its files in a folder that goes;
    one thread.

    More than one thread would be in other workers' way.
    """
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
