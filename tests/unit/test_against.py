"""`diffgdn fuzz --against REF`: only what the base does not fail too is a finding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diffgdn.backend import revision
from diffgdn.backend.revision import ENVIRONMENT, Revision
from diffgdn.cases.case import Case, Values
from diffgdn.cases.prelude import Call
from diffgdn.cli import run
from diffgdn.cli.base_option import base_of
from diffgdn.cli.options import Problem
from diffgdn.findings.corpus import Corpus
from diffgdn.runner import baseline
from diffgdn.runner.baseline import Base, BaseRunner
from diffgdn.runner.in_child import InChild
from diffgdn.runner.messages import SetupError
from diffgdn.verdict.failures import (
    BeyondBound,
    CheckFailure,
    KernelCrashed,
    KernelRaised,
    NeverWritten,
    NotFinite,
    PoisonLeaked,
    Verdict,
)

KERNELS = Path(revision.__file__).parents[2] / "kernels"
HELPER = """def spoil(case, results):
    if case.l2norm:  # known to be wrong, and in the same result
        results["o"].view(-1)[0] += 1
"""
ADAPTER = """from diffgdn.selftest.faulty_target import Planted

from helpers.faults import spoil

decode = Planted("decode", spoil, lambda case: case.total > 0, "eager", ("gdn.decode",))
"""
NEW = """    if case.HV > case.H:
        results["o"].view(-1)[-1] += 1
"""
TARGET = "adapter.py:decode"


def git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose kernel has one old defect, and a folder of it in which commands are run."""
    root = tmp_path / "fork"
    (root / "tests" / "helpers").mkdir(parents=True)
    (root / "tests" / "adapter.py").write_text(ADAPTER)
    (root / "tests" / "helpers" / "faults.py").write_text(HELPER)
    (root / ".gitattributes").write_text("tests export-ignore\n")  # what an archive would leave out
    git(tmp_path, "init", "-q", "-b", "main", str(root))
    git(root, "add", "--all")
    git(root, "commit", "-q", "-m", "as it is")
    monkeypatch.chdir(root / "tests")
    return root


def fuzz(*options: str) -> tuple[int, dict[str, Any]]:
    """The exit status of a short campaign, and its result."""
    Path("told.json").unlink(missing_ok=True)
    given = ["--target", TARGET, "--op", "gdn.decode", "--max-cases", "60", "--seed", "1", "--workers", "1"]
    status = run(["fuzz", *given, "--backend", "interpret", "--json", "told.json", *options])
    path = Path("told.json")
    return status, json.loads(path.read_text()) if path.exists() else {}


def test_what_the_base_fails_too_is_no_finding_and_what_is_new_is_one(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though both are wrong numbers of one result, and the old defect is the simpler one."""
    faults = Path("helpers/faults.py")
    status, told = fuzz("--against", "main")
    commit = git(repository, "rev-parse", "HEAD")
    (failing,) = told["against"]["fails_there_too"]
    assert (status, told["findings"], told["problem"]) == (0, [], None)
    assert (told["against"]["ref"], told["against"]["commit"]) == ("main", commit)
    assert (failing["operation"], failing["kind"]) == ("gdn.decode", "beyond_bound")
    assert failing["cases"] == told["totals"]["known"] > 0
    assert told["operations"]["gdn.decode"]["failed"] == 0
    said = capsys.readouterr().out
    assert f", against main ({commit[:10]})\n" in said
    assert f"fails in main ({commit[:10]}) too, and so is no finding:\n  gdn.decode  beyond_bound: " in said
    assert f"nothing new found; {failing['cases']} cases failing in the base too." in said

    faults.write_text(HELPER + NEW)
    status, told = fuzz("--against", "main")
    assert status == 1
    for found in told["findings"]:
        assert (found["tensor"], found["shrink"], found["case"]["l2norm"]) == ("o", "complete", False)
        assert found["case"]["HV"] > found["case"]["H"]
        assert found["provenance"]["base"] == f"main ({commit[:10]}) passes"
    assert told["against"]["fails_there_too"]
    assert f"  base: main ({commit[:10]}) passes\n" in capsys.readouterr().out
    assert git(repository, "status", "--porcelain", "--untracked-files=no") == "M tests/helpers/faults.py"

    git(repository, "commit", "-q", "-a", "-m", "worse")
    status, told = fuzz("--against", "HEAD")
    assert (status, told["findings"]) == (0, [])
    assert {one["status"] for one in told["replayed"]} == {"KNOWN"}
    assert "KNOWN: the base fails in the same way" in capsys.readouterr().out


def test_a_base_that_cannot_be_run_excuses_nothing_and_that_is_said(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = git(repository, "rev-parse", "HEAD")
    git(repository, "rm", "-q", "--cached", "tests/helpers/faults.py")
    git(repository, "commit", "-q", "-m", "without what it needs")
    git(repository, "tag", "broken")
    status, told = fuzz("--against", "broken", "--max-cases", "12")
    assert (status, told["against"]["fails_there_too"]) == (1, [])
    for found in told["findings"]:
        assert "cannot be run: target file 'adapter.py' cannot be imported: ModuleNotFound" in str(
            found["provenance"]
        )
    assert "cannot be run: target file" in capsys.readouterr().out
    Path("findings").rename("old")
    assert fuzz("--against", before[:12], "--max-cases", "12")[0] == 0


def test_another_target_is_a_base(repository: Path) -> None:
    """As is the target itself by its full path in another folder."""
    other = repository.parent / "other.py"
    other.write_text("from diffgdn.targets import get\n\nright = get('eager')\n")
    assert fuzz("--against", "eager", "--max-cases", "12")[0] == 1
    Path("findings").rename("old")
    assert fuzz("--against", f"{repository}/tests/adapter.py:decode", "--max-cases", "12")[0] == 0


@pytest.mark.parametrize(
    ("target", "ref", "said"),
    [
        (TARGET, "nope", "fork has no such revision"),
        (TARGET, "--upload-pack=x", "fork has no such revision"),
        (TARGET, TARGET, "it is the target itself"),
        ("nothing.py:decode", "main", "target file 'nothing.py' does not exist"),
        ("nothing_at_all:decode", "main", "target module 'nothing_at_all' lies nowhere"),
        ("eager", "main", "for eager name another target"),
        ("diffgdn.mutants.mutant_targets:x", "main", "for diffgdn.mutants.mutant_targets:x name another"),
        ("fla", "main", "there is no such wheel or folder of fla, nor such a target"),
        ("OUTSIDE:decode", "main", "lies in no git repository, and 'main' is neither a target nor"),
    ],
)
def test_a_wrong_ref_is_one_line(
    repository: Path, target: str, ref: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = repository.parent / "outside.py"
    outside.write_text("")
    target = target.replace("OUTSIDE", str(outside))
    assert run(["fuzz", "--target", target, "--max-cases", "1", f"--against={ref}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("diffgdn: ")
    assert said in told
    assert told.count("\n") == 1


def test_nothing_is_compared_where_no_kernel_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fuzz", "--vacuity", "--against", "eager"]) == 2
    assert "--vacuity: it runs no kernel" in capsys.readouterr().err


def test_a_shallow_clone_is_told_of(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("later.txt").write_text("x")
    git(repository, "add", "--all")
    git(repository, "commit", "-q", "-m", "later")
    clone = repository.parent / "clone"
    git(repository.parent, "clone", "-q", "--depth", "1", f"file://{repository}", str(clone))
    monkeypatch.chdir(clone / "tests")
    shallow = r"no such revision; the clone is shallow: .*fetch-depth: 0"
    with pytest.raises(Problem, match=shallow), base_of(TARGET, "HEAD~1"):
        pass


def test_a_copy_of_the_revision_is_there_meanwhile_and_no_longer(repository: Path) -> None:
    Path("adapter.py").write_text("changed")
    with base_of(f"{repository}/tests/adapter.py:decode", "main") as found:
        assert found is not None
        assert found.revision is not None
        place = Path(found.target.removesuffix(":decode"))
        assert place.read_text() == ADAPTER
        assert place.is_relative_to(found.revision.copy)
    assert not place.exists()
    with base_of(TARGET, "main") as found:
        assert found is not None
        assert found.target == TARGET  # in a process that runs in the copy of this folder
    with base_of(TARGET, None) as found:
        assert found is None


def test_a_wheel_or_a_folder_of_a_released_package_is_a_base(tmp_path: Path) -> None:
    with base_of("fla", str(tmp_path)) as found:
        assert found == Base(str(tmp_path), f"fla@{tmp_path}")
    with base_of(f"fla@{tmp_path}/a", f"fla@{tmp_path}/b") as found:
        assert found == Base(f"fla@{tmp_path}/b", f"fla@{tmp_path}/b")


# --- the process of a revision ---


def test_a_process_of_a_revision_takes_the_copy_for_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, copy = tmp_path / "root", tmp_path / "copy"
    installed = root / ".venv" / "lib" / "site-packages"
    for folder in (root / "tests", copy / "tests", root / "src", installed):
        folder.mkdir(parents=True)
    monkeypatch.chdir(root / "tests")
    monkeypatch.setattr(sys, "path", ["", str(root / "src"), str(installed), "/elsewhere"])
    revision.enter()
    assert sys.path[0] == ""
    told = Revision(str(root), str(copy), str(root / "src"))
    monkeypatch.setenv(ENVIRONMENT, told.environment[ENVIRONMENT])
    revision.enter()
    src = str(copy / "src")
    assert sys.path == [src, str(copy / "tests"), src, str(installed), "/elsewhere"]
    assert Path.cwd() == copy / "tests"


def test_what_comes_from_the_repository_as_it_is_now_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Revision(str(tmp_path / "root"), str(tmp_path / "copy"))
    stray = ModuleType("fork_of_kernels")
    stray.__file__ = str(tmp_path / "root" / "fork_of_kernels.py")
    monkeypatch.setitem(sys.modules, "fork_of_kernels", stray)
    assert revision.stray() is None
    monkeypatch.setenv(ENVIRONMENT, told.environment[ENVIRONMENT])
    assert (
        revision.stray() == f"it imports fork_of_kernels from {stray.__file__}, which is not of that revision"
    )
    stray.__file__ = str(tmp_path / "root" / "site-packages" / "fork_of_kernels.py")
    assert revision.stray() is None


def test_our_own_kernels_are_those_of_the_revision(tmp_path: Path) -> None:
    place = tmp_path / "copy" / "kernels"
    for file in KERNELS.rglob("*.py"):
        (place / file.relative_to(KERNELS)).parent.mkdir(parents=True, exist_ok=True)
        (place / file.relative_to(KERNELS)).write_text(file.read_text())
    spoiled = "fused_recurrent_gated_delta_rule_update"
    with open(place / "__init__.py", "a") as init:
        init.write(f"\n\ndef {spoiled}(**given):\n    raise RuntimeError('not at that time')\n")
    told = Revision(str(KERNELS.parent), str(tmp_path / "copy"))
    runner = InChild("interpret", tmp_path / "log", environment=told.environment)
    try:
        assert runner.run(Case("gdn.decode"), "vk").ok
        failure = runner.run(Case("gdn.update"), "vk").failure
        assert failure is not None
        assert failure.message == "RuntimeError: not at that time"
        (place / "__init__.py").unlink()
        runner.close()
        with pytest.raises(
            SetupError, match=r"its kernels cannot be imported: ImportError: .* does not exist"
        ):
            runner.run(Case("gdn.decode"), "vk")
    finally:
        runner.close()
    assert ENVIRONMENT not in os.environ


# --- what the base says ---

CASE = Case("gdn.decode")
WRONG = BeyondBound("gdn.decode", "o", None, "off by one")
RAISED = KernelRaised("gdn.decode", None, None, "ValueError: no")


class Fake:
    """Stands for the child: gives the next answers, in the order in which it is asked."""

    def __init__(self, *answers: CheckFailure | str | SetupError | None) -> None:
        self.answers, self.asked = list(answers), list[str]()

    def __call__(self, *place: Any, environment: Any) -> Fake:
        return self

    def _next(self, way: str) -> Verdict:
        self.asked.append(way)
        answer = self.answers.pop(0)
        if isinstance(answer, SetupError):
            raise answer
        if isinstance(answer, str):
            return Verdict(CASE, "x", "interpret", refused=answer)
        return Verdict(CASE, "x", "interpret", answer, confirmed=not isinstance(answer, KernelCrashed))

    def run(self, *_: Any) -> Verdict:
        return self._next("run")

    def afresh(self, calls: Sequence[Call], target: str) -> tuple[int, Verdict]:
        return 0, self._next("afresh")


@pytest.mark.parametrize(
    ("answer", "alike", "words"),
    [
        (None, False, "passes"),
        ("not today", False, "does not take the case: not today"),
        (SetupError("it is gone"), False, "cannot be run: it is gone"),
        (RAISED, False, "fails in another way: raised: ValueError: no"),
        (BeyondBound("gdn.decode", "state", None, "off"), False, "fails in another way: beyond_bound: off"),
        (BeyondBound("gdn.decode", "o", "(token 3)", "off by two"), True, "fails in the same way"),
        # Of one stray read comes a wrong number in one process, and none at all in another.
        (NotFinite("gdn.decode", "o", None, "nan"), True, "fails in the same way"),
        (PoisonLeaked("gdn.decode", "o", None, "leak"), True, "fails in the same way"),
        (NotFinite("gdn.decode", "state", None, "nan"), True, "fails in the same way"),
        (NeverWritten("gdn.decode", "o", None, "none"), False, "fails in another way: never_written: none"),
    ],
)
def test_what_a_base_says(
    answer: Any, alike: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "InChild", Fake(answer, answer))
    said = BaseRunner(Base("x", "x"), "interpret", tmp_path / "log").says(CASE, WRONG)
    assert (said.alike, said.words) == (alike, words)


def test_the_first_failure_of_its_kind_must_come_in_a_fresh_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [Case("gdn.decode", values=Values(seed=seed)) for seed in range(4)]
    child = Fake(WRONG, None, WRONG, WRONG, WRONG)
    monkeypatch.setattr(baseline, "InChild", child)
    asking = BaseRunner(Base("x", "x"), "interpret", tmp_path / "log")
    assert [asking.says(case, WRONG).alike for case in (*cases[:3], cases[2])] == [False, True, True, True]
    assert child.asked == ["run", "afresh", "run", "afresh", "run"]  # none is asked twice


def test_a_base_whose_process_was_killed_once_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = KernelCrashed("gdn.decode", None, None, "killed by SIGKILL; not again in a fresh process")
    child = Fake(killed, None)
    monkeypatch.setattr(baseline, "InChild", child)
    asking = BaseRunner(Base("x", "x"), "interpret", tmp_path / "log")
    assert asking.says(CASE, WRONG).words == "passes"
    assert child.asked == ["run", "afresh"]


@pytest.mark.parametrize("failure", [NotFinite, PoisonLeaked])
def test_a_base_with_a_wrong_number_excuses_one_that_is_none(
    failure: type[CheckFailure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "InChild", Fake(WRONG, WRONG))
    nan = failure("gdn.decode", "o", None, "nan")
    assert BaseRunner(Base("x", "x"), "interpret", tmp_path / "log").says(CASE, nan).alike


def test_exceptions_are_alike_by_their_class() -> None:
    other = KernelRaised("gdn.decode", None, None, "ValueError: never")
    assert baseline.way(CASE, RAISED) == baseline.way(CASE, other)
    assert baseline.way(CASE, RAISED) != baseline.way(
        CASE, KernelRaised("gdn.decode", None, None, "KeyError: no")
    )
    final = BeyondBound("gdn.decode", "final", None, "off")
    assert baseline.way(CASE, final) == baseline.way(CASE, BeyondBound("gdn.decode", "state", None, "off"))


def test_findings_of_a_comparison_read_back(repository: Path) -> None:
    Path("helpers/faults.py").write_text(HELPER + NEW)
    status, told = fuzz("--against", "main", "--max-cases", "20")
    assert status == 1
    saved = Corpus(Path("findings")).findings()
    assert {one.provenance["base"] for one in saved} == {
        one["provenance"]["base"] for one in told["findings"]
    }
