"""A finding under NVIDIA's compute-sanitizer, which watches each access of a kernel to a GPU's memory.

    python -m diffgdn.runner.sanitize FILE

is what the tool watches: it runs the finding in a file once, on the gpu backend and in its own process, and
prints the verdict. The tool sees what no check of results sees: reads past memory that happen to do no harm,
races that happen to end well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from diffgdn.findings import corpus, parse, trust
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import printable
from diffgdn.verdict.question import question_of

TOOLS = ("memcheck", "racecheck", "initcheck")
COMMAND = "compute-sanitizer"
USUAL = "/usr/local/cuda"  # where a CUDA toolkit lies
FOUND = 86  # exit status that the tool is told to end with where it has found something
MOST_SECONDS = 900.0  # of one finding; instrumented kernels are a hundred times slower
MOST_LINES = 6
PREFIX = "========="  # of what the tool itself writes


@dataclass(frozen=True)
class Watched:
    """What a tool said of a finding.

    status: PASSED, FAILED or ERROR. lines: of the tool's first errors, or why there are none to tell.
    verdict: of the checks, which is another matter.
    """

    status: str
    lines: tuple[str, ...] = ()
    verdict: str = ""


def executable() -> str | None:
    """Where the tool is: on PATH, or with a CUDA toolkit in its usual place."""
    homes = (os.environ.get("CUDA_HOME", ""), USUAL)
    folders = [os.environ.get("PATH", ""), *(str(Path(home, "bin")) for home in homes if home)]
    return shutil.which(COMMAND, path=os.pathsep.join(folders))


def watch(finding: Finding, tool: str, trusted: bool = False) -> Watched:
    """Run a finding once under one of TOOLS. trusted: as in `campaign.replay.run`."""
    command = executable()
    reason = None if trusted else trust.refusal(finding.target)
    if command is None or reason is not None:
        return Watched("ERROR", (reason or f"{COMMAND} is not installed",))
    with tempfile.TemporaryDirectory(prefix="diffgdn-") as name:
        file, log = Path(name) / "finding.json", Path(name) / "log"
        corpus.write(file, corpus.content(finding))
        options: tuple[str, ...] = ("--tool", tool, "--error-exitcode", str(FOUND), "--log-file", str(log))
        # Compilers that Triton starts are not watched.
        options += ("--target-processes", "application-only", "--show-backtrace", "no")
        try:
            done = subprocess.run(
                [command, *options, sys.executable, "-m", "diffgdn.runner.sanitize", str(file)],
                env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # else torch's blocks hide strays
                capture_output=True,
                text=True,
                errors="backslashreplace",
                timeout=MOST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Watched("ERROR", (f"it has not ended after {MOST_SECONDS:g} s",))
        said = log.read_text(errors="backslashreplace") if log.exists() else ""
    return _told(done, _errors(said))


def _told(done: subprocess.CompletedProcess[str], errors: tuple[str, ...]) -> Watched:
    verdict = done.stdout.strip().rpartition("\n")[2]
    if done.returncode == FOUND:
        return Watched("FAILED", errors or ("the tool does not say what it found",), verdict)
    if done.returncode == 0:
        return Watched("PASSED", (), verdict)
    last = done.stderr.strip().rpartition("\n")[2] or verdict or "no message"
    return Watched("ERROR", (f"exit status {done.returncode}: {last}", *errors))


def _errors(log: str) -> tuple[str, ...]:
    """The first lines of a log that tell of errors."""
    said = (line.removeprefix(PREFIX).strip() for line in log.splitlines() if line.startswith(PREFIX))
    told = [line for line in said if line and line != COMMAND.upper() and "SUMMARY" not in line]
    return tuple(printable(line) for line in told[:MOST_LINES])


def main(file: str) -> None:
    """Run the finding in a file here, and print the verdict in one line."""
    from diffgdn.backend import selection as backends

    backends.enter("gpu")
    from diffgdn.runner.in_process import InProcess
    from diffgdn.runner.messages import RunnerError

    finding = parse.read(Path(file))
    try:
        call = finding.call
        verdict = InProcess("gpu").run(call.subject, finding.target, question_of(call))
    except RunnerError as error:
        sys.exit(str(error))
    if verdict.refused is not None:
        sys.exit(f"refused: {verdict.refused}")
    failure = verdict.failure
    print("right" if failure is None else f"{failure.kind}: {failure}".splitlines()[0])


if __name__ == "__main__":
    main(sys.argv[1])
