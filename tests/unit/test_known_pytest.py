"""Known failures under pytest, in pytest runs of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffgdn.cases.case import Case, Pool
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding

pytest_plugins = ["pytester"]

# One is wrong from two tokens on, one never, and one dies of every token.
KERNELS = """
import os
from diffgdn.selftest.faulty_target import Planted

def off(case, results):
    results["o"].view(-1)[0] += 1

wrong = Planted("wrong", off, lambda case: case.total >= 2, "eager", ("gdn.recurrent",))
right = Planted("right", off, lambda case: False, "eager", ("gdn.recurrent",))
def die(case, results):
    os.abort()

dying = Planted("dying", die, lambda case: case.total >= 1, "eager", ("gdn.recurrent",))
"""
TESTS = """
from hypothesis import given, settings
import pytest
from diffgdn import strategies
from diffgdn.cases.case import Case, Pool

@settings(max_examples=400)  # few have several sequences of one token each
@given(case=strategies.cases("gdn.recurrent"))
def test_property(diffgdn_check, case):
    diffgdn_check(case, "kernels_of_mine.py:TARGET")

def test_one_case(diffgdn_check):
    diffgdn_check(Case("gdn.recurrent", lens=(2,), pool=Pool(indices=())), "kernels_of_mine.py:TARGET")
"""
LEDGER = """
[[known]]
target = "kernels_of_mine.py:TARGET"
operation = "gdn.recurrent"
kind = "KIND"
reason = "see 7"
"""
CASE = Case("gdn.recurrent", lens=(2,), pool=Pool(indices=()))


class Project:
    """A folder with a kernel, an entry, a finding of it and tests."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester, self.path = pytester, pytester.path
        for name in ("CI", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("DIFFGDN_BACKEND", "interpret")
        pytester.makeconftest("from diffgdn import pytest_plugin\npytest_plugin.activate(corpus='corpus')\n")
        pytester.makepyfile(kernels_of_mine=KERNELS)

    def lay(self, target: str, kind: str = "beyond_bound", more: str = "") -> Path:
        """Write the tests and the entry of a target, and a finding that it is about; the finding's file."""
        self.pytester.makepyfile(test_it=TESTS.replace("TARGET", target))
        (self.path / "diffgdn.toml").write_text(LEDGER.replace("TARGET", target).replace("KIND", kind) + more)
        tensor = "o" if kind == "beyond_bound" else None
        finding = Finding(CASE, f"kernels_of_mine.py:{target}", "interpret", kind, "it was off", tensor)
        return Corpus(self.path / "corpus").save(finding)

    def run(self, *options: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess(
            "-p", "no:cacheprovider", "--hypothesis-profile=ci", "-rxs", "-n0", *options
        )


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(pytester, monkeypatch)


def test_a_known_failure_fails_nothing_and_is_counted(project: Project) -> None:
    project.lay("wrong")
    result = project.run("--diffgdn-isolation=none")
    result.assert_outcomes(passed=1, xfailed=2)
    result.stdout.re_match_lines([r".*known \(.*diffgdn\.toml:2\): see 7"])
    result.stdout.re_match_lines([r"known failure .*diffgdn\.toml:2: \d+ cases$"])
    assert not (project.path / "findings").exists()


@pytest.mark.nightly
def test_what_is_not_known_still_fails_and_is_not_shrunk_into_what_is(project: Project) -> None:
    project.lay("wrong", more="where = { length = { least = 2 } }\n")
    result = project.run("--diffgdn-isolation=none")
    result.assert_outcomes(failed=1, xfailed=2)
    found = Corpus(project.path / "findings").findings()
    assert found
    for finding in found:
        assert (finding.case.total, max(finding.case.lens)) == (2, 1)


def test_a_saved_finding_of_a_known_failure_that_passes_fails(project: Project) -> None:
    path = project.lay("right")
    result = project.run("corpus")
    result.assert_outcomes(failed=1)
    said = r"gdn\.recurrent  beyond_bound: " + re.escape(path.stem) + " passes; remove the entry"
    result.stdout.re_match_lines([rf".*known failure no longer fails: .*diffgdn\.toml:2  {said}"])
    project.lay("right", more="flaky = true\n")
    project.run("corpus").assert_outcomes(passed=1)


@pytest.mark.nightly
def test_known_crashes_run_on_request_alone(project: Project) -> None:
    project.lay("dying", "crashed")
    result = project.run()
    result.assert_outcomes(skipped=3)
    result.stdout.re_match_lines([r".*known to have crashed \(.*diffgdn\.toml:2\): see 7"])
    result = project.run("--diffgdn-run-known-crashes", "corpus", "-k", "replay")
    result.assert_outcomes(xfailed=1)


def test_a_wrong_entry_is_a_usage_error(project: Project) -> None:
    project.lay("wrong", "hang")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.re_match_lines(
        [r"ERROR: .*diffgdn\.toml:2 \(gdn\.recurrent hang\): kind: expected one of .*"]
    )
