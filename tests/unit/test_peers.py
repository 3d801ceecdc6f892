"""Tests of other projects, re-created: they pass on the kernels as they are, and see some mutants."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from diffgdn import kernels
from diffgdn.cases.operations import OPERATIONS
from diffgdn.kernels import tiles
from diffgdn.mutants import mutated_kernels
from diffgdn.mutants.catalogue import MUTANTS
from diffgdn.mutants.mutant import Edit, Mutant
from diffgdn.mutants.peers import peer_calls, peer_child, peer_inputs, peer_run, seen
from diffgdn.mutants.peers.peer_test import (
    PEERS,
    PLAIN,
    RECURRENT,
    Below,
    Close,
    Finite,
    PeerTest,
    Ratio,
    for_backend,
    reduced,
)

EVERYTHING = [(peer, test) for peer in PEERS for test in for_backend(seen.TESTS[peer], "interpret")]
# The quickest of each kind of comparison and operation.
QUICK = {
    ("FLA", "test_chunk_with_chunk_size"),
    ("FLA", "test_chunk_varlen"),
    ("FLA", "test_chunk_state_v_first"),
    ("FLA", "test_fused_recurrent_gate_in_kernel"),
    ("FLA", "test_fused_recurrent_vllm_decode"),
    ("SGLang", "test_padded_state_index_is_skipped"),
    ("SGLang", "test_kda_fused_sigmoid_gating_recurrent"),
    ("SGLang", "test_pad_slot"),
    ("SGLang", "TestFusedSigmoidGatingDeltaRuleUpdateNonContiguous"),
    ("SGLang", "test_verify_rows_match_flashinfer_and_reference"),
}


def named(peer: str, name: str, operation: str = "") -> PeerTest:
    """The first test of that name, as the interpreter runs it."""
    return next(
        test for one, test in EVERYTHING if one == peer and test.name == name and operation in test.operation
    )


@pytest.mark.parametrize(("peer", "name"), sorted(QUICK))
def test_a_test_of_a_peer_passes_on_the_kernels_as_they_are(peer: str, name: str) -> None:
    assert peer_run.failure(kernels, named(peer, name)) is None


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("peer", "test"), EVERYTHING, ids=[f"{peer}-{i}-{test.name}" for i, (peer, test) in enumerate(EVERYTHING)]
)
def test_all_tests_of_peers_pass_on_the_kernels_as_they_are(peer: str, test: PeerTest) -> None:
    assert peer_run.failure(kernels, test) is None


def test_every_test_has_its_source_and_calls_an_operation() -> None:
    counts: Counter[str] = Counter()
    for peer, tests in seen.TESTS.items():
        for test in tests:
            assert test.source.peer == peer
            assert len(test.source.revision) == 40
            assert test.source.file.endswith(".py")
            assert set(test.operations) <= set(OPERATIONS)
            assert set(test.criteria) <= {"o", "state", "others", "pool", "steps"}
            counts[peer] += 1
    assert counts == {"FLA": 121, "SGLang": 62}


def test_needs_and_their_mutants_exist() -> None:
    assert set(seen.BY_CHANCE) <= set(MUTANTS)
    assert set(seen.NEEDS) <= set(MUTANTS)


@pytest.mark.parametrize(("peer", "test"), [(p, t) for p in PEERS for t in seen.TESTS[p]])
def test_what_decides_is_kept_when_a_test_is_cut_down(peer: str, test: PeerTest) -> None:
    small = reduced(test)
    assert small.HV // small.H == test.HV // test.H
    assert (small.H > 1, len(small.lens) > 1) == (test.H > 1, len(test.lens) > 1)
    assert (small.K, small.V, small.dtype, small.gate, small.criteria) == (
        *(test.K, test.V, test.dtype, test.gate, test.criteria),
    )
    if test.operation.endswith(".extend"):
        rests = {length % test.chunk_size for length in test.lens}
        assert {length % test.chunk_size for length in small.lens} == rests
        assert max(small.lens) > test.chunk_size or max(test.lens) == max(small.lens)
    if test.slots is not None and not isinstance(test.slots.order, str):
        assert small.slots is not None
        assert (-1 in small.slots.order) == (-1 in test.slots.order)


def test_the_recurrence_is_that_of_the_definition() -> None:
    """Worked by hand: S = beta v k^T after a token, o = S q scaled; the second token finds it decayed."""
    test = replace(named("FLA", "test_fused_recurrent", "gdn"), lens=(2,), H=1, HV=1, K=1, V=1, scale=1.0)
    one = torch.ones(1, 2, 1, 1)
    half = torch.tensor([[[0.0], [-0.6931471805599453]]])
    x = peer_inputs.Inputs(one, one, one, half, torch.full((1, 2, 1), 0.5), torch.zeros(1, 1, 1, 1))
    results = peer_calls.expected(kernels, replace(test, l2norm=False), x)
    # S1 = 0.5; S2 = 0.25 + 0.5 (1 - 0.25)
    assert results["o"].flatten().tolist() == pytest.approx([0.5, 0.625])
    assert results["state"].item() == pytest.approx(0.625)


def test_the_same_test_draws_the_same_tensors() -> None:
    test = named("SGLang", "_check_shape")
    one, other = peer_inputs.draw(test), peer_inputs.draw(test)
    assert torch.equal(one.q, other.q)
    assert one.indices is not None
    assert len(set(one.indices.tolist())) == len(test.lens)
    assert one.q.dtype == torch.bfloat16
    assert one.g.max() < 0


def test_what_a_call_writes_over_its_arguments_is_hidden_where_the_peer_copies_them() -> None:
    x = peer_inputs.draw(named("FLA", "test_chunk"))
    fresh, shared = x.fresh(True), x.fresh(False)
    for name, tensor in vars(x).items():
        if tensor is not None:
            assert getattr(fresh, name).data_ptr() != tensor.data_ptr()
            assert (getattr(shared, name).data_ptr() == tensor.data_ptr()) == (name != "state")
    assert all(test.source.copies == (peer == "FLA") for peer, test in EVERYTHING)


def test_split_gates_are_views_with_a_gap() -> None:
    x = peer_inputs.draw(named("SGLang", "TestFusedSigmoidGatingDeltaRuleUpdateNonContiguous"))
    assert x.beta.stride(1) == 2 * x.beta.shape[-1]
    assert not x.g.is_contiguous()


def test_states_are_cut_into_tiles_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tile of the interpreter's would hold what these tests have, whatever tiles are counted."""
    found = []

    def call(*_: object) -> dict[str, torch.Tensor]:
        found.append(tiles.pick(100, True).BV)
        return {}

    monkeypatch.setattr(peer_calls, "call", call)
    test = replace(named("FLA", "test_fused_recurrent_vllm_decode"), criteria={})
    before = tiles.pick(100, True).BV
    assert peer_run.failure(kernels, test) is None
    assert found == [64]
    assert tiles.pick(100, True).BV == before == 128


NAN = float("nan")


@pytest.mark.parametrize(
    ("criterion", "got", "fails"),
    [
        (Ratio(0.005), [1.004, 1.0], False),
        (Ratio(0.005), [1.01, 1.0], True),
        (Ratio(0.0), [1.0, 1.0], False),
        (Ratio(0.005), [NAN, 1.0], True),
        (Close(1e-2, 1e-2), [1.019, 1.0], False),
        (Close(1e-2, 1e-2), [1.021, 1.0], True),
        (Close(0.0, 0.0), [1.0 + 1e-12, 1.0], True),
        (Close(1e-2, 1e-2), [NAN, 1.0], True),
        (Below(1e-2, 1e-3), [1.009, 1.0], True),  # the mean
        (Below(1e-2, 1e-3), [1.001, 1.0], False),
        (Below(1e-2, 1e-1), [1.011, 1.0], True),
        (Finite(), [3.0, 7.0], False),
        (Finite(), [float("inf"), 1.0], True),
    ],
)
def test_criteria_are_those_of_the_peers(criterion: object, got: list[float], fails: bool) -> None:
    wanted = torch.tensor([1.0, 1.0], dtype=torch.float64)
    words = peer_run.broken(criterion, torch.tensor(got, dtype=torch.float64), wanted)  # type: ignore[arg-type]
    assert (words is not None) == fails


def test_a_mutant_is_seen_where_the_tolerance_is_broken() -> None:
    one = seen.look(MUTANTS["qk-scale-twice"], "FLA", "interpret")
    assert (one.answer, one.tests) == ("yes", 1)
    assert one.by.startswith("test_chunk: o: ratio 0.")


def test_a_mutant_that_ends_the_process_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests before it passed; the one that was running is named."""
    lines = [
        {"test": "a", "failed": None, "begins": True},
        {"test": "a", "failed": None, "begins": False},
        {"test": "b", "failed": None, "begins": True},
    ]
    printed = "\n".join(map(json.dumps, lines))
    assert seen.read((printed, "crashed (signal 11)")) == seen.Seen("yes", "b: crashed (signal 11)", 1)
    assert seen.read((printed, "")) == seen.Seen("no", "", 1)


def ran(*failures: str | None) -> Iterator[tuple[str, str]]:
    """What children print, one after the other, whose one test fails so, or passes."""
    for failed in failures:
        yield json.dumps({"test": "test_x", "failed": failed, "begins": False}), ""


def test_what_shows_by_chance_is_asked_again_and_all_else_once(monkeypatch: pytest.MonkeyPatch) -> None:
    children = ran(None, None, "o: ratio nan", None)
    monkeypatch.setattr(seen, "run", lambda *_: next(children))
    assert seen.look(MUTANTS["k-mask-missing"], "FLA", "interpret").answer == "yes"
    assert seen.look(MUTANTS["qk-scale-twice"], "FLA", "interpret").answer == "no"
    assert next(children, None) is None


def test_what_never_shows_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    children = ran(*[None] * seen.RUNS)
    monkeypatch.setattr(seen, "run", lambda *_: next(children))
    assert seen.look(MUTANTS["k-mask-missing"], "FLA", "interpret") == seen.Seen("no", "", 1)


def test_what_no_test_calls_is_not_covered() -> None:
    assert seen.look(MUTANTS["boundary-state-final"], "FLA", "interpret").answer == "not covered"
    assert seen.look(MUTANTS["tree-parent-chain"], "SGLang", "interpret").answer == "not covered"


@pytest.mark.parametrize(
    ("files", "right"),
    [
        (("chunk/state.py",), "recurrent"),
        (("recurrent.py", "pool_calls.py"), "extend"),
        (("device.py",), ""),
        (("chunk/gates.py", "recurrent_steps.py"), ""),
        (("chunk/state.py", "arguments.py"), ""),
    ],
)
def test_kernels_that_a_mutant_leaves_alone_are_known_by_its_files(
    files: tuple[str, ...], right: str
) -> None:
    mutant = Mutant("one", "nowhere", "nothing", tuple(Edit(file, "a", "b") for file in files))
    assert seen.right_kernels(mutant) == right


def test_only_what_a_mutant_changes_is_run_in_the_interpreter() -> None:
    """The recurrence takes the place of the kernel that is right."""
    chunk = seen.tests_for(MUTANTS["qk-scale-twice"], "SGLang", "interpret")
    assert {test.operation for test in chunk} == {"gdn.extend"}
    assert RECURRENT not in {test.against for test in chunk}
    recurrent = seen.tests_for(MUTANTS["key-heads-grid"], "SGLang", "interpret")
    alone = [test for test in recurrent if test.name == "_check_shape"]
    assert {(test.operation, test.against, len(test.lens)) for test in alone} == {("gdn.recurrent", PLAIN, 1)}
    assert len(seen.tests_for(MUTANTS["qk-scale-twice"], "FLA", "gpu")) == sum(
        test.operation == "gdn.extend" for test in seen.TESTS["FLA"]
    )


@pytest.mark.parametrize(("name", "two"), [("scale-loop-bound", False), ("split-truncated", True)])
def test_peers_meet_a_mutant_in_the_stages_that_it_is_in(
    name: str, two: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = mutated_kernels.load(MUTANTS[name])
    chunk_tiles = importlib.import_module(f"{module.__name__}.chunk.chunk_tiles")
    monkeypatch.setattr(chunk_tiles, "TWO_STAGES", True)
    peer_child.reach(module, MUTANTS[name])
    assert chunk_tiles.TWO_STAGES is two
