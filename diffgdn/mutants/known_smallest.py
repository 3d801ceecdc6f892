"""The smallest case in which each mutant is known to fail, and how near a shrunk case comes to it.

Each fails on the mutant, and passes on the kernels as they are. That there is no smaller one is reasoned, not
proved: a shrunk case that is smaller takes its place. A shrink keeps the operation and the kind of failure,
and takes plainer laws before fewer tokens; so the smallest of another operation or kind, or of plainer laws,
stands by itself in OTHER_WAYS.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.cases.lay import Lay
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.sparsity import Only
from diffgdn.cases.state_options import StateOptions
from diffgdn.findings import bucket

SMALLEST, ONE_STEP, FURTHER = "smallest", "one step", "further"
GRADES = (SMALLEST, ONE_STEP, FURTHER)
SIMPLEST_DIM = 16  # of K and V: smaller ones are no simpler
# What shows where a mistake is, and laws that draw less than the simplest one does, make a case no larger.
NO_MARKS = ("only", "lens", "H", "HV", "op")
LESS = {("values", "law"): ("ones", "zero"), ("values", "state"): ("law", "zero", "none")}


def least(op: str, **changes: Any) -> Case:
    """Return the simplest case of an operation, with changes."""
    pool = Pool() if OPERATIONS[op].has_pool else Pool(indices=())
    if OPERATIONS[op].drafts:
        pool = Pool(steps=1, buffer=1, rows=(0,))
    chunk_size = 16 if OPERATIONS[op].is_chunked else Case.chunk_size
    return Case(**{"op": op, "pool": pool, "chunk_size": chunk_size, **changes})


def sizes(case: Case) -> dict[str, int]:
    """Return the dimensions of a case, by name."""
    return {
        "tokens": sum(case.lens),
        "sequences": len(case.lens),
        "H": case.H,
        "HV": case.HV,
        "K": max(SIMPLEST_DIM, case.K),
        "V": max(SIMPLEST_DIM, case.V),
        "slots": max(1, case.pool.slots),
        "steps": max(1, case.pool.steps),
        "chunk": case.chunk_size if case.operation.is_chunked else 1,
    }


def marks(case: Case) -> set[str]:
    """Name the fields, sizes apart, in which a case is not the simplest one of its operation."""
    plain = least(case.op)
    found = set()
    for field in dataclasses.fields(Case):
        if field.name in NO_MARKS or field.name == "chunk_size":
            continue
        if field.name in ("K", "V"):
            different = getattr(case, field.name) != SIMPLEST_DIM
            found |= {field.name} if different else set()
        elif field.name in ("pool", "gates", "values", "operands", "state_options"):
            found |= _inner(field.name, getattr(case, field.name), getattr(plain, field.name))
        elif getattr(case, field.name) != getattr(plain, field.name):
            found.add(field.name)
    return found


def _inner(name: str, one: Any, plain: Any) -> set[str]:
    """Name the fields of a part of a case that are not those of the simplest one."""
    found = set()
    for field in dataclasses.fields(one):
        value = getattr(one, field.name)
        counted = name == "pool" and field.name in ("slots", "steps", "buffer")
        numbers = field.name in ("seed", "strength", "at") or field.name.endswith("_exponent")
        if counted or numbers or value in LESS.get((name, field.name), ()):
            continue
        if name == "pool" and field.name in ("indices", "rows"):
            value, simplest = _kind(value), _kind(getattr(plain, field.name))
        else:
            simplest = getattr(plain, field.name)
        if value != simplest:
            found.add(f"{name}.{field.name}")
    return found


def _kind(places: tuple[int, ...]) -> str:
    """Say of slots or rows whether one is padding; which they are is counted as a size."""
    return "padding" if -1 in places else "some"


def grade(case: Case, known: Case) -> str:
    """Say how a shrunk case compares with the smallest that is known.

    SMALLEST: no dimension is larger, and as few fields are other than the simplest. ONE_STEP: one dimension
    is larger, by one or by as much again, or one field more is other. FURTHER: anything else.
    """
    before, after = sizes(known), sizes(case)
    larger = [name for name in after if after[name] > before[name]]
    more = max(0, len(marks(case)) - len(marks(known)))
    if not larger and not more:
        return SMALLEST
    if len(larger) + more > 1:
        return FURTHER
    return (
        ONE_STEP
        if all(after[name] <= max(before[name] + 1, 2 * before[name]) for name in larger)
        else FURTHER
    )


def within_twice(case: Case, known: Case) -> bool:
    """Say whether no dimension of a case is more than twice that of the smallest that is known."""
    before, after = sizes(known), sizes(case)
    return all(after[name] <= 2 * before[name] for name in after)


_TWO = Pool(slots=2, indices=(0, 1))
_UNDERFLOW = Gates(law="underflow")

KNOWN_SMALLEST: dict[str, Case] = {
    "tail-exp-unmasked": least("gdn.extend", lens=(3,), gates=Gates(law="exact")),
    "h-read-as-kv": least("kda.extend", values=Values(law="exact")),
    "glast-wrong-row": least("gdn.extend", lens=(2,), gates=Gates(law="constant")),
    "log-linear-gate-mix": least("gdn.extend"),
    "chunk-ids-wrong-source": least("gdn.extend", lens=(1, 1), pool=_TWO),
    "cumsum-ignores-chunks": least("gdn.extend", lens=(1, 1), pool=_TWO),
    "gva-gate-not-repeated": least("kda.extend", HV=2, gates=Gates(law="uniform")),
    "qk-scale-twice": least("gdn.extend"),
    "boundary-state-final": least("gdn.extend", boundary=True),
    "scale-loop-bound": least("gdn.extend", V=17),
    "split-exponent": least("gdn.extend", lens=(3,), gates=Gates(law="exact")),
    "empty-seq-epilogue": least("kda.extend", lens=(0,)),
    "chunk-size-hardcoded": least("kda.extend", lens=(17,)),
    "output-aliases-v": least("gdn.extend"),
    "offdiag-rows-unmasked": least("kda.extend", lens=(17,), chunk_size=32, gates=_UNDERFLOW),
    "mask-after-overflow": least("kda.extend", lens=(3,), gates=_UNDERFLOW),
    "clamp-breaks-cancel": least("kda.extend", lens=(2,), gates=Gates(law="constant", strength=80.0)),
    "inf-times-zero-anchor": least("kda.extend", lens=(3,), gates=_UNDERFLOW),
    "neumann-fp16": least("gdn.extend", lens=(2,), values=Values(law="uniform")),
    "neumann-slow-decay": least("gdn.extend", lens=(12,), values=Values(law="parallel")),
    "newton-too-few": least("kda.extend", lens=(9,)),
    "inf-times-zero-gate": least("gdn.decode", edits=(Edit("A_log", 0, 100.0), Edit("a", 0, -500.0))),
    "softplus-no-linear-branch": least("kda.decode", gates=Gates(law="extreme")),
    "eps-on-mean": least("kda.verify", K=1, l2norm=True),
    "max-not-sum": least("gdn.recurrent", l2norm=True, values=Values(q_exponent=-9)),
    "aux-dtype-rounded": least("kda.packed_decode", dtype="bfloat16", gates=Gates(law="uniform")),
    "dt-bias-per-head": least("kda.decode", gates=Gates(law="uniform")),
    "scale-from-v": least("gdn.update", V=1),
    "kkt-left-empty": least("kda.extend"),
    "out-left-empty": least("kda.extend", tail=1),
    "pad-rows-last-chunk-only": least("gdn.extend", tail=17),
    "subst-past-end": least("kda.extend", lens=(2,)),
    "wy-row-unwritten": least("gdn.extend", lens=(16,)),
    "pad-slot-unguarded-extend": least("gdn.extend", pool=Pool(indices=(-1,))),
    "token-offset-int32": least("gdn.extend", HV=2, lay=(Lay("v", gaps=(0, 0, 2**31, 0)),)),
    "scratch-by-tokens": least("gdn.extend", lens=(1, 1), pool=_TWO),
    "tail-rows-over-next": least("gdn.extend", lens=(1, 1), pool=_TWO, order="descending"),
    "program-order-race": least("kda.extend", lens=(1, 1), pool=_TWO, order="descending"),
    "snapshot-precision": least(
        "kda.extend", dtype="bfloat16", values=Values(law="normal"), state_options=StateOptions(track=(0,))
    ),
    "snapshot-wrong-chunk": least("kda.extend", lens=(17,), state_options=StateOptions(track=(1,))),
    "snapshot-never-written": least("kda.extend", state_options=StateOptions(track=(0,))),
    "cache-by-address": least("gdn.extend", lens=(2, 1), pool=_TWO, before=("new_values",)),
    "cache-by-identity": least("gdn.extend", lens=(2, 1), pool=_TWO, before=("new_values",)),
    "compile-key-lacks-dtype": least("gdn.extend", values=Values(law="normal"), before=("other_dtype",)),
    "autotune-on-live-pool": least("gdn.extend", gates=Gates(law="constant")),
    "stale-slot-state": least(
        "gdn.extend", values=Values(law="normal"), state_options=StateOptions(initial=(False,))
    ),
    "batch-stride-from-shape": least(
        "gdn.extend", lens=(1, 1), pool=_TWO, packed=False, lay=(Lay("v", gaps=(16, 0, 0, 0)),)
    ),
    "inverse-state-layout-of-segment": least("kda.extend", values=Values(law="exact")),
    "buffer-pitch-from-steps": least(
        "kda.verify",
        pool=Pool(steps=2, buffer=2, rows=(1,)),
        state_options=StateOptions(cache_steps="longest"),
    ),
    "recording-disables-update": least(
        "gdn.update", pool=Pool(steps=1, buffer=1, rows=(0,)), state_options=StateOptions(step_update=True)
    ),
    "index-stride-ignored": least(
        "gdn.packed_decode", lens=(1, 1), pool=_TWO, lay=(Lay("indices", gaps=(1,)),)
    ),
    "inner-pool-strides": least("kda.update", lay=(Lay("state", gaps=(0, 0, 16, 0)),)),
    "key-heads-grid": least("gdn.recurrent", HV=2),
    "split-truncated": least("gdn.packed_decode", V=129),
    "uniform-verify-length": least("gdn.recurrent", lens=(1, 2)),
    "rollback-after-two-drafts": least(
        "kda.update",
        pool=Pool(slots=3, indices=(2,)),
        state_options=StateOptions(slots=((0, 1, 2),), accepted=(3,)),
    ),
    "safe-gate-as-clamp": least("kda.decode", gates=Gates(law="uniform", lower_bound=-5.0)),
    "pad-slot-off-by-one": least("gdn.recurrent"),
    "pad-slot-clamped": least("gdn.update", pool=Pool(indices=(-1,))),
    "pad-slot-unguarded-decode": least("kda.update", pool=Pool(indices=(-1,))),
    "pool-copied": least("gdn.update", pool=Pool(slots=2, indices=(1,), pitch=1)),
    "ab-token-stride": least("gdn.recurrent", lens=(2,), view="gapped"),
    "qkv-assumed-compact": least("gdn.recurrent", lens=(2,), view="gapped"),
    "index-int32": least(
        "gdn.packed_decode", pool=Pool(slots=2, indices=(1,), pitch=2**31, dtype="bfloat16")
    ),
    "state-in-input-dtype": least("gdn.recurrent", dtype="bfloat16", values=Values(law="normal")),
    "k-mask-missing": least("kda.recurrent", K=1),
    "verify-state-advanced": least("gdn.verify"),
    "tree-parent-chain": least(
        "gdn.verify",
        lens=(3,),
        pool=Pool(steps=3, buffer=1, rows=(0,)),
        gates=Gates(beta="half"),
        parents=((-1, 0, 0),),
    ),
    "kda-gate-per-head": least("kda.recurrent", gates=Gates(law="uniform")),
    "verify-index-minus-one": least("gdn.update", pool=Pool(steps=1, buffer=2, rows=(-1,))),
    "ab-not-gathered": least("kda.recurrent", lens=(0, 2)),
    "delta-inside-branch": least("kda.decode", gates=Gates(lower_bound=-5.0)),
    "default-buffer-aliased": least("kda.decode"),
    "commit-one-too-many": least("gdn.verify_commit", pool=Pool(steps=2, buffer=1, rows=(0,))),
    # Siblings write the same where all tokens are alike.
    "commit-path-as-chain": least(
        "gdn.verify_commit",
        lens=(3,),
        pool=Pool(steps=3, buffer=1, rows=(0,)),
        values=Values(law="normal"),
        parents=((-1, 0, 0),),
    ),
    "commit-without-decay": least("gdn.verify_commit", gates=Gates(law="constant")),
}

_STEPS = Pool(slots=2, indices=(1,))
_DENSE, _NO_KEYS = Pool(indices=()), Only("k", tokens=())
_ACCEPTED: dict[str, Any] = {"slots": ((0, 1),), "accepted": (2,)}

# By mutant: (kind of failure, case), each the smallest of its operation and kind, or of its laws.
OTHER_WAYS: dict[str, tuple[tuple[str, Case], ...]] = {
    # Of keys that are all ones only the 31st power grows past what cancels: 32 tokens of a chunk.
    "neumann-slow-decay": tuple(
        ("beyond_bound", least(op, lens=(32,), chunk_size=32)) for op in ("gdn.extend", "kda.extend")
    ),
    # The same without edits: columns past K, of which the gate is zero.
    "inf-times-zero-gate": tuple(
        ("not_finite", least(op, K=1, gates=Gates(law="extreme", lower_bound=-1.0), values=Values(seed=459)))
        for op in ("kda.verify", "kda.decode", "kda.packed_decode")
    ),
    # Gates of the second sequence are taken for 0 where they are raw; given, what is read is poison.
    "cumsum-ignores-chunks": (
        (
            "beyond_bound",
            least("gdn.extend", lens=(1, 1), pool=_TWO, gates=Gates(raw=True), only=(_NO_KEYS,)),
        ),
    ),
    # A number of the first sequence is read for the second's, and no poison.
    "ab-not-gathered": tuple(
        ("beyond_bound", least(op, lens=(2, 1), pool=pool, gates=Gates(beta="uniform")))
        for kind, pool in (("recurrent", _DENSE), ("decode", _TWO))
        for op in (f"gdn.{kind}", f"kda.{kind}")
    ),
    # What is not to be written is the state of the whole call.
    "verify-state-advanced": tuple(
        ("slot_changed", least(op, inplace=False))
        for op in ("gdn.decode", "kda.decode", "gdn.update", "kda.update")
    ),
    # Gates that are computed are raw in an extend alone where that is asked for.
    "dt-bias-per-head": (("beyond_bound", least("kda.extend", gates=Gates(law="constant", raw=True))),),
    # In fp32 what is read behind the last token is poison still when it is written, and no trace.
    "uniform-verify-length": (
        ("guard_written", least("gdn.recurrent", lens=(2, 1), dtype="bfloat16", pool=_DENSE)),
    ),
    "pad-slot-unguarded-extend": (
        ("guard_written", least("gdn.extend", dtype="bfloat16", pool=Pool(indices=(-1,)))),
    ),
    # What is read lies where another tensor does, and the process lives on.
    "token-offset-int32": (
        (
            "beyond_bound",
            least(
                "gdn.extend",
                lens=(1, 2),
                pool=_TWO,
                lay=(Lay("k", gaps=(0, 1 << 30, 0, 0)), Lay("cu_seqlens", gaps=(1 << 30,))),
            ),
        ),
    ),
    # Slot 0 belongs to another sequence: what is read there is a number, and no poison.
    "pad-slot-clamped": tuple(
        ("beyond_bound", least(op, lens=(1, 1), pool=Pool(indices=(0, -1))))
        for op in ("gdn.packed_decode", "kda.packed_decode")
    ),
    # The first slot that is written is not the one that is read, and holds poison.
    "pool-copied": tuple(
        (
            "never_written",
            least(op, pool=replace(_STEPS, pitch=1), state_options=StateOptions(**_ACCEPTED)),
        )
        for op in ("gdn.update", "kda.update", "gdn.verify", "kda.verify")
    ),
    "inner-pool-strides": tuple(
        (
            "never_written",
            least(
                op,
                pool=_STEPS,
                lay=(Lay("state", gaps=(0, 0, 1, 0)),),
                state_options=StateOptions(**_ACCEPTED, output=False),
            ),
        )
        for op in ("gdn.update", "kda.update")
    ),
    # The second token alone writes, and is not accepted.
    "commit-one-too-many": tuple(
        (
            "beyond_bound",
            least(
                op,
                lens=(2,),
                pool=Pool(steps=2, buffer=1, rows=(0,)),
                values=Values(state="zero"),
                only=(Only("k", tokens=(1,)),),
                state_options=StateOptions(accepted=(1,)),
            ),
        )
        for op in ("gdn.verify_commit", "kda.verify_commit")
    ),
    # The second token goes where the state was read; without an output the hole is seen there.
    "rollback-after-two-drafts": tuple(
        (
            "never_written",
            least(
                op,
                lens=(2,),
                pool=Pool(slots=3, indices=(2,)),
                state_options=StateOptions(slots=((0, 1, 2),), accepted=(3,), output=False),
            ),
        )
        for op in ("gdn.update", "kda.update")
    ),
}


def nearest(mutant: str, case: Case, kind: str) -> str:
    """Say how a shrunk case of a mutant compares with the smallest that is known, of all ways in which it
    fails so. kind: of failure, which a shrink keeps as a bucket does."""
    ways = OTHER_WAYS.get(mutant, ())
    others = [other for of, other in ways if bucket.fault(of) == bucket.fault(kind) and other.op == case.op]
    return min((grade(case, known) for known in (KNOWN_SMALLEST[mutant], *others)), key=GRADES.index)
