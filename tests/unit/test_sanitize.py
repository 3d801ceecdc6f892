"""`diffgdn replay --sanitizer`, with a tool of our own in the place of NVIDIA's, and no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffgdn.backend import selection as backends
from diffgdn.cases.case import Case
from diffgdn.cli import run
from diffgdn.findings import corpus, parse
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.runner import sanitize

FINDING = Finding(
    Case("gdn.decode", lens=(3,)), "eager", "gpu", "poison_leaked", "it is wrong", "o", found="2026-11-25"
)
BANNER = "========= COMPUTE-SANITIZER\n"
STRAY = (
    "========= Invalid __global__ read of size 4 bytes\n"
    "=========     at recurrent_kernel+0x1f0 in recurrent.py:97\n"
    "=========     by thread (3,0,0) in block (0,1,0)\n"
    "=========     Access at 0x7f02000 is out of bounds\n"
    "=========\n"
    "a line of the kernel's own\n"
)
MANY = "".join(f"========= Error number {n}\n" for n in range(50))

# Stands in for compute-sanitizer: notes how it was called, writes a log, and runs the rest or not.
TOOL = """#!{python}
import json, pathlib, subprocess, sys
arguments = sys.argv[1:]
options = dict(zip(arguments[:-4:2], arguments[1:-4:2]))
here = pathlib.Path(__file__).parent
(here / "called.json").write_text(json.dumps([options, arguments[-4:]]))
(here / "finding.json").write_bytes(pathlib.Path(arguments[-1]).read_bytes())
if {log!r}:
    pathlib.Path(options["--log-file"]).write_text({log!r})
if {runs}:
    sys.exit(subprocess.run(arguments[-4:]).returncode)
print("noise of a kernel")
print("right")
sys.exit(int({status}))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a GPU, as far as `backend` can see, and without the tool."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(backends.ENVIRONMENT, raising=False)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sanitize, "USUAL", str(tmp_path / "cuda"))
    monkeypatch.setattr(backends, "gpu_missing", lambda: None)
    return tmp_path


def install(folder: Path, status: int = 0, log: str = BANNER, runs: bool = False) -> None:
    tool = folder / "compute-sanitizer"
    corpus.write(tool, TOOL.format(python=sys.executable, status=status, log=log, runs=runs).encode())
    tool.chmod(0o755)


def test_a_finding_is_run_under_the_tool_once_and_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(folder / "bin")
    Corpus(folder / "findings").save(FINDING)
    assert run(["replay", "--sanitizer", "racecheck"]) == 0
    assert capsys.readouterr().out == f"PASSED  {FINDING.id}\n    checks: right\n1 PASSED\n"
    options, command = json.loads((folder / "bin" / "called.json").read_text())
    assert options["--tool"] == "racecheck"
    assert options["--error-exitcode"] == str(sanitize.FOUND)
    assert command[:3] == [sys.executable, "-m", "diffgdn.runner.sanitize"]
    assert parse.read(folder / "bin" / "finding.json") == FINDING


def test_the_first_errors_of_the_tool_stand_under_the_finding(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(folder / "bin", sanitize.FOUND, BANNER + STRAY + "========= ERROR SUMMARY: 1 error\n")
    Corpus(folder / "findings").save(FINDING)
    assert run(["replay", FINDING.id, "--sanitizer", "memcheck"]) == 1
    assert capsys.readouterr().out == (
        f"FAILED  {FINDING.id}\n"
        "    Invalid __global__ read of size 4 bytes\n"
        "    at recurrent_kernel+0x1f0 in recurrent.py:97\n"
        "    by thread (3,0,0) in block (0,1,0)\n"
        "    Access at 0x7f02000 is out of bounds\n"
        "    checks: right\n"
        "1 FAILED\n"
    )


def test_a_long_log_is_cut(folder: Path) -> None:
    install(folder / "bin", sanitize.FOUND, BANNER + MANY)
    assert sanitize.watch(FINDING, "memcheck").lines == tuple(f"Error number {n}" for n in range(6))


def test_what_ends_in_another_way_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here the rest is really run: on a machine without a GPU it cannot be."""
    install(folder / "bin", runs=True, log=BANNER + "========= Error: Device not supported\n")
    Corpus(folder / "findings").save(FINDING)
    assert run(["replay", "--sanitizer", "initcheck"]) == 2
    assert capsys.readouterr().out == (
        f"ERROR  {FINDING.id}\n"
        "    exit status 1: backend gpu: torch finds no usable GPU\n"
        "    Error: Device not supported\n"
        "1 ERROR\n"
    )


def test_a_finding_that_does_not_end_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, sanitize.MOST_SECONDS)

    install(folder / "bin")
    monkeypatch.setattr(subprocess, "run", slow)
    assert sanitize.watch(FINDING, "memcheck").lines == ("it has not ended after 900 s",)


def test_strange_code_is_not_run_under_the_tool_either(folder: Path) -> None:
    install(folder / "bin")
    Corpus(folder / "findings").save(
        Finding(FINDING.case, "/somewhere/else.py:kernel", "gpu", "raised", "it raised")
    )
    assert run(["replay", "--sanitizer", "memcheck"]) == 2
    assert not (folder / "bin" / "called.json").exists()
    assert run(["replay", "--sanitizer", "memcheck", "--trust-targets"]) == 0


@pytest.mark.parametrize("where", ["CUDA_HOME", "usual"])
def test_the_tool_is_found_in_a_toolkit_that_is_not_on_the_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    assert sanitize.executable() is None
    install(folder / "cuda" / "bin")
    if where == "CUDA_HOME":
        monkeypatch.setattr(sanitize, "USUAL", "/nowhere")
        monkeypatch.setenv("CUDA_HOME", str(folder / "cuda"))
    assert sanitize.executable() == str(folder / "cuda" / "bin" / "compute-sanitizer")


@pytest.mark.parametrize(
    ("line", "gpu", "tool", "message"),
    [
        ("memcheck", True, False, "compute-sanitizer is not installed; it comes with the CUDA toolkit"),
        (
            "memcheck",
            False,
            True,
            "diffgdn: --sanitizer memcheck: no NVIDIA GPU is visible",
        ),
        (
            "memcheck --backend interpret",
            True,
            True,
            "it watches kernels on a GPU, and the backend is interpret",
        ),
        ("leakcheck", True, True, "'leakcheck' is not one of 'memcheck', 'racecheck', 'initcheck'."),
    ],
)
def test_where_it_cannot_be_done_one_line_says_why(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    gpu: bool,
    tool: bool,
    message: str,
) -> None:
    Corpus(folder / "findings").save(FINDING)
    if tool:
        install(folder / "bin")
    if not gpu:
        monkeypatch.setattr(backends, "gpu_missing", lambda: "no NVIDIA GPU is visible")
    assert run(["replay", "--sanitizer", *line.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (folder / "bin" / "called.json").exists()
