"""Measure many cases, in batches over worker processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
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
        cases: of each operation, drawn; a case that is drawn twice is measured once.
        dtype: of q, k and v.
    """

    operations: tuple[str, ...]
    cases: int
    seed: int
    dtype: str = "bfloat16"
    workers: int = 1

    def batches(self) -> list[tuple[str, str, str, int]]:
        """List operation, dtype, seed and number of cases of each batch."""
        return [
            (op, self.dtype, f"{self.seed}/{op}/{first // BATCH}", min(BATCH, self.cases - first))
            for first in range(0, self.cases, BATCH)
            for op in self.operations
        ]


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


def run(study: Study, done: Callable[[int], None] = lambda batches: None) -> list[Measured]:
    """Measure all cases of a study; the results by operation.

    Always in workers, also one: what Hypothesis draws depends on which modules are loaded, whose constants
    it tries. Spawned, not forked: a fork copies torch's locks, but not the threads that would open them
    again.

    Args:
        done: told how many batches are, after each.
    """
    found: dict[int, list[Measured]] = {}
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="diffgdn-") as folder,
        ProcessPoolExecutor(study.workers, spawn, _start, (folder,)) as pool,
    ):
        futures = {pool.submit(measured, *task): number for number, task in enumerate(study.batches())}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
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
