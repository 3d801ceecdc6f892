"""A process that hunts one mutant after another, and ends with the process that gives them to it.

    python -m diffgdn.mutants.hunter DESCRIPTOR PARENT

DESCRIPTOR: of the connection. PARENT: the process with which this one is to end.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from diffgdn.runner.child_process import end_with, say

MEMORY_BYTES = 4 << 30  # that a process may occupy: a mutant may ask for any, and others run beside it


@dataclass(frozen=True)
class Job:
    """A hunt that is asked for: of a generated mutant, over the operations that it can change.

    max_time: seconds of exploration. hang_seconds: after which a case counts as hung.
    """

    mutant: str
    backend: str
    seed: int
    max_time: float
    hang_seconds: float


def main(descriptor: int, parent: int) -> None:
    """Answer jobs until the pipe closes: a Kill for each, which says so where the campaign could not run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    end_with(parent)
    pipe = Connection(descriptor)
    try:
        sys.path += [entry for entry in pipe.recv() if entry not in sys.path]
        from diffgdn.mutants.generated import generated
        from diffgdn.mutants.hunt import Kill, hunt
        from diffgdn.mutants.kernel_sources import chosen

        while True:
            job: Job = pipe.recv()
            mutant = generated()[job.mutant]
            with tempfile.TemporaryDirectory(prefix="diffgdn-mutant-") as folder:
                try:
                    kill = hunt(
                        mutant,
                        job.backend,
                        job.seed,
                        job.max_time,
                        1,
                        Path(folder),
                        shrink=False,
                        operations=chosen(mutant.operations),
                        hang_seconds=job.hang_seconds,
                        memory_bytes=MEMORY_BYTES,
                    )
                except RuntimeError as error:
                    say(traceback.format_exc())
                    kill = Kill(job.mutant, False, 0.0, 0, problem=str(error))
            pipe.send(kill)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
