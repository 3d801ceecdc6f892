"""Targets for tests of the probe: the eager target on one operation, with faults in single features.

Child processes load them as `tests/unit/probed.py:NAME`.
"""

from __future__ import annotations

import os
import time

from torch import Tensor

from diffgdn.cases.case import Case
from diffgdn.cases.promises import Promises
from diffgdn.selftest.faulty_target import Planted
from diffgdn.tensors.arena import Arguments

DECODE = ("gdn.decode",)
SLEEP_SECONDS = 600.0


def is_spoilt(case: Case) -> bool:
    """Whether a case has a feature that `faulty` has a fault in, alone or two together."""
    return (
        case.view == "packed"
        or case.scale is not None
        or case.index_dtype == "int64"
        or case.cu_dtype == "int64"
        or case.pool.pitch % 8 > 0
        or (case.H < case.HV and not case.packed)
    )


def spoil(case: Case, results: dict[str, Tensor]) -> None:
    """Raise where a scale is given, end the process over 64-bit indices, wait where cu_seqlens is 64-bit; be
    wrong elsewhere.
    """
    if case.scale is not None:
        raise NotImplementedError("no scale but the default")
    if case.index_dtype == "int64":
        os.abort()
    if case.cu_dtype == "int64":
        time.sleep(SLEEP_SECONDS)
    results["o"].view(-1)[0] += 1


faulty = Planted("faulty", spoil, is_spoilt, operations=DECODE)


class Narrow(Planted):
    """Takes fp16 with K = V = 128 alone, and refuses a gapped view."""

    def refuses(self, case: Case, backend: str) -> str | None:
        return "no gaps" if case.view == "gapped" else super().refuses(case, backend)

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        if (case.dtype, case.K, case.V) != ("float16", 128, 128):
            raise TypeError(f"{case.dtype}, K={case.K}, V={case.V}")
        return super().run(case, arguments)


narrow = Narrow("narrow", spoil, lambda case: False, operations=DECODE)


class Server(Planted):
    """Takes what one server asks: raw gates with a bound, raw beta, K = V = 128 in bf16, as many heads."""

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        served = (case.dtype, case.K, case.V, case.gates.raw) == ("bfloat16", 128, 128, True)
        if not served or case.gates.lower_bound is None or not case.raw_beta or case.H != case.HV:
            raise TypeError("not what the server asks")
        return super().run(case, arguments)


server = Server("server", spoil, lambda case: False, operations=("kda.recurrent",))


def off(case: Case, results: dict[str, Tensor]) -> None:
    results["o"].view(-1)[0] += 1


broken = Planted("broken", off, lambda case: True, operations=DECODE)
rash = Planted("rash", off, lambda case: case.K == 17, operations=DECODE)
rash.promises = Promises(K=(16, 17, 64), V=(64,))
