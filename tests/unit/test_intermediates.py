"""What stages of extend hand to each other: truth and noise of each."""

from __future__ import annotations

import pytest
import torch

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.reference import noise, oracle
from diffgdn.reference.noise.intermediates import intermediates
from diffgdn.targets.base import default_contract
from diffgdn.tensors import inputs

GDN, KDA = "gdn.extend", "kda.extend"
LEAST_GATE = -150.0


@pytest.mark.parametrize("op", [GDN, KDA])
def test_a_state_has_the_noise_that_it_has_as_a_result(op: str) -> None:
    """By brute force here, to first order there."""
    case = Case(
        op,
        (40, 0, 5),
        H=2,
        HV=4,
        K=24,
        V=20,
        dtype="bfloat16",
        pool=Pool(slots=3, indices=(0, 1, 2)),
        gates=Gates(law="model", beta="uniform"),
        values=Values(law="normal"),
        chunk_size=16,
        boundary=True,
    )
    data, contract = inputs.draw(case), default_contract(op)
    known = intermediates(case, data, contract, LEAST_GATE)
    assert known is not None
    truth = oracle.expected(case, data)
    assert truth.boundary is not None
    torch.testing.assert_close(known["h"].truth, truth.boundary, rtol=1e-9, atol=1e-9)
    first_order = noise.measure(case, data, contract)["boundary"]
    some = first_order > 0
    share = known["h"].noise[some] / first_order[some]
    assert 0.5 < float(share.median()) < 2.0
    assert float(share.quantile(0.01)) > 0.25


def test_truths_of_the_stages_make_the_output() -> None:
    """Each in its shape: o is scale * (q_decayed h + A_qk v_new), v_new is u - w h, u is A v."""
    case = Case(
        KDA,
        (20,),
        K=8,
        V=6,
        gates=Gates(law="uniform", beta="uniform"),
        values=Values(law="normal"),
        chunk_size=16,
    )
    data = inputs.draw(case)
    known = intermediates(case, data, default_contract(KDA), LEAST_GATE)
    assert known is not None
    x = {name: one.truth[:, 0] for name, one in known.items()}
    assert x["A"].shape == x["A_qk"].shape == (20, 16)
    v, o = data["v"].double()[:20, 0], oracle.expected(case, data).o[:, 0]
    for chunk, rows in enumerate((slice(0, 16), slice(16, 20))):
        cut, h = slice(0, rows.stop - rows.start), x["h"][chunk]
        torch.testing.assert_close(x["u"][rows], x["A"][rows, cut] @ v[rows])
        torch.testing.assert_close(x["v_new"][rows], x["u"][rows] - x["w"][rows] @ h.T)
        read = x["q_decayed"][rows] @ h.T + x["A_qk"][rows, cut] @ x["v_new"][rows]
        torch.testing.assert_close(o[rows], case.effective_scale * read)
        decay = torch.exp(x["G"][rows][-1])
        torch.testing.assert_close(
            x["h"][1] if chunk == 0 else oracle.expected(case, data).state[0, 0],
            h * decay + x["v_new"][rows].T @ x["k_decayed"][rows],
        )


def test_gates_that_leave_nothing_are_cut_as_the_kernels_cut_them() -> None:
    case = Case(GDN, (3,), gates=Gates(law="constant", strength=400.0), chunk_size=16)
    data = inputs.draw(case)
    assert float(data["g"].min()) < -150.0
    known = intermediates(case, data, default_contract(GDN), LEAST_GATE)
    assert known is not None
    assert known["G"].truth.flatten().tolist() == [-150.0, -300.0, -450.0]
