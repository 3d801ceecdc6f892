"""Runs a script of a finding in a process of its own, to see that it shows the failure it was written for.

    python -m diffgdn.runner.script_check BACKEND TARGET SCRIPT

The target is loaded first, as its package may lie in a folder, or need stand-ins for a server around it.
Nothing else is done for the script.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from diffgdn.backend import selection as backends
from diffgdn.findings.finding import Finding
from diffgdn.runner.child_process import START_SECONDS

HUNG = "it did not end"


@dataclass(frozen=True)
class Ran:
    """How a script ended. status: as subprocess has it, None if it was stopped. said: its last lines."""

    status: int | None
    said: tuple[str, ...] = ()

    def shows(self, finding: Finding) -> bool:
        """Tell whether it failed as the finding does: asserts alone say so of wrong results."""
        if finding.kind == "hung":
            return self.status is None
        if finding.kind == "crashed":
            killed = -signal.SIGKILL  # as a machine does that is out of memory
            return self.status is not None and self.status not in (0, 1, killed)
        last = self.said[-1] if self.said else ""
        if finding.kind == "raised":
            return self.status == 1 and last.startswith(finding.message.partition(":")[0])
        return self.status == 1 and any(line.startswith("AssertionError") for line in self.said)


MOST_LINES = 12


def check(script: str, finding: Finding, hang_seconds: float | None = None) -> Ran:
    """Run a script where the finding's target can be imported."""
    limit = START_SECONDS + (hang_seconds or backends.HANG_SECONDS[finding.backend])
    if finding.kind == "hung":
        limit = hang_seconds or backends.HANG_SECONDS[finding.backend]
    with tempfile.TemporaryDirectory(prefix="diffgdn-") as folder:
        path = Path(folder) / "script.py"
        path.write_text(script)
        command = ["-P", "-m", "diffgdn.runner.script_check", finding.backend, finding.target, str(path)]
        paths = os.pathsep.join(one for one in sys.path if one)
        try:
            done = subprocess.run(
                [sys.executable, *command],
                env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="backslashreplace",
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Ran(None, (HUNG,))
    return Ran(done.returncode, tuple([*done.stdout.splitlines(), *last_words(done.stderr)][-MOST_LINES:]))


def last_words(errors: str) -> list[str]:
    """Take what an exception says, without the lines of its traceback, which name places on this machine."""
    lines = [line for line in errors.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith((" ", "Traceback "))]


def main(backend: str, target: str, script: str) -> None:
    """Load a target, then run a script as the main program."""
    backends.enter(backend)
    from diffgdn import targets

    targets.get(target)
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
