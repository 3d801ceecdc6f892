"""Each relation notices the bug that it is for, and none does where all is well; findings replay."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from diffgdn import campaign, targets
from diffgdn.campaign import replay_findings
from diffgdn.campaign.events import Event
from diffgdn.campaign.rotation import Rotation
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.findings import repro
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.report.console import ConsoleReport
from diffgdn.report.jsonfile import summary
from diffgdn.report.tally import Tally
from diffgdn.targets.eager import Eager
from diffgdn.tensors import inputs
from diffgdn.tensors.arena import Arguments
from diffgdn.verdict import failures, relations
from diffgdn.verdict.failures import CheckFailure, RelationBroken, relation_of
from diffgdn.verdict.question import AskRelation
from diffgdn.verdict.relations import RELATIONS
from diffgdn.verdict.relations.subsets import pick

TOYS = Path(__file__).with_name("toys.py")
SLIGHT = 1 + 2.0**-20  # changes bits, and stays within any bound
Bug = Callable[[Case, dict[str, Tensor]], object]


class Buggy(Eager):
    """The eager target with a bug planted in its results, or in what it reads."""

    def __init__(self, bug: Bug, batch_invariant: bool) -> None:
        self._bug, self.batch_invariant = bug, batch_invariant

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        if isinstance(self._bug, Fading):
            self._bug.before(arguments)
        results = super().run(case, arguments)
        self._bug(case, results)
        return results


def times(factor: float, when: Callable[[Case], bool]) -> Bug:
    """Outputs of some cases multiplied."""

    def bug(case: Case, results: dict[str, Tensor]) -> None:
        if when(case):
            results["o"].mul_(factor)

    return bug


def neighbours(case: Case, results: dict[str, Tensor]) -> None:
    results["o"][..., ::2] += results["o"][..., 1::2]


def squared(case: Case, results: dict[str, Tensor]) -> None:
    results["o"].add_(results["o"] ** 2)


class Counted:
    """Other bits in every second call."""

    calls = 0

    def __call__(self, case: Case, results: dict[str, Tensor]) -> None:
        self.calls += 1
        times(SLIGHT, lambda _: self.calls % 2 == 0)(case, results)


class Fading:
    """A decay that is too strong by a little, in every call alike: only another way to know it shows that."""

    def before(self, arguments: Arguments) -> None:
        arguments["g"].mul_(1.05)

    def __call__(self, case: Case, results: dict[str, Tensor]) -> None:
        """Leave the results as they are."""


def padded_rows(case: Case, results: dict[str, Tensor]) -> None:
    """Other bits for sequences that have index -1."""
    for n, slot in enumerate(case.pool.indices):
        if slot < 0:
            results["o"][0, case.starts[n] : case.starts[n + 1]].mul_(SLIGHT)


GATES, VALUES = Gates(law="uniform", beta="uniform"), Values(law="normal", seed=3)
STEPS = Pool(slots=3, indices=(2, 0), steps=4, buffer=2, rows=(0, 1))
UPDATE = Case("gdn.update", (4, 4), H=1, HV=2, pool=Pool(3, (2, 0)), gates=GATES, values=VALUES)
VERIFY = Case("gdn.verify", (2, 2), H=1, HV=2, pool=STEPS, gates=GATES, values=VALUES)
COMMIT = replace(VERIFY, op="gdn.verify_commit")
TREE = Case("kda.verify", (3, 3), pool=STEPS, gates=GATES, values=VALUES, parents=((-1, 0, 0),) * 2)
EXTEND = Case(
    "gdn.extend", (70, 3), H=1, HV=2, pool=Pool(3, (2, 0)), gates=GATES, values=VALUES, boundary=True
)
RECURRENT = Case("kda.recurrent", (5,), H=2, HV=2, V=32, pool=Pool(indices=()), gates=GATES, values=VALUES)
FRESH = replace(RECURRENT, values=replace(VALUES, state="zero"))
PADDED = replace(UPDATE, pool=Pool(3, (2, -1)))
RIGHT = (UPDATE, VERIFY, COMMIT, TREE, EXTEND, RECURRENT, FRESH, PADDED)

BUGS: dict[str, tuple[Case, Bug, bool]] = {
    "twice": (RECURRENT, Counted(), False),
    "permuted": (UPDATE, times(SLIGHT, lambda case: case.pool.indices[0] == 1), True),
    "separate": (UPDATE, times(SLIGHT, lambda case: len(case.lens) > 1), True),
    "append": (VERIFY, times(1.01, lambda case: case.lens[0] == 3), False),
    "split": (UPDATE, times(1.01, lambda case: case.lens[0] == 2 and case.values.state == "law"), False),
    "steps": (VERIFY, times(1.01, lambda case: case.op == "gdn.decode"), False),
    "stored": (COMMIT, times(1.01, lambda case: case.op == "gdn.verify"), False),
    "paths": (TREE, times(1.01, lambda case: not case.parents), False),
    "recurrent": (EXTEND, times(1.1, lambda case: case.op == "gdn.recurrent"), False),
    "channels": (UPDATE, times(1.01, lambda case: case.op == "kda.update"), False),
    "heads": (UPDATE, times(1.01, lambda case: case.H == 2), False),
    "additive": (RECURRENT, squared, False),
    "rows": (RECURRENT, neighbours, False),
    "packed": (UPDATE, times(1.01, lambda case: not case.packed), False),
    "no_state": (FRESH, times(1.01, lambda case: case.values.state == "none"), False),
    "padding": (PADDED, padded_rows, True),
    "flags": (EXTEND, times(1.05, lambda case: not case.final), True),
    "segments": (UPDATE, Fading(), False),
}

# Half of what `segments` compares is the oracle's: it sees too where an output reads the state otherwise.
ALSO = {"additive": ["segments"], "rows": ["segments"]}


def broken(case: Case, target: Eager) -> dict[str, CheckFailure]:
    """Relations that do not hold, with what they say."""
    found = {}
    for name in relations.applicable(case.op, target.name, target.operations):
        failure = relations.run(case, target, "interpret", name).failure
        if failure is not None:
            found[name] = failure
    return found


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_breaks_the_relation_that_it_is_against_and_no_other(name: str) -> None:
    case, bug, promises = BUGS[name]
    found = broken(case, Buggy(bug, promises))
    assert list(found) == [name, *ALSO.get(name, [])]
    failure = found[name]
    assert isinstance(failure, RelationBroken)
    assert (failure.relation, failure.operation, failure.tensor) == (name, case.op, "o")
    assert failure.kind == f"relation_broken.{name}"
    assert failure.message.startswith(f"relation {name} (")
    assert failure.place is not None
    assert failure.place.startswith("(sequence ")


def test_the_two_layouts_disagree_where_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = Buggy(lambda case, results: None, True), Buggy(times(1.01, lambda case: True), True)
    right.name = "vk"
    assert (
        relations.run(UPDATE, Buggy(squared, True), "interpret", "layout").refused == "eager has one layout"
    )
    monkeypatch.setattr(targets, "get", lambda name: {"kv": wrong}[name])
    assert relations.run(UPDATE, right, "interpret", "layout").failure is not None
    monkeypatch.setattr(targets, "get", lambda name: {"kv": right}[name])
    assert relations.run(UPDATE, right, "interpret", "layout").failure is None


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: f"{case.op}-{case.id}")
def test_nothing_is_broken_where_all_is_well(case: Case) -> None:
    assert broken(case, Buggy(lambda case, results: None, False)) == {}


def test_every_relation_is_asked_of_these_cases() -> None:
    asked = {
        name
        for case in RIGHT
        for name in relations.applicable(case.op, "eager", Eager.operations)
        if relations.run(case, Eager(), "interpret", name).refused is None
    }
    assert asked == set(RELATIONS) - {"layout"}
    assert set(BUGS) == asked


def test_a_wrong_state_that_is_carried_shows() -> None:
    """The bound of the second part is not widened by what the first part got wrong."""

    class Leaky(Eager):
        def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
            results = super().run(case, arguments)
            arguments["state"].mul_(1.01)
            return results

    failure = relations.run(RECURRENT, Leaky(), "interpret", "split").failure
    assert failure is not None


def test_a_related_call_that_raises_breaks_the_relation() -> None:
    def refuse(case: Case, results: dict[str, Tensor]) -> None:
        if case.H == 2:
            raise RuntimeError("two heads")

    found = broken(UPDATE, Buggy(refuse, False))
    assert list(found) == ["heads"]
    assert "RuntimeError: two heads" in found["heads"].message


def test_a_call_of_the_case_itself_that_raises_is_raised() -> None:
    def refuse(case: Case, results: dict[str, Tensor]) -> None:
        raise RuntimeError("never")

    kinds = {failure.kind for failure in broken(UPDATE, Buggy(refuse, False)).values()}
    assert kinds == {failures.KernelRaised.kind}


def test_within_noise_is_enough_where_no_bits_are_promised() -> None:
    verdict = relations.run(UPDATE, Buggy(BUGS["separate"][1], False), "interpret", "separate")
    assert verdict.failure is None
    assert 0 < verdict.shares["separate"] < 1


def test_a_relation_that_does_not_apply_says_why() -> None:
    rounded = Case("gdn.update", (4,), pool=Pool(dtype="bfloat16"))
    verdict = relations.run(rounded, Eager(), "interpret", "split")
    assert verdict.refused == "a state carried in bfloat16 is rounded"
    assert relations.run(UPDATE, Eager(), "interpret", "recurrent").refused == "not about gdn.update"
    with pytest.raises(ValueError, match="unknown relation 'same'; known: twice, "):
        relations.run(UPDATE, Eager(), "interpret", "same")


def test_pick_takes_tokens_states_and_slots() -> None:
    case = Case("gdn.update", (2, 0, 3), pool=Pool(4, (3, 1, 0)), tail=2, values=VALUES, gates=GATES)
    data = inputs.draw(case)
    other, tensors = pick(case, data, [(2, [0, 2]), (0, [1])])
    assert (other.lens, other.pool.indices, other.tail) == ((2, 1), (0, 3), 2)
    assert torch.equal(tensors["k"][:3], data["k"][[2, 4, 1]])
    assert tensors["k"][3:].isnan().all()
    assert torch.equal(tensors["state"], data["state"][[2, 0]])


def test_a_failure_survives_pickle_and_json() -> None:
    failure = RelationBroken("gdn.update", "o", "(sequence 0)", "text", "split")
    for copy in (pickle.loads(pickle.dumps(failure)), CheckFailure.from_json(failure.to_json())):
        assert isinstance(copy, RelationBroken)
        assert copy.to_json() == failure.to_json()
    assert relation_of(failure.kind) == "split"
    assert relation_of("beyond_bound") is None


def test_batches_ask_the_relations_in_turn() -> None:
    both = (AskRelation("x"), AskRelation("y"))
    source = Rotation(("a", "b"), "interpret", 1, None, 5.0, questions={"a": both, "b": both})
    source.start(None, 0.0)
    asked = [source.next(frozenset()) for _ in range(4)]
    pairs = [(task.operation, task.question.relation) for task in asked if task is not None]
    assert pairs == [("a", "x"), ("b", "y"), ("a", "y"), ("b", "x")]


def test_a_short_campaign_asks_every_relation() -> None:
    """One that few operations have is not left to the end."""
    questions = {
        op: tuple(map(AskRelation, relations.applicable(op, "vk", tuple(OPERATIONS)))) for op in OPERATIONS
    }
    source = Rotation(OPERATIONS, "interpret", 1, None, 5.0, questions=questions)
    source.start(None, 0.0)
    tasks = [source.next(frozenset()) for _ in range(2 * len(RELATIONS))]
    assert {task.question.relation for task in tasks if task is not None} == set(RELATIONS)


@pytest.mark.nightly
def test_a_campaign_finds_shrinks_saves_and_replays(tmp_path: Path) -> None:
    target = f"{TOYS}:wrong"
    config = campaign.Config(
        target,
        ("kda.recurrent",),
        "interpret",
        1,
        1,
        tmp_path,
        max_cases=60,
        isolation="none",
        mode="relations",
    )
    screen, tally = io.StringIO(), Tally()
    report = ConsoleReport(Console(file=screen, width=160))

    def listen(event: Event) -> None:
        tally(event)
        report(event)

    outcome = campaign.run(config, listen)
    assert outcome.problem is None
    assert f"fuzz relations of {target} on backend interpret" in screen.getvalue()
    lines = [line.split() for line in screen.getvalue().splitlines()]
    shown = {line[0]: line[1:] for line in lines if line and line[0] in RELATIONS}
    assert list(shown) == list(RELATIONS)
    assert shown["twice"][0] == str(tally.relations["twice"].pairs)
    assert shown["twice"][-2:] == ["bitwise", "-"]
    assert shown["additive"][-1] == "1"
    assert summary(tally)["relations"]["additive"]["findings"] == tally.findings_about("additive")
    found = {relation_of(finding.kind): finding for finding in outcome.findings}
    assert "additive" in found
    finding = found["additive"]
    assert finding.case.total == 3  # the toy is wrong from three tokens on
    assert Corpus(tmp_path).get(finding.id) == finding
    (result,) = replay_findings.run([finding], isolation="none", trusted=True)
    assert result.status == "FAILED"
    script = subprocess.run([sys.executable, tmp_path / f"{finding.id}.py"], capture_output=True, text=True)
    assert script.returncode == 1
    assert "relation additive" in script.stdout


@pytest.mark.parametrize("name", ["heads", "segments"])
def test_the_script_of_a_relation_passes_once_it_holds(name: str, tmp_path: Path) -> None:
    finding = Finding(UPDATE, "eager", "interpret", f"relation_broken.{name}", "text")
    path = repro.write(finding, tmp_path)
    script = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert (script.returncode, script.stdout.strip()) == (0, "right")
