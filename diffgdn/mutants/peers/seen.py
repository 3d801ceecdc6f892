"""Whether a peer's tests see a mutant: they run in a child process, which the mutant may kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from diffgdn.mutants.mutant import Mutant
from diffgdn.mutants.peers import fla_tests, sglang_tests
from diffgdn.mutants.peers.peer_test import CHUNK, PEERS, PeerTest, for_backend

TESTS = dict(zip(PEERS, (fla_tests.TESTS, sglang_tests.TESTS), strict=True))
SECONDS = 600.0  # for all tests of a peer; a test that hangs is one that fails

# Mutants that show with an option alone that a call must have, and which; in the words of `uses`.
NEEDS = {
    "boundary-state-final": "boundary states",
    "chunk-size-hardcoded": "chunks of another size",
    "snapshot-precision": "a tracked state",
    "snapshot-wrong-chunk": "a tracked state",
    "snapshot-never-written": "a tracked state",
    "stale-slot-state": "flags of fresh slots",
    "verify-state-advanced": "verify",
    "verify-index-minus-one": "verify",
    "buffer-pitch-from-steps": "verify",
    "recording-disables-update": "a buffer and an update",
    "tree-parent-chain": "a draft tree",
    "rollback-after-two-drafts": "slots for each token",
    "out-left-empty": "rows behind the last sequence",
    "pad-rows-last-chunk-only": "rows behind the last sequence",
}
# Mutants that read past an end what shows only where it is no number: by chance, in two of three runs or so.
BY_CHANCE = ("k-mask-missing",)
RUNS = 5  # of the tests of such a mutant; one that fails is enough
SHARED = (
    "arguments.py",
    "current_device.py",
    "device.py",
)  # of the files of the kernels, what all stages use


@dataclass(frozen=True)
class Seen:
    """What a peer's tests make of a mutant.

    answer: yes, no, or not covered: no test of the peer calls what the mutant changes. by: the test that
    fails first, and how; tests: how many were run.
    """

    answer: str
    by: str = ""
    tests: int = 0

    def to_json(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        return dict(vars(self))


def uses(test: PeerTest) -> set[str]:
    """Name the options of `NEEDS` that a test uses."""
    verify, other_size = test.operation.endswith(".verify"), test.chunk_size != CHUNK
    return {*(["verify"] if verify else []), *(["chunks of another size"] if other_size else [])}


def right_kernels(mutant: Mutant | None) -> str:
    """Say which kernels a mutant leaves as they were: "extend", "recurrent", or "" for neither."""
    if mutant is None:
        return ""
    chunk = [edit.file.startswith("chunk/") for edit in mutant.edits if edit.file not in SHARED]
    if len(chunk) < len(mutant.edits) or len(set(chunk)) > 1:
        return ""
    return "recurrent" if chunk[0] else "extend"


def tests_for(mutant: Mutant | None, peer: str, backend: str) -> list[PeerTest]:
    """Return a peer's tests that call an operation whose kernels a mutant changes; all for None."""
    from diffgdn.cases.operations import matching

    tests = for_backend(TESTS[peer], backend, right_kernels(mutant))
    if mutant is None:
        return tests
    changed = set(matching(mutant.operations))
    return [test for test in tests if changed & set(test.operations)]


def look(mutant: Mutant, peer: str, backend: str) -> Seen:
    """Run a peer's tests on a mutant until one fails.

    A mutant that ends the process, or hangs it, is seen. Those of BY_CHANCE are asked up to RUNS times.
    Raises RuntimeError if the tests could not begin.
    """
    tests = tests_for(mutant, peer, backend)
    needed = NEEDS.get(mutant.id)
    if needed is not None:
        tests = [test for test in tests if needed in uses(test)]
    if not tests:
        return Seen("not covered")
    said = Seen("not covered")
    for _ in range(RUNS if mutant.id in BY_CHANCE else 1):
        said = read(run(mutant.id, peer, backend))
        if said.answer == "yes":
            break
    return said


def look_at_all(mutants: Sequence[Mutant], backend: str, jobs: int) -> Iterator[tuple[str, dict[str, Seen]]]:
    """Yield what each peer's tests make of each mutant, by id, in the order in which they are done.

    jobs: how many processes at a time. Raises what `look` does.
    """

    def answers(mutant: Mutant) -> tuple[str, dict[str, Seen]]:
        return mutant.id, {peer: look(mutant, peer, backend) for peer in TESTS}

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in as_completed([pool.submit(answers, mutant) for mutant in mutants]):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run(mutant: str, peer: str, backend: str, everything: bool = False) -> tuple[str, str]:
    """Run the child. Returns what it printed, and how it ended: "", or in a few words.

    Raises RuntimeError if it could not run the tests, KeyboardInterrupt if it was interrupted.
    """
    arguments = [mutant, peer, backend, *(["--all"] if everything else [])]
    command = [sys.executable, "-m", "diffgdn.mutants.peers.peer_child", *arguments]
    try:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # there may be one on each core
        child = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        return (output.decode() if isinstance(output, bytes) else output), "hung"
    if child.returncode == -signal.SIGINT:
        raise KeyboardInterrupt
    if child.returncode == 0:
        return child.stdout, ""
    if child.returncode > 0:
        raise RuntimeError(f"{mutant}: the tests of {peer} could not run: {child.stderr.strip()[-500:]}")
    return child.stdout, f"crashed (signal {-child.returncode})"


def read(outcome: tuple[str, str]) -> Seen:
    """Make sense of what a child printed, and of how it ended."""
    printed, ended = outcome
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    done = [line for line in lines if not line["begins"]]
    for line in done:
        if line["failed"] is not None:
            return Seen("yes", f"{line['test']}: {line['failed']}", len(done))
    if ended:
        test = lines[-1]["test"] if lines else "before any test"
        return Seen("yes", f"{test}: {ended}", len(done))
    return Seen("no", "", len(done))
