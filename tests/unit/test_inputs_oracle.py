"""The oracle against itself, a second derivation and fifty digits; and inputs, whose bits must never
change."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.state_options import StateOptions
from diffgdn.reference import oracle
from diffgdn.strategies import cases
from diffgdn.tensors import inputs

# of the largest element that a sequence and head have: what two derivations in float64 may differ by
AGREEMENT = 1e-9
QUIET = settings(
    database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=False
)


def differences(got: dict[Any, Any], expected: dict[Any, Any]) -> dict[str, float]:
    """Largest difference of each result over (sequence or token, head), as a share of that lane's largest
    value."""
    out = {}
    for name, truth in expected.items():
        if name in got and truth.numel():
            scale = truth.abs().amax() if name == "o" else truth.abs().flatten(-2).amax(-1)[..., None, None]
            scale = torch.clamp(scale, min=1e-300)
            out[name] = float(((got[name] - truth).abs() / scale).max())
    return out


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_two_derivations_agree(op: str) -> None:
    """Recurrence and chunked form, on whatever the strategies draw."""

    @settings(QUIET, max_examples=50)
    @given(case=cases(op).filter(lambda case: not case.parents))
    def agree(case: Case) -> None:
        data = inputs.draw(case)
        expected = oracle.expected(case, data).items()
        got = oracle.chunked_form(case, data).items()
        assert all(torch.isfinite(truth).all() for truth in expected.values())
        assert {name: share for name, share in differences(got, expected).items() if share > AGREEMENT} == {}

    agree()


def shrunk(case: Case) -> Case:
    """The same kind of case, small enough for fifty digits."""
    K, V = min(case.K, 4), min(case.V, 3)
    lens = tuple(min(length, 5) for length in case.lens)
    parents = tuple(tree[:5] for tree in case.parents)
    options = replace(case.state_options, track=())  # of chunks that are gone
    plain = replace(case, edits=(), before=(), lay=(), state_options=options)
    return replace(plain, K=K, V=V, lens=lens, parents=parents)


def fifty_digits(case: Case, data: dict[str, torch.Tensor]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Outputs by (token, head) and final states by (sequence, head), with lists of mpf for vectors."""
    mp = mpmath.mp

    def row(name: str, *index: int) -> list[Any]:
        return [mp.mpf(float(x)) for x in data[name][index].reshape(-1)]

    operands = case.operands

    def decay(token: int, hv: int) -> list[Any]:
        if not case.raw_gates:
            return row("g", token, hv)
        rate, raw = mp.exp(row("A_log", hv)[0]), row("a", token, hv)
        bias = row("dt_bias", hv) if "dt_bias" in data else [mp.mpf(0)] * len(raw)
        x = [a + b for a, b in zip(raw, bias, strict=True)]
        if case.gates.lower_bound is not None:
            return [mp.mpf(case.gates.lower_bound) / (1 + mp.exp(-rate * each)) for each in x]
        sharp, past = mp.mpf(operands.softplus_beta), mp.mpf(operands.softplus_threshold)
        return [
            -rate * (each if sharp * each > past else mp.log1p(mp.exp(sharp * each)) / sharp) for each in x
        ]

    def step_size(token: int, hv: int) -> Any:
        if "b" in data:
            return (2 if operands.neg_eigval else 1) / (1 + mp.exp(-row("b", token, hv)[0]))
        return row("beta", token, hv)[0] if "beta" in data else mp.mpf(1)

    def unit(x: list[Any]) -> list[Any]:
        length = mp.sqrt(sum(each * each for each in x) + mp.mpf("1e-6")) if case.l2norm else 1
        return [each / length for each in x]

    outputs, finals = {}, {}
    scale = mp.mpf(case.K) ** mp.mpf("-0.5") if case.scale is None else mp.mpf(case.scale)
    for n, length in enumerate(case.lens):
        for hv in range(case.HV):
            start = [[mp.mpf(0)] * case.K for _ in range(case.V)]
            if "state" in data and (not case.state_options.initial or case.state_options.initial[n]):
                start = [row("state", n, hv, i) for i in range(case.V)]
            states = {-1: start}
            for step in range(length):
                token, h = case.starts[n] + step, hv // (case.HV // case.H)
                q, k, v = unit(row("q", token, h)), unit(row("k", token, h)), row("v", token, hv)
                g, beta = decay(token, hv), step_size(token, hv)
                factors = [mp.exp(each) for each in g] * (case.K if len(g) == 1 else 1)
                S = [list(line) for line in states[case.parents[n][step] if case.parents else step - 1]]
                for i in range(case.V):
                    S[i] = [s * a for s, a in zip(S[i], factors, strict=True)]
                    error = beta * (v[i] - sum(s * x for s, x in zip(S[i], k, strict=True)))
                    S[i] = [s + error * x for s, x in zip(S[i], k, strict=True)]
                states[step] = S
                outputs[token, hv] = [scale * sum(s * x for s, x in zip(line, q, strict=True)) for line in S]
            finals[n, hv] = states[length - 1]
    return outputs, finals


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_oracle_agrees_with_fifty_digits(op: str) -> None:
    """Both derivations against a recurrence of its own in mpmath, gates and norms included."""

    @settings(QUIET, max_examples=8)
    @given(case=cases(op).map(shrunk))
    def agree(case: Case) -> None:
        data = inputs.draw(case)
        with mpmath.workdps(50):
            outputs, finals = fifty_digits(case, data)
        o = torch.zeros(case.total, case.HV, case.V, dtype=torch.float64)
        state = torch.zeros(len(case.lens), case.HV, case.V, case.K, dtype=torch.float64)
        for (token, hv), values in outputs.items():
            o[token, hv] = torch.tensor([float(x) for x in values], dtype=torch.float64)
        for (n, hv), lines in finals.items():
            state[n, hv] = torch.tensor([[float(x) for x in line] for line in lines], dtype=torch.float64)
        truth = {"o": o, "state": state}
        forms = [oracle.expected(case, data)]
        if case.parents:
            truth.pop("state")  # the oracle leaves no state of its own after a tree
        else:
            forms.append(oracle.chunked_form(case, data))
        for form in forms:
            assert max(differences(form.items(), truth).values(), default=0.0) < 1e-12

    agree()


def branch(tree: tuple[int, ...], leaf: int) -> list[int]:
    """Steps from the root to a leaf."""
    path = [leaf]
    while tree[path[0]] >= 0:
        path.insert(0, tree[path[0]])
    return path


@pytest.mark.parametrize("op", ["gdn.verify", "kda.verify", "gdn.update"])
def test_a_tree_is_a_chain_along_each_branch(op: str) -> None:
    """Every step of a tree ends where a chain of its ancestors and itself ends."""

    @settings(QUIET, max_examples=25)
    @given(
        case=cases(op).filter(lambda case: any(len(tree) > 1 for tree in case.parents)),
        pick=st.integers(0, 99),
    )
    def agree(case: Case, pick: int) -> None:
        data = inputs.draw(case)
        whole = oracle.expected(case, data)
        n = max(range(len(case.lens)), key=lambda n: case.lens[n])
        path = branch(case.parents[n], pick % case.lens[n])
        tokens = [case.starts[n] + step for step in path]
        pool = Pool(slots=1, indices=(0,), dtype=case.pool.dtype, steps=len(path), buffer=1, rows=(0,))
        # Nothing of a case but its values counts here.
        bare = replace(case, edits=(), before=(), lay=(), state_options=StateOptions())
        chain = replace(bare, lens=(len(path),), pool=pool, parents=(), tail=0, packed=True, batched=False)
        picked = {
            name: tensor[tokens] if name in ("q", "k", "v", "g", "beta", "a", "b") else tensor
            for name, tensor in data.items()
        }
        picked["state"] = data["state"][n : n + 1]
        alone = oracle.expected(chain, picked)
        # Batches of other sizes sum in another order; what cancels keeps the error of what it came from.
        assert whole.steps is not None
        assert alone.steps is not None
        for got, wanted in ((whole.o[tokens], alone.o), (whole.steps[tokens], alone.steps)):
            torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-13 * float(wanted.abs().max()))

    agree()


def test_a_boundary_state_is_the_state_before_its_chunk() -> None:
    """For 130 tokens at chunk 64 there are three: at 0, 64 and 128; an empty sequence has none."""
    case = Case(
        op="gdn.extend",
        lens=(130, 0, 3),
        K=8,
        V=4,
        pool=Pool(slots=3, indices=(0, 1, 2)),
        gates=Gates(law="uniform", beta="uniform"),
        values=Values(law="normal", seed=5),
        boundary=True,
    )
    data = inputs.draw(case)
    found = oracle.expected(case, data).boundary
    assert found is not None
    assert found.shape == (4, 1, 4, 8)
    assert torch.equal(found[0], data["state"][0].double())
    for chunk, tokens in ((1, 64), (2, 128)):
        head = replace(case, lens=(tokens,), pool=Pool(), boundary=False)
        cut = {name: x[:1] if name == "state" else x[:tokens] for name, x in data.items()}
        state = oracle.expected(head, cut).state
        assert state is not None
        assert torch.equal(found[chunk], state[0])


GOLDEN = {
    "defaults": (Case(op="gdn.recurrent", pool=Pool(indices=())), "d3101334dc92b65e"),
    "every law at once": (
        Case(
            op="kda.extend",
            lens=(5, 0, 17),
            H=2,
            HV=4,
            K=12,
            V=5,
            dtype="bfloat16",
            pool=Pool(slots=4, indices=(2, -1, 0), dtype="float16"),
            gates=Gates(law="model", beta="near_one", dtype="bfloat16", raw=True, lower_bound=-5.0),
            values=Values(law="parallel", seed=77, v_exponent=2, q_exponent=-1),
            tail=3,
            l2norm=True,
            chunk_size=16,
        ),
        "fdf74eec4a3e2243",
    ),
    "exact": (
        Case(
            op="gdn.decode",
            lens=(3, 3),
            HV=3,
            K=9,
            V=7,
            dtype="float16",
            pool=Pool(slots=2, indices=(1, 0)),
            gates=Gates(law="exact", beta="exact"),
            values=Values(law="exact", seed=3),
        ),
        "7ad7bef0131cdac0",
    ),
    "huge gates, spiky values, one edit": (
        Case(
            op="kda.update",
            lens=(4,),
            K=33,
            V=2,
            pool=Pool(),
            gates=Gates(law="huge", strength=0.125, beta="uniform"),
            values=Values(law="spiky", seed=900),
            edits=(Edit("v", 3, 0.0),),
        ),
        "5da307cd09908517",
    ),
    "a jump, zero rows": (
        Case(
            op="gdn.extend",
            lens=(20,),
            K=17,
            V=16,
            gates=Gates(law="jump", at=16, beta="half"),
            values=Values(law="zero_rows", seed=1),
        ),
        "54d31ea2b534de68",
    ),
}


def checksum(case: Case) -> str:
    digest = hashlib.sha256()
    for name, tensor in inputs.draw(case).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", GOLDEN)
def test_inputs_keep_their_bits(name: str) -> None:
    """A saved case must mean the same tensors for ever: change these checksums only with the format
    version."""
    case, expected = GOLDEN[name]
    assert checksum(case) == expected


@pytest.mark.parametrize("op", OPERATIONS)
def test_inputs_are_finite_but_for_padding(op: str) -> None:
    """No law overflows its dtype; padding tokens alone are NaN, so that reading them shows."""

    @settings(QUIET, max_examples=40)
    @given(case=cases(op))
    def check(case: Case) -> None:
        for name, tensor in inputs.draw(case).items():
            per_token = name in ("q", "k", "v", "g", "beta", "a", "b")
            real = tensor[: case.total] if per_token else tensor
            extreme = name == "A_log" and case.gates.law == "extreme"  # which has -inf, and says so
            assert (torch.isfinite(real) | (real == -torch.inf) & extreme).all(), name
            assert not per_token or tensor[case.total :].isnan().all(), name
            if name == "g":
                assert (real <= 0).all()

    check()


@pytest.mark.parametrize("op", OPERATIONS)
def test_results_fit_half_precision_where_they_are_stored_in_it(op: str) -> None:
    """Scales are drawn so that no output or state of a correct kernel overflows fp16."""

    @settings(QUIET, max_examples=30)
    @given(case=cases(op).filter(lambda case: "float16" in (case.dtype, case.pool.dtype)))
    def check(case: Case) -> None:
        for name, truth in oracle.expected(case, inputs.draw(case)).items().items():
            assert not truth.numel() or float(truth.abs().max()) < 30000.0, name

    check()


def test_a_saved_case_means_the_same_tensors_whatever_else_is_drawn() -> None:
    """Elements depend on the case's own seed and on names: a longer batch begins with the same tokens."""
    short = Case(op="gdn.recurrent", lens=(3,), pool=Pool(indices=()), values=Values(law="normal", seed=9))
    long = replace(short, lens=(7,))
    for name in ("q", "k", "v"):
        assert torch.equal(inputs.draw(short)[name], inputs.draw(long)[name][:3])
    assert not torch.equal(
        inputs.draw(short)["q"], inputs.draw(replace(short, values=Values("normal", 10)))["q"]
    )


def test_raw_gates_come_close_to_the_gates_that_are_wanted() -> None:
    """The raw gate of a law gives about the decay that the law gives directly."""
    pool, gates, values = Pool(), Gates(law="uniform", beta="uniform"), Values(law="normal", seed=4)
    direct = inputs.draw(Case(op="gdn.update", lens=(40,), pool=pool, gates=gates, values=values))
    raw = inputs.draw(Case(op="gdn.decode", lens=(40,), pool=pool, gates=gates, values=values))
    x = raw["a"].double() + raw["dt_bias"].double()
    g = -torch.exp(raw["A_log"].double()) * torch.logaddexp(x, torch.zeros_like(x))
    assert float((g / direct["g"].double() - 1.0).abs().max()) < 1 / 3
    beta = torch.sigmoid(raw["b"].double())
    assert float((beta - direct["beta"].double()).abs().max()) < 0.1
    assert math.isclose(float(beta.mean()), float(direct["beta"].mean()), abs_tol=0.05)


@pytest.mark.parametrize("coarse", ["bfloat16", "float16"])
def test_a_bias_in_a_finer_dtype_than_a_is_not_one_of_its_numbers(coarse: str) -> None:
    """A kernel that brings it to the dtype of a shows. Elsewhere it is as ever."""
    gates = Gates(law="uniform", beta="uniform", dtype=coarse)
    case = Case("kda.decode", HV=4, dtype=coarse, gates=gates, operands=Operands(dt_bias="float32"))
    bias = inputs.draw(case)["dt_bias"]
    rounded = bias.to(inputs.DTYPE[coarse]).float()
    assert (bias != rounded).float().mean() > 0.3
    usual = inputs.draw(replace(case, operands=Operands()))["dt_bias"].float()
    assert float((bias - usual).abs().max()) == inputs.FINE
