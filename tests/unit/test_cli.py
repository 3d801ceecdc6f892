"""The command line: what a person sees, and one clear line for each thing that can be wrong."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from diffgdn.backend import selection as backends
from diffgdn.cases.case import Case
from diffgdn.cli import COMMANDS, cli, run
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import EXAMPLE, Finding

TOYS = Path(__file__).with_name("toys.py")
FOUND = Finding(
    Case("gdn.decode", lens=(3,)), f"{TOYS}:wrong", "interpret", "beyond_bound", "it is wrong", "o"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(backends.ENVIRONMENT, raising=False)
    monkeypatch.setattr(backends, "devices_found", list)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


UNITS = "expected a time such as 60s, 10m or 8h"
WRONG = [
    ("fuz", "No such command 'fuz'."),
    ("--fast", "No such option"),
    ("fuzz --fast", "No such option"),
    ("fuzz gdn.decode", "Got unexpected extra argument (gdn.decode)"),
    ("fuzz --op gdn.encode", "--op: no operation matches 'gdn.encode'; known: gdn.extend, kda.extend, "),
    ("fuzz --op", "Option '--op' requires an argument."),
    ("fuzz --max-time soon", f"Invalid value for '--max-time': {UNITS}, got 'soon'"),
    ("fuzz --max-time 0s", f"Invalid value for '--max-time': {UNITS}, got '0s'"),
    ("fuzz --max-time -5s", f"Invalid value for '--max-time': {UNITS}, got '-5s'"),
    ("fuzz --max-time 5d", f"Invalid value for '--max-time': {UNITS}, got '5d'"),
    ("fuzz --max-cases 0", "Invalid value for '--max-cases': 0 is not in the range x>=1."),
    ("fuzz --max-cases many", "Invalid value for '--max-cases': 'many' is not a valid integer"),
    ("fuzz --workers 0", "Invalid value for '--workers': expected auto or a number from 1 to 1024, got '0'"),
    (
        "fuzz --workers all",
        "Invalid value for '--workers': expected auto or a number from 1 to 1024, got 'all'",
    ),
    ("bench --op nope", "--op: no operation matches 'nope'; known: gdn.extend, "),
    ("bench --shape 3x3", "--shape: no shape '3x3'; known: 1x1, "),
    ("bench --json .", "--json .: it is a folder"),
    ("bench", "bench: timing kernels needs a GPU"),
    ("probe", "Missing argument 'TARGET'."),
    ("probe vk --op nope", "--op: no operation matches 'nope'; known: gdn.extend, "),
    ("probe vk --html .", "--html .: it is a folder"),
    ("probe nobody", "unknown target 'nobody'; built in: vk, "),
    ("selftest faults --max-cases 9", "Invalid value for '--max-cases': 9 is not in the range x>=100."),
    ("selftest faults --json .", "--json .: it is a folder"),
    ("selftest nope", "No such command 'nope'."),
    ("replay --workers 0", "Invalid value for '--workers': expected auto or a number"),
    ("fuzz --seed -1", "Invalid value for '--seed': -1 is not in the range"),
    (
        "fuzz --backend cpu",
        "Invalid value for '--backend' / '--lane': 'cpu' is not one of 'gpu', 'interpret'.",
    ),
    (
        "fuzz --backend gpu",
        "backend gpu: no NVIDIA GPU is visible; --backend interpret runs kernels on the CPU",
    ),
    ("fuzz --corpus a-file", "--corpus a-file: a-file is not a folder"),
    ("fuzz --corpus a-file/findings", "--corpus a-file/findings: a-file is not a folder"),
    ("fuzz --corpus broken", "--corpus: broken/bad.json: format_version: this diffgdn reads 1 to 2, got 99"),
    ("fuzz --json .", "--json .: it is a folder"),
    ("fuzz --html .", "--html .: it is a folder"),
    ("fuzz --junit nowhere/r.xml", "--junit nowhere/r.xml: folder nowhere does not exist"),
    ("serving --events .", "--events .: it is a folder"),
    ("replay --junit . good", "--junit .: it is a folder"),
    ("fuzz --json nowhere/report.json", "--json nowhere/report.json: folder nowhere does not exist"),
    (
        "fuzz --workers 1 --target nonesuch",
        "unknown target 'nonesuch'; built in: vk, kv, eager, sglang, vllm, fla",
    ),
    (
        "fuzz --workers 1 --target no_such:kernel",
        "target module 'no_such' cannot be imported: ModuleNotFoundError",
    ),
    ("fuzz --workers 1 --target TOYS:none", "toys.py has no attribute 'none'"),
    ("fuzz --vacuity --relations", "--vacuity: it asks no relation; leave out --relations"),
    ("calibrate --fast", "No such option"),
    ("calibrate --op gdn.encode", "--op: no operation matches 'gdn.encode'; known: gdn.extend, kda.extend, "),
    ("calibrate --vacuity", "No such option"),
    ("calibrate --json .", "--json .: it is a folder"),
    ("calibrate --backend gpu", "backend gpu: no NVIDIA GPU is visible"),
    ("replay", "--corpus findings: no such folder"),
    ("replay no-such-id", "no-such-id: no such finding in findings"),
    ("replay nowhere/finding.json", "nowhere/finding.json: no"),
    ("replay broken", "broken/bad.json: format_version: this diffgdn reads 1 to 2, got 99"),
    ("replay a-file.json", "a-file.json: not JSON"),
    ("replay --repeat 0 broken", "Invalid value for '--repeat': 0 is not in the range"),
    ("replay --backend gpu good", "backend gpu: no NVIDIA GPU is visible"),
    ("show", "Missing argument 'PATH or ID'."),
    ("show no-such-id", "no-such-id: no such finding in findings"),
    ("show empty", "empty: expected one finding, this names 0"),
    ("doctor now", "Got unexpected extra argument (now)"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    """Exit status 2, one line on stderr, nothing written."""
    (folder / "a-file").write_text("not a folder")
    (folder / "a-file.json").write_text("not a finding")
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "bad.json").write_text('{"format_version": 99}')
    Corpus(folder / "good").save(FOUND)
    before = contents(folder)
    assert run(line.replace("TOYS", str(TOYS)).split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("diffgdn: ")
    assert error.count("\n") == 1
    assert contents(folder) == before


def test_an_unknown_backend_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT, "tpu")
    assert run(["fuzz"]) == 2
    assert capsys.readouterr().err == "diffgdn: DIFFGDN_BACKEND: expected gpu or interpret, got 'tpu'\n"


def test_an_error_of_our_own_is_not_taken_for_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backends, "visible_gpus", lambda: 1 / 0)
    assert run(["doctor"]) == 2
    assert capsys.readouterr().err.endswith("diffgdn: internal error: division by zero\n")


def steady(text: str) -> str:
    """What was printed, without what differs from run to run."""
    text = text.replace(str(TOYS), "TOYS")
    text = re.sub(r"(exploring|finishing what was begun), .*\n", "", text)
    text = re.sub(r"\d+(\.\d+)? s\b", "N s", text)
    text = re.sub(r"\d+\.\d/s", "N/s", text)
    text = re.sub(r"noise \d+ %", "noise N %", text)
    return re.sub(r"-?\d\.\d+(e[+-]\d+)?", "N", text)


def test_fuzz_finds_nothing_in_a_right_target(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"fuzz --target {TOYS}:right --op *.decode --max-cases 12 --workers 1 --seed 1 --json report.json"
    assert run(line.split()) == 0
    report = json.loads((folder / "report.json").read_text())
    exact = report["operations"]["gdn.decode"]["exact"]
    assert steady(capsys.readouterr().out) == (
        "fuzz TOYS:right on backend interpret: 12 cases, 1 worker, seed 1\n"
        "left out: kda.decode: not implemented by target TOYS:right\n"
        "operation     cases    exact    worst error / bound    findings\n"
        f"gdn.decode       12       {exact:2}                   N           -\n"
        "\n"
        f"12 cases in N s (N/s), 1 of 1 operation, {exact} exact, "
        "oracle and noise N % of a case's time: nothing found.\n"
    )
    assert sorted(path.name for path in folder.iterdir()) == ["report.json"]
    assert (report["seed"], report["backend"], report["target"]) == (1, "interpret", f"{TOYS}:right")
    assert report["totals"]["cases"] == report["operations"]["gdn.decode"]["cases"] == 12
    assert report["operations"]["kda.decode"]["skipped"] == f"not implemented by target {TOYS}:right"
    assert (report["findings"], report["problem"], report["interrupted"]) == ([], None, False)
    assert set(report["versions"]) >= {"torch", "triton", "diffgdn"}


def test_fuzz_shows_a_finding_and_how_to_reproduce_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then replay says FAILED, show says where, and once the kernel is right replay says FIXED."""
    limits = "--max-cases 12 --max-time 12s --workers 1 --seed 1"
    assert run(f"fuzz --target {TOYS}:wrong --op gdn.decode {limits} --json report.json".split()) == 1
    out = capsys.readouterr().out
    report = json.loads((folder / "report.json").read_text())
    for found in report["findings"]:
        path = Path(found["path"])
        assert json.loads(path.read_text())["case"] == found["case"]
        assert (
            f"\nFINDING  gdn.decode  {found['kind']} in o  (target {TOYS}:wrong, backend interpret)\n" in out
        )
        assert f"\n  {Case.from_json(found['case'])!r}\n" in out
        assert (
            f"  Reproduce with:\n    diffgdn replay --trust-targets {found['id']}\n"
            f"    python {path.with_suffix('.py')}\n" in out
        )
    count = len(report["findings"])
    assert count >= 1
    assert out.rstrip().endswith(": 1 finding." if count == 1 else f": {count} findings.")

    identity = report["findings"][0]["id"]
    assert run(["replay", identity, "--repeat", "2", "--trust-targets"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"FAILED  {identity}\n    ")
    assert out.endswith("\n1 FAILED\n")

    assert run(["show", identity, "--trust-targets"]) == 0
    out = capsys.readouterr().out
    assert "\nRun again: FAILED\n" in out
    case = Case.from_json(report["findings"][0]["case"])
    assert f"1 of {case.total * case.HV * case.V} elements of o are wrong\n" in out

    fixed = Corpus(folder / "fixed")
    for found in Corpus(folder / "findings").findings():
        fixed.save(Finding(found.case, f"{TOYS}:right", "interpret", found.kind, found.message))
    assert run(["replay", "fixed", "--trust-targets"]) == 0
    assert capsys.readouterr().out.endswith(f"\n{count} FIXED\n")


def test_replay_says_what_it_could_not_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error weighs less than a failure and more than a success."""
    corpus = Corpus(folder / "findings")
    corpus.save(Finding(FOUND.case, f"{TOYS}:refusing", "interpret", "raised", "it raised"))
    corpus.save(Finding(FOUND.case, f"{TOYS}:right", "gpu", "raised", "it raised"))
    corpus.save(Finding(FOUND.case, f"{TOYS}:right", "interpret", EXAMPLE, "easy to get wrong"))
    assert run(["replay", "--trust-targets"]) == 2
    out = capsys.readouterr().out
    assert (
        "it was found on backend gpu, and no NVIDIA GPU is visible; --backend interpret runs it on the CPU\n"
        in out
    )
    assert "    not today\n" in out
    assert "PASSED  " in out
    assert out.endswith("\n2 ERROR, 1 PASSED\n")


@pytest.mark.parametrize("place", ["at element 16", "slot 3", "(sequence 0, token 1)"])
def test_where_a_finding_is_wrong_reads_as_one_phrase(
    folder: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    found = Finding(FOUND.case, "vk", "interpret", "input_changed", "it was written", "q", place)
    Corpus(folder / "findings").save(found)
    assert run(["corpus", "show", found.id]) == 0
    assert f"\n  at {place.removeprefix('at ')}\n" in capsys.readouterr().out


def test_replay_of_an_empty_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "findings").mkdir()
    assert run(["replay"]) == 0
    assert capsys.readouterr().out == "no findings to replay\n"


def test_doctor_tells_the_backend_and_the_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^backend +interpret \(no NVIDIA GPU is visible\)$", out, re.MULTILINE)
    for package in ("python", "torch", "triton", "hypothesis", "fla-core", "C compiler"):
        assert re.search(rf"^{package} +\S", out, re.MULTILINE)


def test_doctor_fails_where_fuzz_would(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT, "gpu")
    assert run(["doctor"]) == 2
    assert "backend gpu: no NVIDIA GPU is visible" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_hypothesis() -> None:
    code = (
        "import sys; from diffgdn.cli import run; run(['fuzz', '--help']);"
        "sys.exit(bool({'torch', 'triton', 'hypothesis', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_campaign_ends_at_once(folder: Path, number: signal.Signals) -> None:
    """Nothing found so far: 130, as shells say it."""
    command = [sys.executable, "-m", "diffgdn", "fuzz", "--target", f"{TOYS}:right", "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("fuzz ")
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "")
    assert list(folder.iterdir()) == []


def loaded_by(*arguments: str) -> set[str]:
    """Modules that are imported once a command line has run."""
    told = "print(*sys.modules, file=sys.stderr)"
    script = f"import sys; from diffgdn import cli; cli.run({list(arguments)!r}); {told}"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ended.stderr.split())


def test_help_imports_no_command_and_a_command_no_other() -> None:
    assert not any(name.endswith("_command") for name in loaded_by("--help"))
    fuzz = loaded_by("fuzz", "--help")
    assert {name for name in fuzz if name.endswith("_command")} == {"diffgdn.cli.fuzz_command"}
    assert not fuzz & {"torch", "triton", "hypothesis", "rich"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_as_the_list_of_commands_says(name: str) -> None:
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    assert command.name == name
    first = " ".join((command.help or "").split("\n\n")[0].split()).split(". ")[0]
    assert first.rstrip(".") == COMMANDS[name][1].rstrip(".")


def every_command(group: click.Group = cli, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """(name, command) of all, `corpus list` for one below a group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


SHARED = {
    "--op": {"fuzz", "calibrate", "resolution", "selftest resolution", "bench", "probe"},
    "--max-time": {"fuzz", "calibrate", "serving", "mutants", "probe", "bench"}
    | {"resolution", "selftest resolution", "selftest time-to-find", "shrink"},
    "--max-cases": {"fuzz", "calibrate", "serving", "resolution", "selftest resolution", "selftest faults"},
    "--seed": {"fuzz", "calibrate", "serving", "mutants"}
    | {"resolution", "selftest resolution", "selftest faults", "selftest time-to-find"},
    "--workers": {"fuzz", "calibrate", "serving", "mutants", "resolution", "selftest resolution"}
    | {"selftest time-to-find"}
    | {"replay", "shrink", "corpus prune", "corpus causes", "probe"},
    "--json": {
        "fuzz",
        "calibrate",
        "serving",
        "mutants",
        "resolution",
        "selftest resolution",
        "selftest faults",
        "selftest time-to-find",
        "bench",
        "probe",
        "targets",
    },
    "--html": {"fuzz", "calibrate", "serving", "replay", "probe"},
    "--junit": {"fuzz", "calibrate", "serving", "replay"},
    "--events": {"fuzz", "calibrate", "serving", "replay"},
    "--from": {"fuzz", "calibrate", "serving", "replay", "show", "shrink", "targets"}
    | {"probe", "report", "corpus causes"},
    "--backend": {"fuzz", "calibrate", "serving", "mutants", "replay", "show", "shrink", "selftest faults"}
    | {"bench", "probe", "report", "bisect", "corpus causes", "selftest time-to-find"},
    "--hang-after": {"fuzz", "calibrate", "serving", "replay", "shrink", "probe"}
    | {"report", "bisect", "corpus causes"},
    "--isolation": {"fuzz", "calibrate", "serving", "replay", "show", "shrink", "corpus prune", "mutants"}
    | {"bisect", "corpus causes"},
    "--run-known-crashes": {"fuzz", "calibrate", "serving", "replay", "probe"},
}
OTHERWISE = {("bisect", "--from")}  # beside --to: the oldest version, a commit as well
KINDS = {  # what a value of it is, wherever it is taken
    "--max-time": "time",
    "--max-cases": "integer range",
    "--seed": "integer range",
    "--workers": "workers",
    "--json": "path",
    "--html": "path",
    "--junit": "path",
    "--events": "path",
    "--from": "path",
    "--backend": "choice",
    "--hang-after": "time",
    "--isolation": "choice",
    "--op": "text",
    "--run-known-crashes": "boolean",
}


@pytest.mark.parametrize("option", SHARED)
def test_an_option_is_spelled_alike_on_every_command(option: str) -> None:
    having = {
        name: parameter
        for name, command in every_command()
        for parameter in command.params
        if option in parameter.opts and (name, option) not in OTHERWISE
    }
    assert set(having) == SHARED[option]
    assert {parameter.type.name for parameter in having.values()} == {KINDS[option]}
    assert len({parameter.name for parameter in having.values()}) == 1


def test_an_old_spelling_still_works_and_is_not_shown() -> None:
    old = [("serving", "--max-traces"), ("resolution", "--cases"), ("selftest faults", "--cases")]
    commands = dict(every_command())
    for name, spelling in old:
        [option] = [parameter for parameter in commands[name].params if spelling in parameter.opts]
        assert isinstance(option, click.Option)
        assert option.hidden
