"""Lists the relations by name: to which cases each applies, and how the results of its calls must agree.

Imports no torch: a campaign plans with it before any kernel is loaded. `transforms` makes the calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diffgdn.cases.case import Case
from diffgdn.cases.operations import KINDS, OPERATIONS, Operation

MOST_STEPS = 8  # calls that a draft is decoded in
SEQUENTIAL = tuple(kind for kind in KINDS if kind != "packed_decode")
STATEFUL = ("extend", "recurrent", "update", "decode")


@dataclass(frozen=True)
class Relation:
    """Something that must hold between the results of calls, whatever the right results are.

    what: the other calls, in a few words.
    why: the reason for which results agree.
    bitwise: the contract promises the same bits; else results agree within the bounds of both sides.
    kinds, families: of the operations that it can apply to.
    unless: says why it tells nothing about a case, or None if it applies.
    same_shapes: the other calls have the shapes of the case's own; bits then need no `batch_invariant`.
    """

    name: str
    what: str
    why: str
    bitwise: bool = False
    kinds: tuple[str, ...] = KINDS
    families: tuple[str, ...] = ("gdn", "kda")
    unless: Callable[[Case], str | None] = lambda case: None
    same_shapes: bool = False

    def takes(self, operation: Operation) -> bool:
        """Whether it can apply to cases of an operation."""
        return operation.kind in self.kinds and operation.family in self.families


def _one_alone(case: Case) -> str | None:
    return None if len(case.lens) > 1 else "one sequence is alone already"


def _nothing_to_permute(case: Case) -> str | None:
    return None if len(case.lens) > 1 or case.pool.slots > 1 else "one sequence in one slot"


def _rounded(case: Case) -> str | None:
    """A state that is carried over from one call to the next must lose nothing on the way."""
    return None if case.pool.dtype == "float32" else f"a state carried in {case.pool.dtype} is rounded"


def _no_split(case: Case) -> str | None:
    if case.keeps_steps:
        return "no state after the last token is kept"
    return _rounded(case) or (None if max(case.lens) > 1 else "no sequence of two tokens")


def _no_chain(case: Case) -> str | None:
    if not case.needs_steps:
        return "no steps are kept"
    if case.parents and any(tree != tuple(range(-1, len(tree) - 1)) for tree in case.parents):
        return "a tree"
    if max(case.lens) > MOST_STEPS:
        return f"more than {MOST_STEPS} steps"
    return _rounded(case)


def _no_tree(case: Case) -> str | None:
    return None if case.parents else "no tree"


def _raw(case: Case) -> str | None:
    return "the gates or beta are raw" if case.raw_gates or case.raw_beta else None


def _no_groups(case: Case) -> str | None:
    return None if case.HV > case.H else "HV is H"


def _one_row(case: Case) -> str | None:
    return None if case.V > 1 else "V is 1"


def _state_given(case: Case) -> str | None:
    if case.values.state == "law":
        return "the initial state is not zero"
    return "the zero state is edited" if any(edit.tensor == "state" for edit in case.edits) else None


def _no_padding(case: Case) -> str | None:
    return None if case.values.state != "none" and -1 in case.pool.indices else "no index is -1"


def _no_flag(case: Case) -> str | None:
    return None if flags_of(case) else "no flag that can be turned"


def _no_segments(case: Case) -> str | None:
    if case.keeps_steps:
        return "no state after the last token is kept"
    if case.operation.single_token and max(case.pool.indices) < 0:
        return "every output is that of padding"
    alone = max(case.lens) == 1 and case.values.state != "law"
    return "a zero state and one segment: the same call" if alone else None


def flags_of(case: Case) -> tuple[str, ...]:
    """Name the flags of a case's call that ask for more or for less, and leave what is computed alone."""
    kind, out = case.operation.kind, []
    if kind in ("extend", "recurrent"):
        out.append("final")
    if kind == "extend":
        out.append("boundary")
    writes = kind in ("extend", "update", "decode") or (case.op == "kda.recurrent" and case.final)
    live = [slot for slot in case.pool.indices if slot >= 0]
    shared = len(set(live)) < len(live)  # legal only where the state is not written
    if writes and not case.keeps_steps and case.values.state != "none" and not shared:
        out.append("inplace")
    return tuple(out)


RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation(
            "twice",
            "the same call again, in other memory",
            "promised: the same call gives the same bits",
            bitwise=True,
            same_shapes=True,
        ),
        Relation(
            "permuted",
            "sequences in another order, in other slots and buffer rows",
            "promised with batch_invariant, with which both calls are made",
            bitwise=True,
            unless=_nothing_to_permute,
        ),
        Relation(
            "separate",
            "a sequence of a batch, alone",
            "promised with batch_invariant, with which both calls are made",
            bitwise=True,
            unless=_one_alone,
        ),
        Relation(
            "append",
            "one token more in every sequence: what came before stays",
            "no token sees a later one; the contract promises no bits",
            kinds=SEQUENTIAL,
        ),
        Relation(
            "split",
            "a sequence in two calls, the state carried over",
            "the recurrence knows its past by the state alone; chunks begin elsewhere",
            kinds=STATEFUL,
            unless=_no_split,
        ),
        Relation(
            "steps",
            "a draft as one-token calls, the state carried over",
            "verify is what decode or update does, token by token",
            kinds=("verify", "verify_commit", "update"),
            unless=_no_chain,
        ),
        Relation(
            "stored",
            "verify with the state after each step stored",
            "what is committed is the state that a verify stores after the last accepted step",
            kinds=("verify_commit",),
        ),
        Relation(
            "paths",
            "each path of a tree from root to leaf, as a chain",
            "a token of a tree sees its ancestors alone",
            kinds=("verify", "update"),
            unless=_no_tree,
        ),
        Relation(
            "recurrent",
            "extend as recurrent, or as update where a target has no recurrent",
            "one recurrence, computed chunk by chunk or token by token",
            kinds=("extend",),
            unless=_raw,
        ),
        Relation(
            "channels",
            "gdn as kda with equal channels",
            "a decay for each channel, all the same, is a decay for the head",
            families=("gdn",),
        ),
        Relation(
            "heads",
            "value heads of one query head, each with a query head of its own",
            "query head h = hv // (HV // H)",
            unless=_no_groups,
        ),
        Relation(
            "additive",
            "two parts of v, one with the initial state, added",
            "results are linear in (v, S); the parts are exact, for a value belongs to one",
        ),
        Relation(
            "rows",
            "every other row of V zero: the rest stays",
            "no row of the state sees another",
            unless=_one_row,
        ),
        Relation("layout", "states [K, V] and [V, K]", "one computation, laid out in two ways"),
        Relation(
            "packed",
            "a dense batch packed with cu_seqlens, or sequences of one length as a dense batch",
            "the same tokens, found in another way; the contract promises no bits",
            kinds=SEQUENTIAL,
        ),
        Relation(
            "no_state",
            "zero states where none is passed, none where they are zero",
            "no initial state is a zero state; the contract promises no bits",
            kinds=("extend", "recurrent"),
            unless=_state_given,
        ),
        Relation(
            "padding",
            "slots that hold zeros for index -1",
            "promised: index -1 starts from a zero state, and slots change no bits",
            bitwise=True,
            kinds=("extend", "update", "decode", "verify", "verify_commit"),
            unless=_no_padding,
        ),
        Relation(
            "flags",
            "final state, boundary states and the state's update asked for or not, one after another",
            "what else is asked for changes no arithmetic, though it may be another build of the kernel",
            kinds=STATEFUL,
            unless=_no_flag,
        ),
        Relation(
            "segments",
            "segments from a zero state, combined by their transitions in float64",
            "linear in the state: S_out = S_in A + B, with A of q, k, g and beta alone",
            kinds=(*STATEFUL, "packed_decode"),
            unless=_no_segments,
        ),
    )
}


def get(name: str) -> Relation:
    """Find the relation of a name. Raises ValueError, with all names, if there is none."""
    if name not in RELATIONS:
        raise ValueError(f"unknown relation {name!r}; known: {', '.join(RELATIONS)}")
    return RELATIONS[name]


def applicable(op: str, target: str, has: tuple[str, ...]) -> tuple[str, ...]:
    """Name the relations that can apply to an operation of a target. has: the operations it implements."""
    return tuple(
        relation.name
        for relation in RELATIONS.values()
        if relation.takes(OPERATIONS[op]) and missing(relation.name, op, target, has) is None
    )


def counterpart(name: str, op: str, has: tuple[str, ...]) -> str | None:
    """Name the operation of a relation's other calls; None if the target has none of the kind."""
    family, kind = op.split(".")
    kinds: tuple[str, ...] = (kind,)
    if name == "recurrent":
        kinds = ("recurrent", "update")
    elif name == "channels":
        family = "kda"
    elif name == "steps":
        kinds = ("update",) if kind == "update" else ("decode",)
    elif name == "stored":
        kinds = ("verify",)
    return next((other for k in kinds if (other := f"{family}.{k}") in has), None)


def missing(name: str, op: str, target: str, has: tuple[str, ...]) -> str | None:
    """Say what a target lacks that a relation needs, or None."""
    if name == "layout":
        if target not in LAYOUTS:
            return f"{target} has one layout"
        return None if len(OPERATIONS[op].layouts) > 1 else f"{op} has one layout"
    if counterpart(name, op, has) is None:
        return f"{target} has no counterpart of {op}"
    return None


LAYOUTS = {"vk": "kv", "kv": "vk"}  # targets that are one another but for the layout of states
