"""The page of mutants: what was run, what came of it, how the columns are to be read, and the table."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence

from diffgdn import __version__
from diffgdn.mutants.hunt import Kill
from diffgdn.mutants.peers import seen
from diffgdn.mutants.peers.peer_test import for_backend
from diffgdn.report import kill_table

FIRST = (
    "Made by the command below; do not edit it. Each row is a bug that shipped elsewhere, or has the shape",
    "of one that did, put back into a copy of the kernels, and what the ordinary campaign makes of it, with",
    "nothing to tell it where to look. Bugs that are not put back, and the history of this list, are on",
    "[the page of bugs](bugs-found.md).",
)
READ = """
- *found by*: the operation that failed first, the kind of failure and the result. *cases*, *seconds*: of
  exploration until then, on a GPU with those of running each build once. *shrink*: cases that were run to
  make it smaller, and the seconds that took.
- *known smallest*: how the shrunk case compares with the smallest one in which the mutant is known to fail
  (`diffgdn/mutants/known_smallest.py`). `smallest`: no dimension is larger, and as few fields are other than
  the simplest; `one step`: one dimension is larger, by one or by as much again, or one field more is other;
  `further`: anything else.
"""

READ_PEERS = """
- *{names}*: whether the parameter sets and tolerances of that project's own tests see the mutant.
  They are re-created as data, with the file and the revision that they are from (`diffgdn/mutants/peers/`),
  and run on the mutant in the place of that project's kernels, in a child process: one that dies or hangs is
  seen. `not covered`: no test calls the operation, or passes the option, that the mutant is in. On the
  kernels as they are all of them pass. What lies past an end goes by chance: tests of {by_chance}, which
  reads there and shows only where that is no number, are run up to {runs} times; one that fails is enough.
- The values follow the laws of those tests, not their random numbers. Forward passes alone are compared, each
  with the reference that the test has: a recurrence (here in float64), or another call of the same kernels.
  Where a test compares two kernels of that project which are one here, both have the bug, and it cancels.
- FLA's tolerance is that of a run by hand; with `FLA_CI_ENV` set, as in its own pipeline, a ratio of less
  than 0.01, or a difference of at most 0.3, is no failure.
{reduced}"""

REDUCED = """
- The interpreter runs them cut down: at most two heads (with as many value heads to each as there were), two
  sequences of one length (four of one token, 66 of more than 64), three chunks with the same rest behind the
  last full one, 32 tokens where there are no chunks; K, V, dtypes and laws as they are. Sets that are the
  same then are run once: {counts}. A kernel that a mutant leaves alone, which
  a test compares with, gives way to the recurrence. States are cut into tiles of 64 rows, where a GPU takes 8
  or 16, and programs run one by one in ascending order, so that a race does not show. On a GPU the tests run
  whole.
"""


def command(
    pattern: str,
    max_time: float,
    workers: int,
    seed: int,
    peers: bool,
    no_hunt: bool = False,
    isolation: str | None = None,
) -> str:
    """Return the command that makes a page."""
    options = [f"--id '{pattern}'"] if pattern != "*" else []
    options += ["--no-hunt"] if no_hunt else [f"--max-time {max_time:g}s --seed {seed}"]
    options += [f"--workers {workers}", *(["--peers"] if peers else [])]
    options += [f"--isolation {isolation}"] if isolation is not None else []
    return f"diffgdn mutants {' '.join(options)} --page docs/mutants.md"


def page(
    kills: Sequence[Kill],
    about: Mapping[str, tuple[str, str]],
    peers: Mapping[str, Mapping[str, seen.Seen]],
    made_by: str,
    backend: str,
) -> Iterator[str]:
    """Yield the lines of the page.

    about: of each mutant, its source and what is wrong. peers: of each, what each peer's tests make of it, or
    nothing. made_by: the command. backend: that it ran on.
    """
    yield "# Mutants"
    yield ""
    yield from FIRST
    yield ""
    yield f"    {made_by}"
    yield ""
    where = "a GPU" if backend == "gpu" else "Triton's interpreter"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    yield f"Version {__version__}, on {where}; {machine}."
    yield ""
    for words in kill_table.summary(kills, peers):
        yield f"- {words}"
    yield ""
    if len(kills) < len(about):
        yield f"{len(about) - len(kills)} of {len(about)} were not hunted in this run: a dash says so."
        yield ""
    yield "How to read the table:"
    yield READ.rstrip("\n")
    if peers:
        yield from _about_peers(backend)
    yield ""
    yield from kill_table.markdown(kills, about, peers)
    yield ""


def _about_peers(backend: str) -> Iterator[str]:
    """Say what the columns of peers mean."""
    names = "*, *".join(f"{name}'s tests" for name in seen.TESTS)
    reduced = ""
    if backend != "gpu":
        counts = [
            f"{len(for_backend(tests, backend))} of {name}'s {len(tests)}"
            for name, tests in seen.TESTS.items()
        ]
        reduced = REDUCED.format(counts=" and ".join(counts)).strip("\n")
    by_chance, runs = " and ".join(seen.BY_CHANCE), seen.RUNS
    yield READ_PEERS.format(names=names, reduced=reduced, by_chance=by_chance, runs=runs).strip("\n")
