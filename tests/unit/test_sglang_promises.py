"""What the sglang target asks of its kernels, and what it takes for promised, over a package of fakes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diffgdn import targets
from diffgdn.cases.case import Case, Pool
from diffgdn.cases.lay import Lay
from diffgdn.cases.operand_options import Operands
from diffgdn.targets.released.package import ReleasedTarget

TWO = Pool(slots=2, indices=(0, 1))
DRAFT = Pool(slots=2, indices=(0, 1), steps=3, buffer=3, rows=(0, 2))
TREES = ((-1, 0, 0), (-1, 0, 1))


@pytest.fixture
def target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_packages: ModuleType
) -> Iterator[ReleasedTarget]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with fake_packages.forgotten("sglang"):
        found = targets.get(f"sglang@{fake_packages.wheel(tmp_path, fake_packages.sglang())}")
        assert isinstance(found, ReleasedTarget)
        yield found


def refusal(target: ReleasedTarget, case: Case) -> str | None:
    return targets.refusal(target, case, "interpret")


@pytest.mark.parametrize("op", ["gdn.verify", "kda.verify", "gdn.update"])
def test_a_branch_needs_a_row_of_the_buffer(target: ReleasedTarget, op: str) -> None:
    """A chain does not, tree or no tree: the state is at hand. Nor does a sequence beside the branch."""
    tree = Case(op, lens=(3, 3), parents=TREES, pool=DRAFT)
    assert refusal(target, tree) is None
    assert refusal(target, replace(tree, pool=replace(DRAFT, rows=(0, -1)))) is None
    lost = replace(tree, pool=replace(DRAFT, rows=(-1, 0)))
    assert refusal(target, lost) == "its trees need a row of the buffer of steps"
    padding = replace(lost, pool=replace(DRAFT, indices=(-1, 1), rows=(-1, 0)))
    assert refusal(target, padding) == "its trees need a row of the buffer of steps"
    assert refusal(target, replace(lost, parents=())) is None


@pytest.mark.parametrize(
    "op", ["gdn.extend", "kda.extend", "gdn.update", "gdn.decode", "kda.packed_decode", "kda.verify"]
)
def test_slots_may_lie_apart_and_what_is_inside_one_may_not(target: ReleasedTarget, op: str) -> None:
    sizes: dict[str, Any] = {"final": False, "dtype": "bfloat16"} if op.endswith("extend") else {}
    pool = replace(TWO, steps=1, buffer=2, rows=(0, 1)) if op == "kda.verify" else TWO
    plain = Case(op, lens=(1, 1), HV=2, pool=pool, **sizes)
    assert refusal(target, plain) is None
    assert refusal(target, replace(plain, pool=replace(pool, pitch=24))) is None
    apart = refusal(target, replace(plain, lay=(Lay("state", gaps=(0, 16, 0, 0)),)))
    assert apart is not None
    assert apart.endswith("promised, gapped states asked")


@pytest.mark.parametrize("op", ["gdn.update", "gdn.decode", "kda.packed_decode", "kda.verify"])
def test_rows_behind_the_live_ones_of_a_graph_name_no_slot(target: ReleasedTarget, op: str) -> None:
    promised = targets.promises_of(target).of(op).execution
    assert set(promised) >= {"eager", "graph"}
    assert not {"graph_stale", "graph_poisoned"} & set(promised)


def test_dense_states_may_lie_as_they_like(target: ReleasedTarget) -> None:
    dense = Case("gdn.recurrent", HV=2, pool=Pool(indices=()), lay=(Lay("state", gaps=(0, 16, 0, 0)),))
    assert refusal(target, dense) is None


def test_the_buffer_of_steps_is_contiguous_and_may_have_spare_steps(target: ReleasedTarget) -> None:
    verify = Case("gdn.verify", pool=Pool(steps=4, buffer=2, rows=(1,)))
    assert refusal(target, verify) is None
    apart = refusal(target, replace(verify, lay=(Lay("buffer", gaps=(16, 0, 0, 0, 0)),)))
    assert apart is not None
    assert apart.endswith("promised, gapped buffers asked")


def test_q_k_and_v_of_extend_have_one_dtype(target: ReleasedTarget) -> None:
    mixed = Case("kda.extend", dtype="bfloat16", operands=Operands(v="float32"), final=False)
    assert "mixed_qkv" in str(refusal(target, mixed))
    assert refusal(target, replace(mixed, operands=Operands())) is None


def test_only_kinds_that_keep_steps_reread_their_trees(target: ReleasedTarget) -> None:
    reread = {op for op in target.operations if target.contract(op).reread_trees}
    assert reread == {"gdn.update", "gdn.verify", "kda.verify"}
