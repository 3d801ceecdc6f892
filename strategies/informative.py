"""Keeps cases from proving nothing: combinations of laws under which wrong results would equal right ones.

`diffgdn.verdict.vacuity` measures which those are. Each rule below names the wrong results that it is about.
"""

from __future__ import annotations

from dataclasses import replace

from diffgdn.cases.case import Case, Gates, Values
from diffgdn.cases.promises import EVERYTHING, Promises

# One case in so many is left as it was drawn: the plainest combinations stay in reach, and shrinking, for
# which this is the simplest choice, always finds the way to them.
LEFT_AS_DRAWN = 200
FEW_ROWS = 4  # rows of q, and of k, of which a third are zero under "zero_rows"
FEW_HEADS = 3  # heads, over all sequences, of which a quarter have beta zero at a token under "exact"
FEW_GATES = 6  # gates of a token, over all sequences, which all forget too often under "huge"
STEADY = ("constant", "uniform")  # gates that decay at every token
GENTLE = 0.125  # a strength at which what was before a token is still seen after it, under any law but "huge"


def make_informative(case: Case, own: Promises = EVERYTHING) -> Case:
    """Return the case with other laws if its own would let wrong results pass, else the case itself.

    own: what is promised of its operation.
    """
    values, gates = _values(case), _gates(case)
    scale = case.scale
    if case.K == 1 and case.effective_scale == 1.0 and "given" in own.scale:
        scale = 0.5  # with beta one, o = (q k) v, where q k is 1 or -1: "input v"
    if (values, gates, scale) == (case.values, case.gates, case.scale):
        return case
    return replace(case, values=values, gates=gates, scale=scale)


def _lens(case: Case) -> list[int]:
    """Return the lengths of sequences that have tokens and, if there is a pool, a slot."""
    slots = case.pool.indices if case.operation.has_pool else (0,) * len(case.lens)
    return [length for slot, length in zip(slots, case.lens, strict=True) if slot >= 0 and length > 0]


def _values(case: Case) -> Values:
    """Return the laws of q, k, v and the state under which wrong results can be told from right ones."""
    values = case.values
    if values.law == "ones":
        # All rows, heads and sequences are equal: "constant", "swapped heads", "neighbour's slot".
        return replace(values, law="normal")
    last = len(_lens(case)) * case.H
    if values.law == "zero_rows" and (sum(_lens(case)) * case.H < FEW_ROWS or last < 2):
        # "zeros"; where the last token's are zero, "last token dropped".
        return replace(values, law="normal")
    if values.law == "exact" and values.state == "zero":
        # Keys and queries pick a few channels each: without a state they hardly ever meet. "zeros".
        return replace(values, state="law")
    return values


def _gates(case: Case) -> Gates:
    """Return the laws of g and beta under which wrong results can be told from right ones."""
    gates, exact = case.gates, case.values.law == "exact"
    # Where beta is zero, or may happen to be in all heads of a token, that token only decays the state:
    # "unchanged state", "last token dropped".
    heads = len(_lens(case)) * case.HV
    if gates.beta == "zero" and case.values.state == "law" and heads and not exact:
        law = gates.law if gates.law in STEADY else "uniform"
        gates = replace(gates, law=law, strength=GENTLE, at=0)
    elif gates.beta == "zero" or (gates.beta == "exact" and heads < FEW_HEADS):
        gates = replace(gates, beta="one" if exact else "uniform")
    if case.K == 1 and gates.beta == "one" and not exact:
        # Each token takes the place of the whole state: "neighbour's slot".
        gates = replace(gates, beta="uniform")
    # Where the first token forgets the initial state: "neighbour's slot".
    if gates.law == "jump" and gates.at == 0:
        one = max(case.lens) <= 1
        return replace(gates, strength=min(GENTLE, gates.strength)) if one else replace(gates, at=1)
    if gates.law == "huge" and heads * (case.K if case.operation.is_kda else 1) < FEW_GATES:
        return replace(gates, strength=min(GENTLE / 16.0, gates.strength))
    return gates
