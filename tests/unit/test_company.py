"""Failures that depend on what ran before in the same process: told as such, laid to the call that did the
damage, and replayed as they came. Told of nowhere else: FIXED for what is not, and an innocent case.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from diffgdn import campaign, cli, strategies
from diffgdn.campaign import engine, events, replay_findings, tasks
from diffgdn.campaign.case_batch import CaseBatch, Passed, Worker
from diffgdn.campaign.trace_batch import TraceBatch
from diffgdn.cases import company
from diffgdn.cases.case import Case, Pool
from diffgdn.cases.prelude import FIRST_CALLS, MOST_CALLS, Call, History, digest, fitting
from diffgdn.cases.trace import Trace, call_of
from diffgdn.findings import bucket, corpus, parse
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import MAX_BYTES, CorpusError, finding_from_json
from diffgdn.report import finding_lines as report
from diffgdn.runner.confirm import Confirm, Confirmed, again
from diffgdn.runner.harness import Harness
from diffgdn.runner.ways import InChild
from diffgdn.search import preludes
from diffgdn.search.preludes import with_less
from diffgdn.verdict.failures import BeyondBound, CheckFailure, KernelCrashed, Verdict
from diffgdn.verdict.question import PlayTrace

pytest_plugins = ["pytester"]

FAULTS = Path(__file__).with_name("faults.py")
HALF, FULL = Case("gdn.decode", dtype="bfloat16"), Case("gdn.decode")
CULPRIT, VICTIM = Case("gdn.decode", lens=(3,)), Case("gdn.decode", lens=(6,))
DAMAGES = "it damages the heap of the process: the block 0x[0-9a-f]+ bytes into the heap has a size of 0x4141"


@pytest.fixture
def runner(tmp_path: Path, strikes: Path) -> Iterator[InChild]:
    runner = InChild("interpret", tmp_path / "log")
    yield runner
    runner.close()


def played(runner: InChild, target: str, *cases: Case) -> Verdict:
    """The verdict on the last of some cases, run one after another."""
    verdicts = [runner.run(case, f"{FAULTS}:{target}") for case in cases]
    assert all(verdict.ok for verdict in verdicts[:-1])
    return verdicts[-1]


def asked_again(runner: InChild, target: str, *cases: Case) -> Confirmed:
    """What the failure of the last of some cases is confirmed to be, made as small as it gets."""
    verdict = played(runner, target, *cases)
    confirm = Confirm(runner, f"{FAULTS}:{target}")
    return preludes.shorter(confirm, confirm(Call(cases[-1]), verdict))


AFTER_ANOTHER_DTYPE = dataclasses.replace(FULL, before=("other_dtype",))
AT_NIGHT = pytest.param("none", marks=pytest.mark.nightly)  # the same in the worker itself


# --- one failure, asked again ---


def test_a_wrong_number_that_takes_another_call_before_it_names_that_one(
    runner: InChild,
) -> None:
    others = [Case("gdn.decode", K=K, dtype="bfloat16") for K in (2, 4, 8)]
    wide = dataclasses.replace(HALF, lens=(1, 2), H=2, HV=4, pool=Pool(slots=2, indices=(0, 1)))
    sure = asked_again(runner, "cached", *others, Case("gdn.decode", lens=(2,)), wide)
    assert (sure.call, sure.prelude) == (Call(AFTER_ANOTHER_DTYPE), ())
    assert (sure.reproduced, sure.alone, sure.failure.kind) == (True, False, "beyond_bound")


def test_a_coarse_dtype_after_another_is_named_in_fp32() -> None:
    """other_dtype before fp16 is fp32, which rounds nothing: the same shows in fp32, after bf16."""

    class RoundsAsTheFirst:
        def fails(self, prelude: tuple[Call, ...], call: Call, like: Confirmed) -> Verdict | None:
            case = call.subject
            assert isinstance(case, Case)
            first = [one.subject for one in prelude] + [made for _, made in company.calls(case)]
            bad = case.dtype != "bfloat16" and any(one.dtype == "bfloat16" for one in first)
            return like.verdict if bad else None

    half = dataclasses.replace(FULL, dtype="float16", l2norm=True)
    failure = BeyondBound("gdn.decode", "o", None, "wrong")
    found = Confirmed(Call(half), Verdict(half, "it", "interpret", failure), (Call(HALF),))
    named = preludes.shorter(RoundsAsTheFirst(), found)  # type: ignore[arg-type]
    assert (named.call.subject, named.prelude) == (AFTER_ANOTHER_DTYPE, ())


@pytest.mark.nightly
def test_a_call_that_no_word_names_becomes_the_prelude(runner: InChild) -> None:
    others = [Case("gdn.decode", K=4, lens=(length,)) for length in (1, 2)]
    sure = asked_again(runner, "first_size", *others, Case("gdn.decode", K=8))
    assert [sure.call.subject, *(one.subject for one in sure.prelude)] == [FULL, Case("gdn.decode", K=1)]
    assert (sure.reproduced, sure.alone, sure.failure.kind) == (True, False, "beyond_bound")


def test_heap_damage_is_laid_to_the_call_that_did_it(runner: InChild) -> None:
    """Not to the one in which the process ended."""
    innocent = [Case("gdn.decode", lens=(length,)) for length in (1, 2, 4, 5)]
    sure = asked_again(runner, "heap", *innocent, CULPRIT, *innocent[:2], VICTIM)
    assert (sure.call, sure.prelude, sure.heap) == (Call(CULPRIT), (), True)
    assert re.match(DAMAGES, sure.failure.message)


def test_a_crash_that_takes_two_calls_names_both(runner: InChild) -> None:
    cases = [Case("gdn.decode", lens=(length,)) for length in (1, 2, 3, 4)]
    sure = asked_again(runner, "dirty", *cases)
    assert sure.failure.kind == "crashed"
    assert (sure.call, sure.prelude) == (Call(Case("gdn.decode", lens=(3,), before=("same",))), ())
    assert not sure.heap


def test_what_fails_alone_is_a_plain_failure(runner: InChild) -> None:
    sure = asked_again(runner, "wrong", FULL, CULPRIT)
    assert (sure.call, sure.alone) == (Call(CULPRIT), True)


def test_what_does_not_come_again_keeps_what_had_run_before(runner: InChild) -> None:
    sure = asked_again(runner, "wrong_once", FULL, HALF, CULPRIT)
    assert (sure.call, sure.reproduced) == (Call(CULPRIT), False)
    assert sure.prelude == (Call(FULL), Call(HALF))
    assert sure.failure.message.endswith("; not again in a fresh process, nor after the calls before it")


def test_the_heap_of_a_process_is_walked_to_its_end() -> None:
    script = """if True:
        import ctypes, os
        from diffgdn.runner import heap
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        blocks = [libc.malloc(5000) for _ in range(9)]
        print(heap.damage(), flush=True)
        ctypes.memset(blocks[4] - 8, 0x41, 8)
        print(heap.damage(), flush=True)
        os._exit(0)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    before, after = done.stdout.splitlines()
    assert before == "None"
    assert re.fullmatch(r"the block 0x\w+ bytes into the heap has a size of 0x4141414141414140", after)


def test_a_prelude_is_bisected_to_the_calls_that_matter() -> None:
    calls = tuple(Call(Case("gdn.update", lens=(length,))) for length in range(1, 41))
    needed, runs = {calls[7], calls[29]}, []

    def fails(part: tuple[Call, ...]) -> bool:
        runs.append(part)
        return needed <= set(part)

    assert with_less(calls, fails, Call(FULL), lambda: False) == (calls[7], calls[29])
    assert len(runs) < 20
    assert with_less(calls, fails, Call(FULL), lambda: True) == calls


# --- a campaign ---


def run(
    target: str, folder: Path, shrink_seconds: float = 30.0, **options: Any
) -> tuple[campaign.Outcome, list[events.Event]]:
    """A campaign in which shrinking has all the time it needs."""
    given: dict[str, Any] = {
        "operations": ("gdn.decode",),
        "workers": 1,
        "seed": 7,
        "max_cases": 24,
        **options,
    }
    config = campaign.Config(f"{FAULTS}:{target}", backend="interpret", corpus=folder, **given)
    told: list[events.Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "shrink_seconds", lambda max_time: shrink_seconds)
        return campaign.run(config, told.append), told


def statuses(findings: Sequence[Finding], repeat: int = 2) -> list[str]:
    return [result.status for result in replay_findings.run(list(findings), repeat=repeat, trusted=True)]


@pytest.mark.parametrize("isolation", ["child", AT_NIGHT])
def test_a_campaign_saves_what_depends_on_history_with_it(
    tmp_path: Path, isolation: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shown, replayed and written as such; FIXED once it is, and not before."""
    outcome, _ = run("cached", tmp_path, isolation=isolation)
    found, *others = sorted(outcome.findings, key=lambda finding: finding.kind)
    # The stale output's rows behind the last sequence are another failure.
    assert [other.case for other in others] in ([], [dataclasses.replace(found.case, lens=(0,), tail=1)])
    assert [other.kind for other in others] in ([], ["tail_not_zero"])
    assert (found.kind, found.reproduced) == ("beyond_bound", True)
    assert (found.case, found.prelude) == (AFTER_ANOTHER_DTYPE, ())
    assert sorted(Corpus(tmp_path).findings(), key=lambda finding: finding.kind) == [found, *others]
    assert bucket.of(found).fault == "wrong, after other calls"
    path = tmp_path / f"{found.id}.json"
    arguments = [str(path), "--trust-targets", "--backend", "interpret"]
    assert cli.run(["show", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "calls before it in the same process, as its `before` says:" in shown
    said = f"    other_dtype: another dtype of q, k, v: {HALF!r}\n  and then\n  {found.case!r}\n"
    assert said in shown
    assert "Run again: FAILED" in shown
    assert statuses([found]) == ["FAILED"]
    script = [sys.executable, str(path.with_suffix(".py"))]
    assert subprocess.run(script, capture_output=True).returncode == 1
    monkeypatch.setenv("DIFFGDN_MENDED", "1")
    assert statuses([found]) == ["FIXED"]
    assert subprocess.run(script, capture_output=True).returncode == 0


@pytest.mark.parametrize("isolation", ["child", AT_NIGHT])
def test_a_campaign_names_the_case_that_damaged_the_heap(
    tmp_path: Path, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is the worker that dies."""
    outcome, told = run("heap", tmp_path, isolation=isolation)
    (found,) = outcome.findings
    assert (found.kind, found.case, found.prelude) == ("crashed", CULPRIT, ())
    assert re.match(DAMAGES, found.message)
    assert any(isinstance(event, events.WorkerDied) for event in told) == (isolation == "none")
    assert statuses([found]) == ["FAILED"]
    script = [sys.executable, str(tmp_path / f"{found.id}.py")]
    assert subprocess.run(script, capture_output=True).returncode == 1
    monkeypatch.setenv("DIFFGDN_MENDED", "1")
    assert statuses([found]) == ["FIXED"]
    assert subprocess.run(script, capture_output=True).returncode == 0


def test_a_one_off_is_told_as_seen_once_and_never_as_fixed(tmp_path: Path, strikes: Path) -> None:
    outcome, _ = run("wrong_once", tmp_path / "corpus", max_cases=12)
    (found,) = outcome.findings
    assert (found.kind, found.reproduced) == ("beyond_bound", False)
    assert statuses([found]) == ["FLAKY 0/2"]
    assert report.company(found)[0].startswith("  seen once: it did not come again alone")
    _, told = run("wrong_once", tmp_path / "corpus", max_cases=3)
    assert [event.status for event in told if isinstance(event, events.FindingReplayed)] == ["FLAKY"]


# --- pytest and serving ---

PROPERTY = """
from hypothesis import given
from diffgdn import strategies

@given(case=strategies.cases("gdn.decode"))
def test_decode(diffgdn_check, case):
    diffgdn_check(case)
"""


def test_a_property_test_ends_with_what_its_failure_depends_on(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CI", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIFFGDN_BACKEND", "interpret")
    pytester.makeconftest("from diffgdn import pytest_plugin\npytest_plugin.activate('saved')\n")
    pytester.makepyfile(PROPERTY)
    target = f"--diffgdn-target={FAULTS}:cached"
    given = "-p", "no:cacheprovider", target, "--diffgdn-corpus=saved"
    result = pytester.runpytest_subprocess(*given, "--diffgdn-seed=1")
    result.assert_outcomes(failed=1)
    (found,) = Corpus(pytester.path / "saved").findings()
    assert (found.case, found.prelude) == (AFTER_ANOTHER_DTYPE, ())
    said = "calls before it in the same process, as its `before` says:"
    assert said in result.stdout.str()
    result = pytester.runpytest_subprocess(*given, "--hypothesis-profile=replay")
    result.assert_outcomes(failed=1)
    monkeypatch.setenv("DIFFGDN_MENDED", "1")
    result = pytester.runpytest_subprocess(*given, "--hypothesis-profile=replay")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("isolation", ["child", AT_NIGHT])
def test_serving_saves_the_traces_that_have_to_be_played_before(
    tmp_path: Path, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told of once; whatever its prelude is made of by then, it holds a trace of another dtype."""
    loop: dict[str, Any] = {
        "operations": ("gdn.serving",),
        "mode": "serving",
        "isolation": isolation,
        "max_cases": 8,
    }
    outcome, told = run("cached", tmp_path, 5.0, **loop)
    (found,) = outcome.findings
    assert Corpus(tmp_path).findings() == [found]
    (before,) = found.prelude
    assert isinstance(before.subject, Trace)
    assert found.trace is not None
    assert before.subject.dtype != found.trace.dtype
    assert (found.reproduced, bucket.of(found).fault) == (True, "wrong, after other calls")
    assert len([event for event in told if isinstance(event, events.FindingFound)]) == 1
    assert statuses([found], repeat=1) == ["FAILED"]
    script = [sys.executable, str(tmp_path / f"{found.id}.py")]
    assert subprocess.run(script, capture_output=True).returncode == 1
    monkeypatch.setenv("DIFFGDN_MENDED", "1")
    assert statuses([found], repeat=1) == ["FIXED"]
    assert subprocess.run(script, capture_output=True).returncode == 0


# --- a batch ---

Answer = Callable[[Call, Verdict], Confirmed]


class Asked(Harness):
    """Answers for cases and confirms failures as it is told to, and takes down which."""

    def __init__(self, answer: Answer) -> None:
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder)
        super().__init__("interpret", Path(folder, "note"), Path(folder, "log"))
        self.fails: Callable[[Case], bool] = lambda case: False
        self.calls: list[Case] = []
        self._answer = answer

    def ask(self, subject: Any, target: str, *_: Any, **options: Any) -> Verdict:
        case = call_of(subject)
        failure = BeyondBound(subject.op, "o", None, "it is wrong") if self.fails(case) else None
        return Verdict(case, target, self.backend, failure)

    def confirm(self, call: Call, verdict: Verdict, target: str) -> Confirmed:
        self.calls.append(call_of(call.subject))
        return self._answer(call, verdict)


def batch(
    fails: Callable[[Case], bool], asked: Asked, doubts: Counter[tasks.Key] | None = None, **options: Any
) -> list[Any]:
    """What a batch of cases sends."""
    sent: list[Any] = []
    asked.fails = fails
    given: dict[str, Any] = {"cases": 30, "seed": 1, "shrink_seconds": 60.0, **options}
    worker = Worker(asked, "vk", sent.append, set, Passed(), Counter() if doubts is None else doubts)
    task = tasks.Explore("gdn.decode", **given)
    CaseBatch(task, worker).search(strategies.cases("gdn.decode"))
    return [message for message in sent if not isinstance(message, events.CaseRun)]


def depends(call: Call, verdict: Verdict) -> Confirmed:
    return Confirmed(call, verdict, prelude=(Call(FULL),))


def test_what_passes_is_not_asked_again() -> None:
    asked = Asked(Confirmed)
    assert batch(lambda case: False, asked) == []
    assert asked.calls == []


def test_a_failure_that_comes_alone_is_asked_at_first_and_when_it_has_been_shrunk() -> None:
    asked = Asked(Confirmed)
    failed, shrunk = batch(lambda case: case.total >= 3, asked)
    assert isinstance(shrunk, tasks.Shrunk)
    assert (failed.shrinks, shrunk.finding.case.lens) == (True, (3,))
    assert asked.calls == [failed.finding.case, shrunk.finding.case]


def test_a_shrink_that_goes_astray_ends_with_the_smallest_case_that_fails_alone() -> None:
    """What other calls have left makes ever smaller cases fail, here those of fewer than five tokens too."""
    asked = Asked(lambda call, verdict: (Confirmed if call.subject.total >= 5 else depends)(call, verdict))  # type: ignore[union-attr]
    messages = batch(lambda case: case.total >= (2 if asked.calls else 5), asked)
    first, last = messages[0], messages[-1]
    assert (first.shrinks, first.finding.prelude, last.first) == (True, (), first.finding)
    assert (last.finding.prelude, last.finding.case.total >= 5) == ((), True)
    assert last.finding.case.total <= first.finding.case.total
    (company,) = [message for message in messages[1:-1] if message.finding.prelude]
    assert (company.finding.case.total, company.again, company.shrinks) == (2, True, False)


def test_what_depends_on_others_is_told_of_once_and_asked_ever_more_rarely() -> None:
    """Each time takes a process; but another failure in the same place comes to light."""
    asked, doubts = Asked(depends), Counter[tasks.Key]()
    (failed,) = batch(lambda case: True, asked, doubts)
    assert (failed.again, failed.shrinks) == (True, False)
    assert len(asked.calls) == 1 + sum(count.bit_length() for count in doubts.values())
    assert doubts.total() > 2 * len(asked.calls)
    asked = Asked(Confirmed)
    known = frozenset({tasks.key(failed.finding)})
    (found, *_) = batch(lambda case: True, asked, Counter(), known=known, shrink=False)
    assert (found.finding.prelude, asked.calls) == ((), [found.finding.case])


def test_traces_that_depend_on_others_are_asked_ever_more_rarely_too() -> None:
    """Over batches: each ends with the first failure that is asked."""
    asked, sent, doubts = Asked(depends), list[Any](), Counter[tasks.Key]()
    asked.fails = lambda case: True
    worker = Worker(asked, "vk", sent.append, set, Passed(), doubts)

    def search(seed: int, known: frozenset[tasks.Key] = frozenset()) -> tasks.Done:
        task = tasks.Explore("gdn.serving", 12, seed, 60.0, known=known, question=PlayTrace())
        return TraceBatch(task, worker).search(("gdn.decode",))

    assert search(0).cases == 1
    (failed,) = [message for message in sent if isinstance(message, tasks.Failed)]
    assert (failed.again, failed.shrinks) == (True, False)
    explored = [search(seed, frozenset({tasks.key(failed.finding)})).cases for seed in range(1, 12)]
    assert [message for message in sent if isinstance(message, tasks.Failed)] == [failed]
    assert len(asked.calls) == 1 + sum(count.bit_length() for count in doubts.values())
    assert sum(explored) == doubts.total() > 2 * len(asked.calls)


# --- what is written ---

PRELUDE = (Call(FULL), Call(HALF, relation="split"))
FOUND = Finding(HALF, "vk", "interpret", "beyond_bound", "it is wrong", "o", "(token 0)", prelude=PRELUDE)


def test_a_prelude_is_part_of_a_finding_and_of_its_id(tmp_path: Path) -> None:
    alone = dataclasses.replace(FOUND, prelude=())
    others = [dataclasses.replace(FOUND, prelude=PRELUDE[:1]), dataclasses.replace(FOUND, reproduced=False)]
    folder = Corpus(tmp_path)
    for finding in (FOUND, alone, *others):
        assert parse.read(folder.save(finding)) == finding
    assert len(folder.files()) == 4
    assert FOUND.id == f"vk-gdn.decode-beyond_bound-after_{digest(PRELUDE)}-{HALF.id}"
    assert alone.to_json().keys() & {"prelude", "reproduced"} == set()
    assert (alone.format_version, FOUND.format_version) == (1, 2)
    assert eval(repr(FOUND.prelude[1])) == PRELUDE[1]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"prelude": {}}, "prelude: expected list, got {}"),
        ({"prelude": [1]}, "prelude: call 0: expected an object, got 1"),
        ({"prelude": [{}]}, "prelude: call 0: expected a case or a trace, got []"),
        ({"prelude": [{"case": {}}]}, "prelude: call 0: format_version: this diffgdn reads"),
        (
            {"prelude": [{"case": FULL.to_json(), "relation": 3}]},
            "prelude: call 0: relation: expected a word",
        ),
        ({"prelude": [{"case": FULL.to_json(), "trace": {}}]}, "prelude: call 0: expected a case or a trace"),
        ({"prelude": [{"case": {**FULL.to_json(), "lens": [1 << 40]}}]}, "prelude: call 0: "),
        ({"prelude": [{"case": FULL.to_json()}] * (MOST_CALLS + 1)}, f"{MOST_CALLS} are the most"),
        ({"reproduced": 1}, "reproduced: expected bool, got 1"),
        ({"format_version": 1}, "unknown field 'prelude', 'reproduced'"),
    ],
)
def test_a_prelude_from_a_stranger_is_checked(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(CorpusError, match=re.escape(reason)):
        finding_from_json(json.loads(json.dumps({**FOUND.to_json(), **changed})))


def test_a_history_keeps_the_first_calls_and_the_latest_and_a_file_has_room_for_them() -> None:
    history = History()
    calls = [Call(Case("gdn.decode", lens=(length,))) for length in range(1, 1001)]
    for call in calls:
        history.add("vk", call)
        history.add("kv", Call(FULL))
    kept = history.of("vk")
    assert kept[: FIRST_CALLS // 2] == tuple(calls[: FIRST_CALLS // 2])
    assert kept[-1] == calls[-1]
    assert len(kept) == MOST_CALLS // 2
    finding = dataclasses.replace(FOUND, prelude=fitting(calls))
    assert finding.prelude[-1] == calls[-1]
    assert len(corpus.content(finding)) < MAX_BYTES
    assert finding_from_json(json.loads(corpus.content(finding))) == finding


def test_what_takes_company_has_a_bucket_of_its_own() -> None:
    assert bucket.of(FOUND).fault == "wrong, after other calls"
    assert bucket.of(dataclasses.replace(FOUND, reproduced=False)).fault == "wrong, seen once"
    assert bucket.of(dataclasses.replace(FOUND, prelude=())).fault == "wrong"


def test_a_crash_in_the_prelude_is_a_failure_that_says_so() -> None:
    class Crashing:
        def afresh(self, calls: Sequence[Call], *_: Any) -> tuple[int, Verdict]:
            failure: CheckFailure = KernelCrashed(FULL.op, None, None, "killed by SIGSEGV")
            return 1, Verdict(FULL, "vk", "interpret", failure)

    failure = again(FOUND, Crashing()).failure
    assert failure is not None
    assert failure.message == "killed by SIGSEGV; in call 1 of its prelude"
