"""vLLM as a target: its null block, its tables of slots, its dense prefill, and what it promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from diffgdn import strategies, targets
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.promises import Promises
from diffgdn.cases.state_options import StateOptions
from diffgdn.targets.base import Unbound
from diffgdn.targets.released.case_target import CaseTarget
from diffgdn.targets.released.null_slot import Moved, moved_indices
from diffgdn.tensors import far_memory
from diffgdn.tensors.poison import PoisonedEmpty
from diffgdn.verdict import execute

OPS = tuple(
    f"{family}.{kind}"
    for kind in ("extend", "update", "decode", "packed_decode", "verify")
    for family in ("gdn", "kda")
)

FEW_HEADS = Promises(H=(1, 2), HV=(1, 2, 4))


Beside = Callable[[str], ModuleType]


@pytest.fixture(autouse=True)
def apart(fake_packages: ModuleType) -> Iterator[None]:
    """No vLLM of before."""
    with fake_packages.forgotten("vllm"):
        yield


@pytest.fixture
def target(tmp_path: Path, fake_packages: ModuleType, beside: Beside) -> CaseTarget:
    place = fake_packages.folder(tmp_path, beside("fake_vllm").vllm(), "0.33.0", "vllm")
    found = targets.get(f"vllm@{place}")
    assert isinstance(found, CaseTarget)
    return found


def failure(target: CaseTarget, case: Case) -> str:
    verdict = execute.run(case, target, "interpret")
    assert verdict.refused is None, case
    return str(verdict.failure or "")


@pytest.mark.parametrize("op", OPS)
def test_every_promised_case_of_a_right_package_passes(target: CaseTarget, op: str) -> None:
    """The oracle agrees, over whatever is drawn inside the promises."""
    seen = []
    promises = target.narrowed(FEW_HEADS)

    @settings(
        max_examples=10, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategies.cases(op, promises=promises, layout=target.layout))
    def each(case: Case) -> None:
        verdict = execute.run(case, target, "interpret")
        assert verdict.refused in (None, "its scale must be positive", "q, k and v must have one stride")
        assert verdict.failure is None, (case, str(verdict.failure))
        seen.append(case)

    each()
    assert len(seen) >= 6


@pytest.mark.parametrize("op", ["gdn.decode", "kda.decode", "gdn.update", "kda.update"])
@pytest.mark.parametrize("lens", [(1, 1, 1), (3, 0, 2)])
def test_padding_and_slot_zero_are_translated(target: CaseTarget, op: str, lens: tuple[int, ...]) -> None:
    """Slot 0 is a slot, padding has the output of a zero state; whole tokens or a few, packed or not."""
    pool = Pool(slots=3, indices=(0, -1, 2), pitch=8)
    case = Case(op, lens=lens, tail=1, l2norm=True, values=Values(law="normal"), pool=pool)
    assert failure(target, case) == ""
    dense = replace(case, lens=(2, 2, 2), packed=False, tail=0)
    assert failure(target, dense) == ""


@pytest.mark.parametrize("op", ["gdn.verify", "kda.verify", "gdn.update"])
def test_states_after_tokens_go_to_slots_of_their_own(target: CaseTarget, op: str) -> None:
    slots = ((0, 3), (-1, -1), (4, 2))
    options = StateOptions(slots=slots, accepted=(1, 1, 2))
    pool, values = Pool(slots=6, indices=(0, -1, 2)), Values(law="normal")
    case = Case(op, lens=(2, 1, 2), l2norm=True, state_options=options, values=values, pool=pool)
    assert failure(target, case) == ""


def test_a_stray_write_between_slots_is_seen(target: CaseTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied back has the gaps, so that nothing is hidden by the copy."""
    case = Case("gdn.decode", pool=Pool(slots=3, indices=(1,), pitch=8))

    def strays(move: Any) -> Any:
        def of(own: torch.Tensor) -> Moved:
            moved: Moved = move(own)
            assert moved.span is not None
            moved.span[1][own[0].numel() + 3] = 7.0  # in the gap behind slot 0
            return moved

        return of

    assert failure(target, case) == ""
    monkeypatch.setattr(Moved, "of", strays(Moved.of))
    assert "state" in failure(target, case)


def test_what_is_promised_has_its_source(target: CaseTarget) -> None:
    promises = target.promises
    assert promises.of("gdn.verify").token_slots == (True,)
    assert promises.of("kda.decode").square == (True,)
    assert promises.of("kda.decode").ratio == (1,)
    assert promises.of("gdn.extend").dtype == ("float16", "bfloat16")
    assert promises.of("gdn.packed_decode").slot_zero is True
    assert "none" not in promises.of("gdn.decode").dt_bias
    assert "none" in promises.of("kda.decode").dt_bias
    assert target.missing["gdn.recurrent"].startswith("its functions know dense states of one token")


def test_a_lower_bound_below_what_its_engine_asserts_is_not_asked(target: CaseTarget) -> None:
    promised = target.promises
    case = Case(op="kda.extend", gates=Gates(raw=True, lower_bound=-5.0), final=False)
    assert promised.broken_by(case) is None
    said = promised.broken_by(replace(case, gates=replace(case.gates, lower_bound=-20.0)))
    assert said is not None
    assert "lower_bound" in said


def test_rows_behind_the_live_ones_of_a_graph_name_no_slot(target: CaseTarget) -> None:
    for op in ("gdn.update", "gdn.decode", "kda.packed_decode", "kda.verify"):
        promised = targets.promises_of(target).of(op).execution
        assert set(promised) >= {"eager", "graph"}
        assert not {"graph_stale", "graph_poisoned"} & set(promised)


def test_what_it_cannot_be_asked_for_raises(target: CaseTarget) -> None:
    """A probe asks beyond the promises, and is not to be told of a wrong result."""
    case = Case("gdn.decode", inplace=False)
    assert "outside the promises: inplace" in str(targets.refusal(target, case, "interpret"))
    verdict = execute.run(case, Unbound(target), "interpret")
    assert "adapter: states go to slots of the pool alone" in str(verdict.failure)
    for op in ("kda.decode", "kda.packed_decode"):
        verdict = execute.run(Case(op, l2norm=False), Unbound(target), "interpret")
        assert "adapter: it normalises" in str(verdict.failure)


def test_q_k_and_v_of_several_strides_are_not_asked_about(target: CaseTarget) -> None:
    """Of one projection they have one; a dtype of its own takes a tensor out of it."""
    case = Case("kda.decode", l2norm=True, view="packed")
    assert targets.refusal(target, case, "interpret") is None
    apart = replace(case, operands=Operands(k="bfloat16"))
    assert targets.refusal(target, apart, "interpret") == "q, k and v must have one stride"
    assert targets.refusal(target, replace(apart, view="contiguous"), "interpret") is None


def test_before_0_3x_it_lay_elsewhere(tmp_path: Path, fake_packages: ModuleType, beside: Beside) -> None:
    place = fake_packages.folder(tmp_path, beside("fake_vllm").older_vllm(), "0.20.0", "vllm")
    found = targets.get(f"vllm@{place}")
    kda = ("kda.extend",)
    assert set(found.operations) == {op for op in OPS if op.startswith("gdn") or op in kda}
    function = found.provenance("gdn.decode")["function"]  # type: ignore[attr-defined]
    assert function.startswith("vllm.model_executor.layers.fla.ops.fused_sigmoid_gating.")
    assert failure(found, Case("gdn.decode")) == ""  # type: ignore[arg-type]
    raw = Case("kda.extend", lens=(3,), gates=Gates(raw=True), values=Values(law="normal"))
    raw = replace(raw, operands=Operands(beta="activated"))
    assert failure(found, raw) == ""  # type: ignore[arg-type]
    bounded = replace(raw, gates=Gates(raw=True, lower_bound=-1.0))
    assert "bounded" in str(targets.refusal(found, bounded, "interpret"))


# --- a pool one slot further ---


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((3, 2, 4), (20, 4, 1)),
        ((3, 2, 4), (4, 12, 1)),  # slots inside the heads
        ((1, 2, 4), (3, 4, 1)),  # a stride that means nothing
        ((3, 1, 4), (9, 300, 1)),
    ],
)
def test_slots_lie_one_further_and_are_put_back(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    memory = torch.arange(1000.0)
    own = memory.as_strided(shape, strides, 7)
    before = own.clone()
    moved = Moved.of(own)
    assert moved.pool.shape == (shape[0] + 1, *shape[1:])
    assert torch.equal(moved.pool[1:], before)
    assert moved.pool[0].isnan().all()
    assert moved.pool[1].data_ptr() % 256 == own.data_ptr() % 256
    if strides == (20, 4, 1):
        assert moved.pool.stride() == strides
    moved.pool[1:] += 1
    moved.put_back()
    assert torch.equal(own, before + 1)
    untouched = torch.ones(1000, dtype=torch.bool)
    untouched.as_strided(shape, strides, 7)[:] = False
    assert torch.equal(memory[untouched], torch.arange(1000.0)[untouched])


def test_indices_keep_their_strides() -> None:
    table = torch.tensor([[1, -1, 0], [5, 2, 0]], dtype=torch.int32)[:, :2]
    moved = moved_indices(table)
    assert moved.tolist() == [[2, 0], [6, 3]]
    assert moved.dtype == torch.int32
    assert moved.stride() == (3, 1)


def test_far_slots_take_no_memory_between_them() -> None:
    """A run fills what torch.empty allocates, so that a far pool or far indices would take all of it."""
    far = far_memory.lazily(1 << 30, "cpu")
    indices = far.view(torch.int32).as_strided((3,), (1 << 27,)).zero_()
    pool = far.view(torch.float32).as_strided((2, 4), (1 << 28, 1), 8).zero_()
    with PoisonedEmpty() as fresh:
        assert moved_indices(indices).tolist() == [1, 1, 1]
        moved = Moved.of(pool)
        moved.pool[2] = 3.0
        moved.put_back()
    assert [one.tensor.numel() for one in fresh.allocated if one.tensor.numel() > 100] == []
    assert pool.tolist() == [[0.0] * 4, [3.0] * 4]
