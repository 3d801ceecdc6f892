"""FlashInfer as a target, on a package that asserts what it documents and runs on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from diffgdn import strategies, targets
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.promises import Promises
from diffgdn.cases.state_options import StateOptions
from diffgdn.targets.released import stand_ins
from diffgdn.targets.released.case_target import CaseTarget
from diffgdn.verdict import execute

REFUSED = (None, "bf16 states need K = V = 128")
# Small, as the interpreter goes through every element of 128 x 128 states.
SMALL = Promises(H=(1, 2), HV=(1, 2), K=(128,), V=(128,))


Beside = Callable[[str], ModuleType]


@pytest.fixture(autouse=True)
def apart(fake_packages: ModuleType) -> Iterator[None]:
    """No FlashInfer of before."""
    with fake_packages.forgotten("flashinfer"):
        yield


@pytest.fixture
def target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_packages: ModuleType, beside: Beside
) -> CaseTarget:
    modules = beside("fake_flashinfer").flashinfer()
    place = fake_packages.folder(tmp_path, modules, "0.7", "flashinfer-python")
    found = targets.get(f"flashinfer@{place}")
    assert isinstance(found, CaseTarget)
    monkeypatch.setattr(found.found, "spec", replace(found.found.spec, backends=("interpret", "gpu")))
    monkeypatch.setattr(stand_ins, "compute_capability", lambda: 100)
    return found


def simple(op: str, **fields: Any) -> Case:
    """A case that all take: two sequences of two tokens in a plain batch, one row of padding between."""
    kda = op.startswith("kda")
    length = 1 if kda else 2
    indices = (2, 1, 0) if kda else (2, -1, 0)
    given: dict[str, Any] = {
        "lens": (length,) * 3,
        "packed": op == "gdn.extend",
        "dtype": "bfloat16",
        "K": 128,
        "V": 128,
        "l2norm": True,
        "gates": Gates(dtype="float32" if op == "gdn.extend" else "bfloat16"),
        "operands": Operands() if op == "gdn.extend" else Operands(dt_bias="float32"),
        "values": Values(law="normal"),
        "pool": Pool(slots=3, indices=indices, dtype="bfloat16"),
    }
    if op == "gdn.verify":
        pool = Pool(slots=3, indices=indices, dtype="bfloat16", steps=2, buffer=4, rows=(3, -1, 1))
        given |= {"pool": pool, "state_options": StateOptions()}
    return Case(op, **{**given, **fields})


def failure(target: CaseTarget, case: Case) -> str:
    verdict = execute.run(case, target, "interpret")
    assert verdict.refused is None, case
    return str(verdict.failure or "")


@pytest.mark.parametrize("op", ["gdn.extend", "gdn.decode", "gdn.verify", "kda.decode"])
def test_conventions_are_translated(target: CaseTarget, op: str) -> None:
    """The null buffer, padding's output, the decay itself, steps by batch row: bf16 states and fp32 ones."""
    case = simple(op)
    assert failure(target, case) == ""
    if op != "kda.decode":
        assert failure(target, replace(case, pool=replace(case.pool, dtype="float32"))) == ""
    if op == "gdn.extend":
        inside = replace(case, final=False, lens=(2, 0, 3), tail=2)
        inside = replace(inside, pool=replace(case.pool, indices=(2, 1, 0)))
        assert failure(target, inside) == ""
        assert failure(target, replace(inside, pool=replace(inside.pool, pitch=16))) == ""
        nothing = replace(case.pool, indices=(-1, -1, -1))
        fresh = replace(case, packed=False, values=Values(law="normal", state="none"), pool=nothing)
        assert failure(target, fresh) == ""
    if op == "gdn.verify":
        both = replace(case, state_options=StateOptions(step_update=True))
        assert failure(target, both) == ""


@pytest.mark.parametrize("op", ["gdn.extend", "gdn.decode", "gdn.verify", "kda.decode"])
def test_every_promised_case_of_a_right_package_passes(target: CaseTarget, op: str) -> None:
    seen = []
    promises = target.narrowed(SMALL)

    @settings(
        max_examples=5, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategies.cases(op, promises=promises, layout=target.layout))
    def each(case: Case) -> None:
        verdict = execute.run(case, target, "interpret")
        assert verdict.refused in REFUSED
        assert verdict.failure is None, (case, str(verdict.failure))
        seen.append(case)

    each()
    assert len(seen) >= 4


def test_it_runs_on_a_gpu_only_and_kda_on_one_of_them(
    target: CaseTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert targets.missing(f"flashinfer@{tmp_path}", "interpret") == "flashinfer runs on a GPU only"
    assert targets.refusal(target, simple("kda.decode"), "gpu") is None
    monkeypatch.setattr(stand_ins, "compute_capability", lambda: 90)
    assert targets.refusal(target, simple("kda.decode"), "gpu") == "it requires SM100"
    assert targets.refusal(target, simple("gdn.decode"), "gpu") is None
    assert target.provenance("gdn.decode")["stand-ins"] == "flashinfer/__init__.py"
    small = simple("gdn.decode", K=160, V=128)
    assert targets.refusal(target, small, "gpu") == "bf16 states need K = V = 128"
