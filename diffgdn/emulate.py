"""Results as a kernel would leave them, without a kernel: from the truth, or from the reference computation
under real roundings. What asks the checks themselves is built on it."""

from __future__ import annotations

import torch
from torch import Tensor

from diffgdn import oracle
from diffgdn.case import Case
from diffgdn.inputs import DTYPE, Data
from diffgdn.noise import Contract, Rounded
from diffgdn.oracle import Expected, Rounding


def live_rows(case: Case) -> Tensor:
    """[total] tokens whose output is more than the zeros that packed_decode writes for padding."""
    if not case.operation.single_token:
        return torch.ones(case.total, dtype=torch.bool)
    return torch.tensor([slot >= 0 for slot in case.pool.indices])


def stored_dtypes(case: Case) -> dict[str, torch.dtype]:
    """The dtype that each result of a case is kept in, by the names of `execute.comparisons`.

    final stands for states that are returned but not written in place.
    """
    q, pool = DTYPE[case.dtype], DTYPE[case.pool.dtype]
    out = {"o": q}
    if case.writes_state:
        out["state"] = pool
    elif case.final and case.operation.kind in ("extend", "recurrent"):
        # gdn.recurrent returns fp32 whatever it was given, the others what they were given
        fresh = case.op == "gdn.recurrent" or case.values.state == "none"
        out["final"] = torch.float32 if fresh else pool
    if case.boundary:
        out["boundary"] = q
    if case.keeps_steps:
        out["steps"] = pool
    return out


def truth_dtypes(case: Case) -> dict[str, torch.dtype]:
    """The same by the names of `oracle.Expected`."""
    return {"state" if name == "final" else name: dtype for name, dtype in stored_dtypes(case).items()}


def kept(case: Case, expected: Expected) -> dict[str, Tensor]:
    """What a run of a case leaves behind, in float64 on the CPU, before it is rounded to what it is kept in.

    o [total, HV, V], zero for padding in packed_decode; state [stored sequences, HV, V, K]; final [N, HV, V,
    K]; boundary [chunks, HV, V, K]; steps [kept tokens, HV, V, K].
    """
    rows = {
        "o": lambda: expected.o * live_rows(case).to(expected.o.device).view(-1, 1, 1),
        "state": lambda: expected.state[list(case.stored)],
        "final": lambda: expected.state,
        "boundary": lambda: expected.items()["boundary"],
        "steps": lambda: expected.items()["steps"][[token for token, _, _ in case.kept]],
    }
    return {name: rows[name]().cpu() for name in stored_dtypes(case)}


def stored(case: Case, expected: Expected) -> dict[str, Tensor]:
    """The same, rounded once to the dtypes that it is kept in."""
    dtypes = stored_dtypes(case)
    return {name: tensor.to(dtypes[name]) for name, tensor in kept(case, expected).items()}


def rounded(
    case: Case,
    data: Data,
    contract: Contract,
    rounding: Rounding | None = None,
    device: torch.device | str = "cpu",
) -> Expected:
    """The reference computation as a kernel does it that rounds, to nearest, at every point where its
    contract allows it, and nowhere else. rounding: takes the place of these roundings."""
    form = oracle.chunked_form if contract.chunked else oracle.expected
    return form(case, data, rounding or Rounded(case, contract), device)


def computed(
    case: Case,
    data: Data,
    contract: Contract,
    rounding: Rounding | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """What such a kernel leaves behind."""
    return stored(case, rounded(case, data, contract, rounding, device))
