"""The fla target, on stand-ins that compute the recurrence: what is passed, put back and refused."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from diffgdn import targets
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.promises import OUTSIDE
from diffgdn.reference import noise, oracle
from diffgdn.targets import TargetError, refusal
from diffgdn.targets.fla import Fla
from diffgdn.targets.released import package
from diffgdn.tensors import inputs
from diffgdn.verdict import execute

CALLS: list[dict[str, Any]] = []


def _recurrence(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None, **given: Any
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Outputs, final states and the states before every chunk, in fla's shapes and layouts."""
    CALLS.append({"q": q, "g": g, "inference": torch.is_inference_mode_enabled(), **given})
    v_first, chunk = given.get("state_v_first", False), given.get("chunk_size", 64)
    shape, (B, T, HV, V), K = v.shape, v.shape, q.shape[-1]
    cu, start = given.get("cu_seqlens"), given.get("initial_state")
    bounds = cu.tolist() if cu is not None else [b * T for b in range(B + 1)]
    q, k, v, g, beta = (x.double().flatten(0, 1) for x in (q, k, v, g, beta))
    if given["use_qk_l2norm_in_kernel"]:
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    q, k = (x.repeat_interleave(HV // x.shape[1], dim=1) for x in (q, k))
    g = g.unsqueeze(-1) if g.dim() == 2 else g
    o, finals, before = torch.empty(shape, dtype=torch.float64).flatten(0, 1), [], []
    for n, (first, last) in enumerate(itertools.pairwise(bounds)):
        S = torch.zeros(HV, V, K, dtype=torch.float64)
        if start is not None:
            S = start[n].double() if v_first else start[n].mT.double()
        for t in range(first, last):
            if (t - first) % chunk == 0:
                before.append(S)
            S = S * g[t].exp().unsqueeze(-2)
            d = beta[t].unsqueeze(-1) * (v[t] - torch.einsum("hvk,hk->hv", S, k[t]))
            S = S + d.unsqueeze(-1) * k[t].unsqueeze(-2)
            o[t] = (K**-0.5 if scale is None else scale) * torch.einsum("hvk,hk->hv", S, q[t])
        finals.append(S)
    final, states = torch.stack(finals), torch.stack(before) if before else torch.zeros(0, HV, V, K)
    if not v_first:
        final, states = final.mT.contiguous(), states.mT.contiguous()
    dtype = CALLS[-1]["q"].dtype
    wanted = final.float() if given["output_final_state"] else None
    return o.view(shape).to(dtype), wanted, states.unsqueeze(0).to(dtype)


def chunk_gdn(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None,
    initial_state: Tensor | None = None, output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False, state_v_first: bool = False, cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Values may have more heads than queries (GVA)."""
    chunk_size = kwargs.pop("chunk_size", 64)
    if chunk_size not in (16, 32, 64):
        raise ValueError(chunk_size)
    given = {**locals(), "use_qk_l2norm_in_kernel": use_qk_l2norm_in_kernel}
    given.pop("kwargs")
    return _recurrence(**given)[:2]


def chunk_kda(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None,
    initial_state: Tensor | None = None, output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False, use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False, safe_gate: bool = False, lower_bound: float | None = None,
    return_intermediate_states: bool = False, state_v_first: bool = False, cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Values may have more heads than queries (GVA)."""
    A_log, dt_bias = kwargs.pop("A_log", None), kwargs.pop("dt_bias", None)
    chunk_size = kwargs.pop("chunk_size", 64)
    if chunk_size not in (32, 64):
        raise ValueError(chunk_size)
    assert not kwargs
    if initial_state is not None:
        assert initial_state.dtype == torch.float32
    if return_intermediate_states:
        assert torch.is_inference_mode_enabled()
    if use_gate_in_kernel:
        assert A_log is not None
        assert dt_bias is not None
        assert dt_bias.dim() == 1
        raw = g.double() + dt_bias.double().view(v.shape[2], -1)
        rate = A_log.double().exp().view(-1, 1)
        assert safe_gate == (lower_bound is not None)
        g = -rate * F.softplus(raw) if lower_bound is None else lower_bound * torch.sigmoid(rate * raw)
    if use_beta_sigmoid_in_kernel:
        beta = beta.double().sigmoid()
    o, final, states = _recurrence(
        q, k, v, g, beta, scale, initial_state=initial_state, output_final_state=output_final_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel, state_v_first=state_v_first, cu_seqlens=cu_seqlens,
        chunk_size=chunk_size,
    )  # fmt: skip
    return (o, final, states) if return_intermediate_states else (o, final)


def fused_recurrent(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None,
    initial_state: Tensor | None = None, output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False, state_v_first: bool = False, cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Values may have more heads than queries (GVA)."""
    return _recurrence(**locals())[:2]


def old_chunk(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None,
    initial_state: Tensor | None = None, output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False, cu_seqlens: Tensor | None = None, **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Values of shape [B, T, H, V]."""
    assert not kwargs
    given = locals()
    given.pop("kwargs")
    return _recurrence(**given)[:2]


NEW: dict[str, Callable[..., Any]] = {
    "gdn.extend": chunk_gdn,
    "gdn.recurrent": fused_recurrent,
    "kda.extend": chunk_kda,
    "kda.recurrent": fused_recurrent,
}
OLD: dict[str, Callable[..., Any]] = {"gdn.extend": old_chunk, "kda.extend": old_chunk}


class OnCpu(Fla):
    """The stand-ins need no GPU."""

    def refuses(self, case: Case, backend: str) -> str | None:
        return super().refuses(case, "gpu")


def make(op: str, **changes: Any) -> Case:
    """Three sequences, one empty and one padding, with values that no mistake leaves unchanged."""
    pool = Pool(slots=5, indices=(3, 1, -1, 0), pitch=6) if op.endswith("extend") else Pool(indices=())
    laws = {"gates": Gates(law="uniform", beta="uniform"), "values": Values(law="normal", seed=5)}
    case = Case(op=op, lens=(3, 0, 2, 5), HV=2, K=8, V=4, pool=pool, **laws)  # type: ignore[arg-type]
    return replace(case, **changes)


RAW = Gates(law="uniform", beta="uniform", raw=True)
TAKEN = {
    "plain": {},
    "other layout": {"config": 1},
    "tail": {"tail": 3},
    "tail in the other layout": {"tail": 3, "config": 1},
    "dense batch": {"packed": False, "lens": (4, 4, 4, 4)},
    "nothing but empty sequences": {"lens": (0, 0, 0, 0)},
    "strided": {"view": "packed"},
    "int64": {"cu_dtype": "int64", "index_dtype": "int64"},
    "normalised, scaled": {"l2norm": True, "scale": 0.5},
    "bf16": {"dtype": "bfloat16", "gates": Gates(law="uniform", beta="uniform", dtype="bfloat16")},
    "no final state": {"final": False},
}


@pytest.mark.parametrize("op", NEW)
@pytest.mark.parametrize("changes", TAKEN.values(), ids=TAKEN.keys())
def test_results_and_the_pool_agree_with_the_oracle(op: str, changes: dict[str, Any]) -> None:
    """All checks pass: among them that slots of padding, of empty sequences and of nobody keep their bits."""
    verdict = execute.run(make(op, **changes), OnCpu(NEW), "interpret")
    assert verdict.refused is None
    assert verdict.failure is None
    assert verdict.shares.keys() >= {"o"}


@pytest.mark.parametrize(
    "case",
    [
        make("gdn.extend", inplace=False),
        make("gdn.extend", pool=Pool(slots=5, indices=(3, 1, -1, 0), dtype="bfloat16")),
        make("gdn.extend", pool=Pool(slots=1, indices=(-1,) * 4), values=Values(law="normal", state="none")),
        make("gdn.extend", chunk_size=16, lens=(18, 0, 2, 16)),
        make("kda.extend", pool=Pool(slots=5, indices=(3, 1, -1, 0), dtype="float16")),
        make("kda.extend", boundary=True, chunk_size=32, lens=(33, 0, 2, 32)),
        make("kda.extend", boundary=True, config=1, lens=(3, 0, 2, 65)),
        make("kda.extend", boundary=True, chunk_size=32, packed=False, lens=(34,) * 4),
        make("kda.extend", gates=RAW),
        make("kda.extend", gates=replace(RAW, lower_bound=-4.0)),
        make("gdn.recurrent", values=Values(law="normal", state="none")),
        make("kda.recurrent", inplace=False),
    ],
    ids=lambda case: case.id,
)
def test_options_of_single_operations_agree_with_the_oracle(case: Case) -> None:
    verdict = execute.run(case, OnCpu(NEW), "interpret")
    assert verdict.refused is None
    assert verdict.failure is None


def test_fla_is_given_zeros_for_padding_and_real_tokens_alone() -> None:
    CALLS.clear()
    execute.assert_correct(make("gdn.extend", tail=3), OnCpu(NEW), "interpret")
    given = CALLS[0]
    assert given["q"].shape[:2] == (1, 10)
    assert given["initial_state"].shape == (4, 2, 8, 4)
    assert given["initial_state"][2].count_nonzero() == 0
    assert given["initial_state"][0].count_nonzero() > 0
    assert not given["inference"]


def test_an_odd_configuration_asks_for_states_with_v_first() -> None:
    CALLS.clear()
    execute.assert_correct(make("gdn.extend", config=1), OnCpu(NEW), "interpret")
    assert CALLS[0]["state_v_first"] is True
    assert CALLS[0]["initial_state"].shape == (4, 2, 4, 8)


def test_cu_seqlens_is_not_a_view_of_the_arena_that_fla_would_keep_alive() -> None:
    CALLS.clear()
    execute.assert_correct(make("gdn.extend"), OnCpu(NEW), "interpret")
    assert CALLS[0]["cu_seqlens"].untyped_storage().nbytes() == 5 * 4


REFUSED = [
    (OLD, make("gdn.recurrent"), "gpu", "fla has no function for gdn.recurrent"),
    (NEW, make("gdn.extend", boundary=True), "gpu",
     "boundary: false promised, true asked"),
    (NEW, make("kda.extend", chunk_size=16), "gpu", "chunk_size: 32, 64 promised, 16 asked"),
    (OLD, make("gdn.extend", HV=1, chunk_size=32), "gpu", "chunk_size: 64 promised, 32 asked"),
    (NEW, make("kda.extend", gates=replace(RAW, lower_bound=-6.0)), "gpu",
     "lower_bound: -5.0 to 0.0 promised, -6.0 asked"),
    (OLD, make("kda.extend", HV=1, gates=RAW), "gpu",
     "raw_gates: false promised, true asked"),
    (OLD, make("gdn.extend"), "gpu", "ratio: 1 promised, 2 asked"),
]  # fmt: skip


@pytest.mark.parametrize(("functions", "case", "backend", "reason"), REFUSED, ids=[row[3] for row in REFUSED])
def test_what_fla_does_not_take_is_refused_with_its_reason(
    functions: dict[str, Callable[..., Any]], case: Case, backend: str, reason: str
) -> None:
    assert (refusal(Fla(functions), case, backend) or "").removeprefix(OUTSIDE) == reason


@pytest.mark.parametrize("op", ["gdn.extend", "kda.extend"])
def test_a_version_without_the_newer_options_is_called_without_them(op: str) -> None:
    """Its **kwargs would swallow them in silence; the stand-in asserts that none came."""
    target = OnCpu(OLD)
    assert target.operations == ("gdn.extend", "kda.extend")
    for config in (0, 1):
        execute.assert_correct(make(op, HV=1, config=config), target, "interpret")


def test_the_chunk_contract_has_tf32_where_it_is_coarser_than_the_input() -> None:
    contract = Fla(NEW).contract("gdn.extend")
    assert contract.unit(make("gdn.extend"), "operand") == 2.0**-10
    assert contract.unit(make("gdn.extend", dtype="bfloat16"), "operand") == 2.0**-8
    assert contract.unit(make("gdn.extend"), "accumulator") == 2.0**-24
    assert Fla(NEW).contract("gdn.recurrent") == noise.RECURRENT


def test_tf32_keeps_eleven_significant_bits_in_an_exact_case() -> None:
    rounding = noise.Rounded(make("gdn.extend"), Fla(NEW).contract("gdn.extend"))
    x = torch.tensor([1.0 + 2.0**-10, 1.0 + 2.0**-11, -3.0], dtype=torch.float64)
    assert rounding.operand(x).tolist() == [1.0 + 2.0**-10, 1.0, -3.0]
    assert rounding.accumulate(x).tolist() == x.tolist()


@pytest.fixture
def no_fla() -> Iterator[None]:
    """As if fla had never been imported, before and after."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "fla"}
    for name in before:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "fla"]:
        del sys.modules[name]
    sys.modules.update(before)


def _package(folder: Path, init: str, gdn: str | None = None) -> None:
    ops = folder / "fla" / "ops"
    ops.mkdir(parents=True)
    (folder / "fla" / "__init__.py").write_text(init)
    (ops / "__init__.py").write_text("")
    if gdn is not None:
        (ops / "gated_delta_rule.py").write_text(gdn)


@pytest.mark.usefixtures("no_fla")
def test_without_fla_the_target_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "fla").is_dir()])
    assert targets.missing("fla", "gpu") == "fla-core is not installed; pip install fla-core"
    with pytest.raises(TargetError, match=r"^fla-core is not installed; pip install fla-core$"):
        targets.get("fla")


@pytest.mark.usefixtures("no_fla")
@pytest.mark.parametrize(("version", "has_them"), [("3.8.1", True), ("3.9.0", False), ("4.0.0+git1", False)])
def test_kernels_with_block_pointers_are_left_out_where_triton_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, has_them: bool
) -> None:
    code = (
        "import triton\nimport triton.language as tl\n"
        "@triton.jit\ndef kernel(x):\n    tl.make_block_ptr(x, (1,), (1,), (0,), (1,), (0,))\n"
        "def chunk_gated_delta_rule(q, **kwargs):\n    kernel[(1,)](q)\n"
        "def fused_recurrent_gated_delta_rule(q, **kwargs): ...\n"
    )
    _package(tmp_path, "", code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(triton, "__version__", version)
    target = targets.get("fla")
    assert ("gdn.extend" in target.operations) == has_them
    assert "gdn.recurrent" in target.operations
    if has_them:
        return
    assert isinstance(target, Fla)
    assert target.missing["gdn.extend"] == package.NO_BLOCK_POINTERS
    assert target.missing["kda.extend"] == package.NO_FUNCTION


DISPATCHER = """
import os

class BaseBackend:
    backend_type = "flash"

    def get_implementation(self, name):
        return globals()[name]

def chunk_gated_delta_rule(q, v, **given):
    return v, None

def dispatch(function):
    if os.environ.get("FLA_DISABLE_BACKEND_DISPATCH") == "1":
        return function
    return lambda **given: BaseBackend().get_implementation(function.__name__)(**given)
"""


@pytest.mark.usefixtures("no_fla")
@pytest.mark.parametrize(
    ("name", "said"), [("fla", "bypassed"), ("fla-dispatch", "chunk_gated_delta_rule -> flash")]
)
def test_what_its_dispatch_chooses_is_pinned_or_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    code = (
        "from fla.backends import dispatch\n"
        "@dispatch\ndef chunk_gated_delta_rule(q, v, **given):\n    return v + 1, None\n"
    )
    _package(tmp_path, "", code)
    (tmp_path / "fla" / "backends.py").write_text(DISPATCHER)
    monkeypatch.setenv("FLA_DISABLE_BACKEND_DISPATCH", "")
    monkeypatch.syspath_prepend(tmp_path)
    target = targets.get(name)
    found = execute.run(make("gdn.extend", HV=1, final=False, inplace=False), target, "interpret")
    assert found.refused is None
    assert found.failure is not None
    assert targets.provenance_of(target, "gdn.extend")["dispatch"] == said


def test_exactness_is_not_asked_of_gates_that_are_scaled_by_a_bound() -> None:
    case = make("kda.extend", gates=Gates(raw=True, lower_bound=-1.0), values=Values(law="exact"), scale=1.0)
    plain = replace(Fla(NEW).contract("kda.extend"), scaled_gates=False)
    data = inputs.draw(case)
    truth = oracle.expected(case, data)
    assert noise.unrounded(case, data, truth, plain)
    assert not noise.unrounded(case, data, truth, Fla(NEW).contract("kda.extend"))
    free = replace(case, gates=Gates())
    data = inputs.draw(free)
    assert noise.unrounded(free, data, oracle.expected(free, data), Fla(NEW).contract("kda.extend"))


@pytest.mark.usefixtures("no_fla")
def test_a_broken_fla_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "raise ValueError('no key\\nand a long story')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TargetError, match=r"^fla-core cannot be imported: ValueError: no key$"):
        targets.get("fla")


@pytest.mark.usefixtures("no_fla")
def test_a_module_that_fla_itself_misses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "import a_module_that_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        TargetError, match=r"ModuleNotFoundError: No module named 'a_module_that_nobody_has'$"
    ):
        targets.get("fla")


@pytest.mark.usefixtures("no_fla")
def test_functions_that_a_version_lacks_are_left_out_and_its_warnings_contained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def chunk_gated_delta_rule(q, **kwargs): ..."
    _package(tmp_path, "import warnings; warnings.warn('no GPU here')", code)
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        target = targets.get("fla")
    assert target.operations == ("gdn.extend",)
    assert not seen
