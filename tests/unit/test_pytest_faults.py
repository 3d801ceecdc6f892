"""pytest under fire: kernels that end their process, workers that are killed, what is explored meanwhile."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

from diffgdn.cases.case import Case
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.pytest_plugin import answers as testing
from diffgdn.verdict.failures import NotFinite, Verdict

pytest_plugins = ["pytester"]

FAULTS = Path(__file__).with_name("faults.py")
TOYS = Path(__file__).with_name("toys.py")
ACTIVATE = """
from diffgdn import pytest_plugin
pytest_plugin.activate()
"""
# Cases of its own besides those of the property: other tests go on on the same workers.
PROPERTIES = """
import pytest
from hypothesis import given
from diffgdn import strategies
from diffgdn.cases.case import Case

@given(case=strategies.cases("gdn.decode"))
def test_decode(diffgdn_check, case):
    diffgdn_check(case)

@pytest.mark.parametrize("T", [1, 2])
def test_others(diffgdn_check, T):
    diffgdn_check(Case("gdn.decode", lens=(T,)))
"""
# Tells which cases a shard draws.
DRAWING = """
import pytest
from hypothesis import given
from diffgdn import strategies

drawn = []

@given(case=strategies.cases("gdn.update"))
def test_draws(diffgdn_check, case):
    drawn.append(case.id)

def test_tells():
    print("DRAWN", *drawn)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in ("CI", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIFFGDN_BACKEND", "interpret")
    pytester.makeconftest(ACTIVATE)
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", *options)


def only_finding(project: pytest.Pytester) -> Finding:
    (found,) = Corpus(project.path / "findings").findings()
    return found


def test_a_child_that_dies_is_a_failed_test_and_no_dead_worker(project: pytest.Pytester) -> None:
    """Its case is saved, shrunk, and named in the output."""
    project.makepyfile(PROPERTIES)
    result = run(project, "-n2", f"--diffgdn-target={FAULTS}:crashing", "--diffgdn-seed=1")
    result.assert_outcomes(passed=2, failed=1)
    found = only_finding(project)
    assert (found.kind, found.case) == ("crashed", Case("gdn.decode", lens=(3,)))
    shown = result.stdout.str()
    assert f"saved as findings/{found.id}.json" in shown
    assert f"Reproduce with:\n    diffgdn replay findings/{found.id}.json" in shown
    assert "KernelCrashed: gdn.decode: the process that ran the kernel ended: killed by SIGSEGV" in shown
    assert "crashed while running" not in shown  # as xdist says it of a worker


@pytest.mark.nightly
def test_a_worker_that_is_killed_leaves_its_case(
    project: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a child in between, the kernel takes the worker with it; another one runs the other tests."""
    monkeypatch.setenv("DIFFGDN_STRIKES", str(tmp_path / "strikes"))
    project.makepyfile(PROPERTIES)
    options = [f"--diffgdn-target={FAULTS}:deadly", "--diffgdn-isolation=none", "--diffgdn-seed=1"]
    result = run(project, "-n1", *options)
    result.assert_outcomes(passed=2, failed=1)
    found = only_finding(project)
    assert (found.kind, found.message) == ("crashed", "the pytest worker gw0 ended while this case ran")
    assert found.case.total >= 3
    shown = result.stdout.str()
    assert "worker 'gw0' crashed while running" in shown
    assert re.search(rf"saved as \S*findings/{found.id}.json\nReproduce with:\n    diffgdn replay ", shown)


def drawn(project: pytest.Pytester, *options: str) -> list[str]:
    """What the tests of a run have drawn."""
    result = run(project, "-s", "--diffgdn-isolation=none", *options)
    result.assert_outcomes(passed=result.parseoutcomes()["passed"])
    return result.stdout.str().partition("DRAWN ")[2].split("\n")[0].split()


def test_a_seed_repeats_a_run_and_shards_draw_streams_of_their_own(project: pytest.Pytester) -> None:
    project.makepyfile(DRAWING)
    once, again, other = (drawn(project, f"--diffgdn-seed={seed}") for seed in (1, 1, 2))
    assert once == again != other
    shards = drawn(project, "--diffgdn-seed=1", "--diffgdn-shards=3")
    assert shards[: len(once)] == once
    assert len(set(shards)) > 2 * len(set(once))


def test_a_property_that_failed_fails_again_at_once(project: pytest.Pytester) -> None:
    """From Hypothesis' database, without which the corpus has the finding all the same. A seed asks for its
    own cases, and for none besides."""
    checked = "drawn.append(case.id)\n    diffgdn_check(case)"
    project.makepyfile(DRAWING.replace("gdn.update", "gdn.decode").replace("drawn.append(case.id)", checked))
    wrong = f"--diffgdn-target={TOYS}:wrong"

    def drawn_in_a_failing_run(*options: str) -> list[str]:
        result = run(project, "-s", "--diffgdn-isolation=none", wrong, *options)
        result.assert_outcomes(passed=1, failed=1)
        return result.stdout.str().partition("DRAWN ")[2].split("\n")[0].split()

    first = drawn_in_a_failing_run()
    found = {finding.case.id for finding in Corpus(project.path / "findings").findings()}
    again = drawn_in_a_failing_run()
    assert again[0] in found
    assert first[0] not in found
    assert {finding.case.id for finding in Corpus(project.path / "findings").findings()} == found
    seeded = drawn_in_a_failing_run("--diffgdn-seed=1")
    shutil.rmtree(project.path / ".hypothesis")
    # What is drawn once a shrink has had its seconds goes by how busy the machine is.
    assert drawn_in_a_failing_run("--diffgdn-seed=1")[:10] == seeded[:10]
    assert len(seeded) >= 10
    assert not (project.path / ".hypothesis" / "examples").exists()


def test_ci_in_the_environment_loses_no_exploration(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hypothesis itself would draw the same cases in every run then."""
    monkeypatch.setenv("CI", "1")
    project.makepyfile(DRAWING)
    first, second = drawn(project), drawn(project)
    assert min(len(set(first)), len(set(second))) > 25
    assert len(set(first) & set(second)) < len(set(first)) / 2


def test_time_that_is_up_ends_exploration_but_no_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    cases = [Case("gdn.decode", lens=(length,)) for length in (1, 2, 3, 4)]

    def ask(answers: testing.Answers, case: Case, wrong: bool = False) -> Verdict | None:
        failure = NotFinite("gdn.decode", "o", None, "nan") if wrong else None
        return answers.verdict(case, "vk", lambda case: Verdict(case, "vk", "interpret", failure))

    def fail(case: Case) -> Verdict:
        raise RuntimeError("no target")

    explores = testing.Answers(most_seconds=10.0)
    assert ask(explores, cases[0]) is not None
    now[0] += 10.0
    assert ask(explores, cases[0]) is not None  # it is known
    with pytest.raises(testing.TimeUp):
        ask(explores, cases[1])
    broken = testing.Answers(most_seconds=10.0)
    for _ in range(2):  # as Hypothesis does with what raised
        with pytest.raises(BaseException, match="no target") as raised:  # not a TimeUp
            broken.verdict(cases[0], "vk", fail)
        assert raised.type is RuntimeError
        now[0] += 10.0
    shrinks = testing.Answers(most_seconds=10.0)
    ask(shrinks, cases[0], wrong=True)
    now[0] += 10.0
    assert ask(shrinks, cases[1]) is not None


REFUSED = """
from hypothesis import given
from diffgdn import strategies
from diffgdn.cases.case import Case

@given(case=strategies.cases("gdn.decode"))
def test_property(diffgdn_check, case):
    diffgdn_check(case)

def test_one_case(diffgdn_check):
    diffgdn_check(Case("gdn.decode"))
"""


@pytest.mark.parametrize("options", [[], ["--diffgdn-max-time=0.1s"]], ids=["by count", "by time"])
def test_a_property_of_which_no_case_ended_fails_with_the_reason(
    project: pytest.Pytester, options: list[str]
) -> None:
    """A single case that is refused is skipped, as a finding of the corpus is."""
    project.makepyfile(REFUSED)
    result = run(project, "-rs", "--diffgdn-isolation=none", f"--diffgdn-target={TOYS}:refusing", *options)
    result.assert_outcomes(failed=1, skipped=1)
    assert re.search(r"no case ended: all \d+ were refused, the last: not today", result.stdout.str())
    assert f"{TOYS}:refusing does not take this case: not today" in result.stdout.str()


def test_a_hang_is_a_failed_test_after_the_time_that_was_asked_for(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from diffgdn.cases.case import Case

        def test_one_case(diffgdn_check):
            diffgdn_check(Case("gdn.decode"))
        """
    )
    result = run(project, f"--diffgdn-target={FAULTS}:endless_decode", "--diffgdn-hang-after=3s")
    result.assert_outcomes(failed=1)
    assert (only_finding(project).kind, only_finding(project).message) == ("hung", "no answer within 3 s")


INTERRUPTED = """
from hypothesis import given
from diffgdn import strategies

@given(case=strategies.cases("gdn.decode"))
def test_decode(diffgdn_check, case):
    try:
        diffgdn_check(case)
    except AssertionError:
        raise KeyboardInterrupt from None
"""


def test_ctrl_c_during_a_shrink_leaves_the_finding_whole(project: pytest.Pytester) -> None:
    project.makepyfile(INTERRUPTED)
    result = run(project, "--diffgdn-isolation=none", f"--diffgdn-target={TOYS}:wrong", "--diffgdn-seed=1")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    found = only_finding(project)
    assert found.shrink == "none"
    assert (project.path / "findings" / f"{found.id}.py").exists()
    told = f"not shrunk; to take it up again:\n    diffgdn shrink findings/{found.id}.json\n"
    assert told in result.stdout.str()


@pytest.mark.nightly
def test_a_shrink_that_runs_out_of_time_says_so(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makeconftest(
        f"from diffgdn.pytest_plugin import answers\nanswers.SHRINK_SECONDS = 0.0\n{ACTIVATE}"
    )
    project.makepyfile(REFUSED)
    options = ["--diffgdn-isolation=none", f"--diffgdn-target={TOYS}:wrong", "--diffgdn-seed=1"]
    run(project, *options).assert_outcomes(failed=1, passed=1)
    assert {found.shrink for found in Corpus(project.path / "findings").findings()} == {"out of time"}
    project.makeconftest(ACTIVATE)
    shutil.rmtree(project.path / "findings")
    result = run(project, *options)
    assert {found.shrink for found in Corpus(project.path / "findings").findings()} == {"complete"}
    assert "take it up again" not in result.stdout.str()


def test_a_failure_that_nothing_shrinks_says_so(project: pytest.Pytester) -> None:
    """A test of one case."""
    project.makepyfile(
        """
        from diffgdn.cases.case import Case

        def test_one_case(diffgdn_check):
            diffgdn_check(Case("gdn.decode", lens=(4,)))
        """
    )
    result = run(project, "--diffgdn-isolation=none", f"--diffgdn-target={TOYS}:wrong")
    result.assert_outcomes(failed=1)
    assert only_finding(project).shrink == "none"
    told = f"not shrunk; to take it up again:\n    diffgdn shrink findings/{only_finding(project).id}.json\n"
    assert told in result.stdout.str()
