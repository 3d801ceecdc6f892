"""Limits how large a case may be, so that a backend gets through many of them.

The interpreter pays for each program and each token of it, whatever their width. A GPU pays for the noise of
the case: the reference computation walks every token of every state, several times.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffgdn.cases.case_checks import MAX_TREE_STEPS
from diffgdn.cases.operations import OPERATIONS
from diffgdn.strategies.menu import STATES, Build

# Interpreter: programs of a chunk kernel (chunks * value heads), or tokens walked by programs of the
# recurrent kernel.
CHUNKS, CHUNKS_ROOMY = 8, 24
STEPS, STEPS_ROOMY = 24, 80
# GPU: tokens in all, and elements that the reference walks (tokens * value heads * K * V).
TOKENS, TOKENS_ROOMY = 300, 1500
WALK, WALK_ROOMY = 2_000_000, 24_000_000
# Elements of a pool or an intermediate buffer, and slots of a pool.
POOL = {"interpret": 300_000, "gpu": 2_000_000}
SLOTS = {"interpret": 40, "gpu": 100}
STEPS_MORE = (0, 0, 1, 3)  # than the longest sequence has tokens, in an intermediate buffer
MOST_STEPS_MORE = max(STEPS_MORE)

# Longest sequence by kind, where the sum allows it: (interpret, gpu), each (usual, roomy).
LONGEST = {
    "recurrent": ((12, 40), (100, 400)),
    "update": ((8, 24), (32, 100)),
    "decode": ((4, 8), (8, 32)),
    "packed_decode": ((1, 1), (1, 1)),
    "verify": ((6, 12), (12, 40)),
    "verify_commit": ((6, 12), (12, 40)),
}
# Tokens of a sequence in the interpreter, now and then: what loops over a tree loops again past 32.
LONG_DRAFT = 40
LONG_KINDS = ("verify", "verify_commit", "recurrent")


@dataclass(frozen=True)
class Room:
    """What a batch may hold.

    grain: tokens that cost one unit of budget, whole or begun. longest: tokens of a sequence. sequences: how
    many. slots: slot indices stay below it. states: how many there is memory for. long: one sequence may take
    the whole budget.
    """

    grain: int
    budget: int
    longest: int
    sequences: int
    slots: int
    states: int
    long: bool = False

    def cost(self, length: int) -> int:
        """Return the units of budget that a sequence of `length` tokens costs."""
        return -(-length // self.grain)


def room(op: str, backend: str, build: Build, HV: int, roomy: bool, long: bool = False) -> Room:
    """Return the room of a case with HV value heads; roomy: the rare larger one.

    long: one sequence of LONG_KINDS may be as long as LONG_DRAFT, in the interpreter.
    """
    kind, state = OPERATIONS[op].kind, HV * build.K * build.V
    grain = build.chunk_size if kind == "extend" else 1
    if backend == "interpret" and kind == "extend":
        # Two chunks at least, or no case with many heads would ever cross a boundary.
        budget = max(2, (CHUNKS_ROOMY if roomy else CHUNKS) // HV)
        longest, sequences = budget * grain, 10 if roomy else 5
    elif backend == "interpret":
        budget = max(3, (STEPS_ROOMY if roomy else STEPS) // HV)
        longest, sequences = min(LONGEST[kind][0][roomy], budget), max(2, min(8, budget))
        if long and kind in LONG_KINDS and LONG_DRAFT * HV <= STEPS_ROOMY:
            budget = longest = LONG_DRAFT
    else:
        walk = (WALK_ROOMY if roomy else WALK) // state
        tokens = max(8, min(TOKENS_ROOMY if roomy else TOKENS, walk))
        budget = max(2, tokens // grain) if kind == "extend" else tokens
        longest = budget * grain if kind == "extend" else min(LONGEST[kind][1][roomy], budget)
        sequences = min(40 if roomy else 12, tokens)
        if build.tree:
            longest = min(longest, MAX_TREE_STEPS - MOST_STEPS_MORE)
        if OPERATIONS[op].drafts or build.steps:  # the state after every step is kept, and compared
            sequences = min(sequences, max(1, walk // (4 * longest)))
        if not build.crowded:
            sequences = max(1, min(sequences, STATES // HV))
    states = POOL[backend] // state
    slots = max(2, min(SLOTS[backend], states))
    return Room(grain, budget, longest, sequences, slots, states, longest == LONG_DRAFT == budget)
