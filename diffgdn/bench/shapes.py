"""List the shapes that are timed: K = V = 128, bf16 inputs, fp32 gates and state, as published models are
served."""

from __future__ import annotations

from dataclasses import dataclass

from diffgdn.cases.case import Case, Gates, Pool, Values

PREFILL = ((1, 2048), (1, 8192), (1, 32768), (8, 1024), (64, 128))
BATCHES = (1, 8, 64, 256)
DRAFT_TOKENS = 4


@dataclass(frozen=True)
class Shape:
    """Hold one timed call.

    Attributes:
        label: sequences x tokens.
    """

    op: str
    label: str
    case: Case


def _case(op: str, sequences: int, length: int, H: int, HV: int) -> Case:
    """Make the case of a shape, over a pool with a slot for each sequence."""
    verify = op.endswith("verify")
    pool = Pool(
        slots=sequences,
        indices=tuple(range(sequences)),
        steps=length if verify else 0,
        buffer=sequences if verify else 0,
        rows=tuple(range(sequences)) if verify else (),
    )
    return Case(
        op=op,
        lens=(length,) * sequences,
        H=H,
        HV=HV,
        K=128,
        V=128,
        dtype="bfloat16",
        pool=pool,
        gates=Gates(law="model", beta="uniform"),
        values=Values(law="normal", seed=1),
        l2norm=True,
        final=False,
    )


def shapes(op: str) -> list[Shape]:
    """List the timed shapes of an operation: prefill for extend, batches for the rest; none for recurrent
    and update."""
    kda = op.startswith("kda")
    if op.endswith(".extend"):
        heads = (32, 32) if kda else (16, 32)
        return [Shape(op, f"{n}x{length}", _case(op, n, length, *heads)) for n, length in PREFILL]
    if op.endswith((".decode", ".packed_decode", ".verify")):
        length = DRAFT_TOKENS if op.endswith("verify") else 1
        heads = (32, 32) if kda else (16, 32)
        return [Shape(op, f"{n}x{length}", _case(op, n, length, *heads)) for n in BATCHES]
    return []
