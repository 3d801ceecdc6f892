"""Lists the heads of published models: where kernels must be right first.

Query heads and value heads as the models' published configurations give them, K = V = 128 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operations import FAMILIES, OPERATIONS


@dataclass(frozen=True)
class Geometry:
    """Heads of a model, or of one of its tensor-parallel shards.

    family: "gdn" or "kda". H, HV: query and value heads. lower_bound: of the kda gate (natural log), None if
    the model has none.
    """

    name: str
    family: str
    H: int
    HV: int
    lower_bound: float | None = None


GEOMETRIES = (
    Geometry("Qwen3-Next-80B", "gdn", 16, 32),
    Geometry("Qwen3-Next-80B, 4 shards", "gdn", 4, 8),
    Geometry("Qwen3.5-2B", "gdn", 16, 16),
    Geometry("Qwen3.5-27B", "gdn", 16, 48),
    Geometry("Qwen3.5-397B", "gdn", 16, 64),
    Geometry("Qwen3.5-397B, 4 shards", "gdn", 4, 16),
    Geometry("Qwen3.5-397B, 8 shards", "gdn", 2, 8),
    Geometry("Kimi-Linear-48B", "kda", 32, 32),
    Geometry("Kimi-K3", "kda", 96, 96, -5.0),
    Geometry("Kimi-K3, 8 shards", "kda", 12, 12, -5.0),
    Geometry("Kimi-K3, 16 shards", "kda", 6, 6, -5.0),
    Geometry("Kimi-K3, 32 shards", "kda", 3, 3, -5.0),
    Geometry("GLM-5.3-Flash", "kda", 64, 64, -5.0),
)
assert {geometry.family for geometry in GEOMETRIES} == set(FAMILIES)

LENS = {  # small token counts that still cross a chunk, hold an empty sequence, and use several slots
    "extend": (65, 0, 7),
    "recurrent": (5, 3),
    "update": (3, 1),
    "decode": (1, 1, 1),
    "packed_decode": (1, 1, 1),
    "verify": (4, 4),
    "verify_commit": (4, 4),
}


def heads(family: str) -> tuple[tuple[int, int], ...]:
    """Return (H, HV) of a family's models, fewest value heads first."""
    pairs = {(geometry.H, geometry.HV) for geometry in GEOMETRIES if geometry.family == family}
    return tuple(sorted(pairs, key=lambda pair: (pair[1], pair[0])))


def cases(op: str) -> list[Case]:
    """Return one case a published geometry of the operation's family: its heads, its gates, few tokens."""
    operation = OPERATIONS[op]
    lens = LENS[operation.kind]
    out = []
    for seed, geometry in enumerate(g for g in GEOMETRIES if g.family == operation.family):
        pool = Pool(indices=())
        if operation.has_pool:
            pool = Pool(slots=len(lens) + 1, indices=tuple(range(len(lens), 0, -1)))
        if operation.drafts:
            pool = replace(pool, steps=max(lens), buffer=len(lens), rows=tuple(range(len(lens))))
        raw = operation.raw_gates or op == "kda.extend"
        bound = geometry.lower_bound if raw and operation.is_kda else None
        raw_gate = op == "kda.extend" and bound is not None
        gates = Gates(law="model", beta="uniform", raw=raw_gate, lower_bound=bound)
        out.append(
            Case(
                op=op,
                lens=lens,
                H=geometry.H,
                HV=geometry.HV,
                K=128,
                V=128,
                dtype="bfloat16",
                pool=pool,
                gates=gates,
                values=Values(law="normal", seed=seed),
                l2norm=True,
            )
        )
    return out
