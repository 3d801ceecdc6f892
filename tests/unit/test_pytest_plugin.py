"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.pytest_plugin import answers as testing
from diffgdn.verdict.failures import CheckFailure, NotFinite, Verdict

pytest_plugins = ["pytester"]

ACTIVATE = """
from diffgdn import pytest_plugin
pytest_plugin.activate(corpus="corpus")
"""
# Pretends to a machine with four GPUs and a CUDA build of torch.
FOUR_GPUS = (
    """
from diffgdn.backend import selection
selection.devices_found = lambda: [(str(i), "NVIDIA H100") for i in range(4)]
selection.torch_cuda = lambda: "13.0"
"""
    + ACTIVATE
)
# Forgets the second token's output.
BROKEN = """
import torch
from diffgdn.targets import target

@target("gdn.recurrent", name="broken")
def broken(q, v, initial_state, **rest):
    o = torch.zeros_like(v)
    o[:, 1:] = torch.nan
    return o, None
"""
PROPERTY = """
from hypothesis import given
from diffgdn import strategies

def test_property(diffgdn_check):
    @given(strategies.cases("gdn.recurrent"))
    def holds(case):
        diffgdn_check(case)
    holds()
"""
FINDING = Finding(Case(op="gdn.decode"), "eager", "interpret", "beyond_bound", "wrong once")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in (
        "CI",
        "CUDA_VISIBLE_DEVICES",
        "PYTEST_XDIST_WORKER",
        "PYTEST_ADDOPTS",
        "TRITON_INTERPRET",
        "OMP_NUM_THREADS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIFFGDN_BACKEND", "interpret")
    pytester.makeconftest(ACTIVATE)
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", *options)


def test_a_gpu_test_is_skipped_and_the_reason_is_shown(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os
        from types import SimpleNamespace
        import pytest

        @pytest.mark.gpu
        def test_on_gpu():
            raise AssertionError("ran")

        def test_backend(diffgdn_backend):
            assert (diffgdn_backend, os.environ["TRITON_INTERPRET"]) == ("interpret", "1")
        """
    )
    result = run(project, "-rs", "--strict-markers")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.re_match_lines([r"diffgdn: gpu tests are skipped: \S.*", r"SKIPPED .*needs a GPU: \S.*"])
    run(project, "-q").stdout.re_match_lines([r"1 gpu tests skipped: \S.*"])


PRINT_SETTINGS = """
from hypothesis import settings

def test_settings():
    now = settings.default
    phases = [phase.name for phase in now.phases]
    database = now.database is not None
    print("SETTINGS", now.max_examples, now.derandomize, database, now.deadline, now.print_blob, phases)
"""


@pytest.mark.parametrize(
    ("options", "header", "examples", "derandomized", "database"),
    [
        ([], r"profile dev, seed \d+", 50, False, True),
        (["--hypothesis-profile=ci"], "profile ci, derandomized", 25, True, False),
        (["--hypothesis-profile=fuzz"], r"profile fuzz, seed \d+", 1000, False, True),
        (["--hypothesis-profile=fuzz", "--hypothesis-seed=7"], "profile fuzz, seed 7", 1000, False, False),
    ],
    ids=["dev", "ci", "fuzz", "fuzz-seed"],
)
def test_profiles_say_how_they_draw_and_keep_exploring_under_ci(
    project: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    header: str,
    examples: int,
    derandomized: bool,
    database: bool,
) -> None:
    monkeypatch.setenv("CI", "1")
    project.makepyfile(PRINT_SETTINGS)
    result = run(project, "-s", *options)
    result.stdout.re_match_lines([f"diffgdn: backend interpret, target vk, {header}$"])
    phases = "['explicit', 'reuse', 'generate', 'shrink']"
    assert f"SETTINGS {examples} {derandomized} {database} None False {phases}" in result.stdout.str()


def test_the_seed_in_the_header_is_the_one_that_workers_draw_from(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from hypothesis import core

        def test_seed(request):
            assert core.global_force_seed == int(request.config.getoption("--hypothesis-seed"))
            raise AssertionError(f"drawn from {core.global_force_seed}")
        """
    )
    shown = run(project, "-n1").stdout.str()
    seed = shown.partition("profile dev, seed ")[2].split()[0]
    assert f"drawn from {seed}" in shown


def test_the_corpus_is_replayed_first_one_test_a_finding(project: pytest.Pytester) -> None:
    corpus = Corpus(project.path / "corpus")
    path = corpus.save(FINDING)
    (corpus.path / "broken.json").write_text("{}")
    elsewhere = Corpus(project.path / "findings").save(FINDING)
    project.makepyfile(test_a="def test_first_by_name(): pass")
    result = run(project, "-v")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.re_match_lines(
        [r"corpus/broken\.json::replay FAILED.*", rf"corpus/{path.name}::replay PASSED.*", "test_a.py::.*"]
    )
    assert "broken.json: format_version: this diffgdn reads 1 to 2, got None" in result.stdout.str()
    assert f"diffgdn replay {corpus.path / 'broken.json'}" in result.stdout.str()
    assert f"{elsewhere.parent.name}/" not in result.stdout.str()
    (corpus.path / "broken.json").unlink()
    run(project, "--hypothesis-profile=replay").assert_outcomes(passed=1, deselected=1)


def test_a_finding_that_fails_again_says_what_and_how_to_replay_it(project: pytest.Pytester) -> None:
    project.makepyfile(kernels_of_mine=BROKEN)
    case = Case(op="gdn.recurrent", lens=(2,), pool=Pool(indices=()), chunk_size=16)
    corpus = Corpus(project.path / "corpus")
    path = corpus.save(Finding(case, "kernels_of_mine.py:broken", "interpret", "not_finite", "nan"))
    refused = corpus.save(
        Finding(Case(op="gdn.decode"), "kernels_of_mine.py:broken", "interpret", "raised", "no")
    )
    result = run(project, "-rs", "corpus")
    result.assert_outcomes(failed=1, skipped=1)
    assert "gdn.recurrent o (sequence 0, token 1, head 0, V 0): got nan, expected" in result.stdout.str()
    assert f"diffgdn replay {path}" in result.stdout.str()
    assert (
        f"does not take this case: broken does not implement {Case(op='gdn.decode').op}"
        in result.stdout.str()
    )
    assert refused.exists()


def test_a_failing_property_names_the_finding_it_saved(project: pytest.Pytester) -> None:
    project.makepyfile(kernels_of_mine=BROKEN, test_property=PROPERTY)
    result = run(
        project, "--diffgdn-target=kernels_of_mine.py:broken", "--diffgdn-corpus=found", "--hypothesis-seed=1"
    )
    result.assert_outcomes(failed=1)
    shown = result.stdout.str()
    findings = Corpus(Path(project.path / "found")).findings()
    assert findings
    for finding in findings:
        assert finding.target == "kernels_of_mine.py:broken"
        assert f"diffgdn replay found/{finding.id}.json" in shown
        assert f"@example(case={finding.case!r})" in shown
        assert (project.path / "found" / f"{finding.id}.py").read_text().count("TRITON_INTERPRET")
        # Shrunk: every value at its simplest but for what it takes to fail.
        assert finding.case.K == finding.case.V == 16
        assert finding.case.gates == Gates()
        assert finding.case.values == Values(law=finding.case.values.law)
        assert sum(finding.case.lens) <= 2
    assert "Falsifying" not in shown


@pytest.mark.nightly
def test_a_finding_that_cannot_be_saved_is_shown(project: pytest.Pytester) -> None:
    project.makeconftest(
        "import os\n"
        "def full(descriptor):\n"
        "    raise OSError(28, 'No space left on device')\n"
        "os.fsync = full\n" + ACTIVATE
    )
    project.makepyfile(kernels_of_mine=BROKEN, test_property=PROPERTY)
    result = run(
        project, "--diffgdn-target=kernels_of_mine.py:broken", "--diffgdn-corpus=found", "--hypothesis-seed=1"
    )
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"NotFinite: .*",
            r"found: No space left on device: .* is not saved",
            r"    @example\(case=Case\(.*",
        ],
        consecutive=False,
    )
    assert list((project.path / "found").iterdir()) == []


def test_shrinking_ends_with_cases_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(testing, "time", SimpleNamespace(monotonic=lambda: now[0]))
    answers = testing.Answers()
    first, second, third = (Case(op="gdn.decode", lens=(length,)) for length in (1, 2, 3))

    def ask(case: Case, failure: CheckFailure | None = None) -> CheckFailure | str | None:
        verdict = answers.verdict(case, "vk", lambda case: Verdict(case, "vk", "interpret", failure))
        return "unrun" if verdict is None else verdict.failure

    wrong = NotFinite("gdn.decode", "o", None, "nan")
    now[0] = 1000.0
    assert ask(first) is None
    assert ask(second, wrong) is wrong
    now[0] += testing.SHRINK_SECONDS
    assert ask(third) == "unrun"
    assert ask(second) is wrong
    assert ask(first, wrong) is None


def test_each_worker_gets_a_gpu_its_caller_made_visible_and_another_after_it(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    monkeypatch.setenv("DIFFGDN_BACKEND", "gpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    project.makeconftest(FOUR_GPUS)
    project.makepyfile(
        """
        import os, sys
        from types import SimpleNamespace
        import pytest

        assert "torch" not in sys.modules

        @pytest.mark.parametrize("i", range(12))
        def test_gpu(i, worker_id):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == {"gw0": "3,1", "gw1": "1,3", "gw2": "3,1"}[worker_id]
            assert "TRITON_INTERPRET" not in os.environ
        """
    )
    run(project, "-n3").assert_outcomes(passed=12)


def test_auto_workers_are_the_cores_or_what_the_gpus_hold(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os
        from types import SimpleNamespace
        import pytest
        from diffgdn.backend import selection
        from diffgdn.pytest_plugin import hooks as pytest_plugin

        @pytest.mark.parametrize(("on", "cores", "gpus", "workers"), [
            ("interpret", 64, 4, 64), ("gpu", 64, 4, 32), ("gpu", 4, 4, 4), ("gpu", 64, 1, 8),
        ])
        def test_auto(monkeypatch, request, on, cores, gpus, workers):
            monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores))
            monkeypatch.setattr(selection, "visible_gpus", lambda: ["0"] * gpus)
            state = SimpleNamespace(backend=on, answers=SimpleNamespace(known={}))
            monkeypatch.setattr(pytest_plugin, "state_of", lambda config: state)
            assert pytest_plugin.pytest_xdist_auto_num_workers(request.config) == workers
        """
    )
    run(project).assert_outcomes(passed=4)


def test_a_backend_that_cannot_be_entered_is_a_usage_error(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFGDN_BACKEND", "cpu")
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        "DIFFGDN_BACKEND: expected gpu or interpret, got 'cpu'" in result.stdout.str() + result.stderr.str()
    )


def test_without_activation_it_changes_nothing(project: pytest.Pytester) -> None:
    project.makeconftest("")
    Corpus(project.path / "corpus").save(FINDING)
    project.makepyfile(
        """
        import os, sys

        def test_untouched(request):
            assert "TRITON_INTERPRET" not in os.environ
            assert not {"torch", "triton"} & set(sys.modules)
            assert request.config.getoption("--hypothesis-seed") is None
        """
    )
    result = run(project)
    result.assert_outcomes(passed=1)
    assert "diffgdn: backend" not in result.stdout.str()
