"""Which values of two axes no case has together, and which only cases that prove little.

Each entry names two axes and the words on each: a word, several, or ANY. What depends on numbers that fit
together (dtypes, dimensions, heads and lengths) is not here: `domain` counts it out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diffgdn.cases import axis_values, operand_options
from diffgdn.cases.axis_values import NONE, UNSIZED
from diffgdn.cases.lay import FORMS, KINDS
from diffgdn.strategies.informative import STEADY
from diffgdn.strategies.laws import AT_THRESHOLD

ANY = ()
EVERY_AXIS = "*"  # in place of the name of one
MANY = ("9 to 64", "more than 64")


@dataclass(frozen=True)
class Not:
    """All words of an axis but these."""

    words: tuple[str, ...]


Words = str | tuple[str, ...] | Not
Rule = tuple[str, Words, str, Words]

# Kinds of operations in which gates and beta come raw or not, each by itself; elsewhere both do.
EITHER_FORM: tuple[str, ...] = getattr(operand_options, "EITHER_FORM", ())
RAW: tuple[tuple[str, Words], ...] = (("raw_gates", "yes"), ("lower_bound", ANY))
OPERANDS: tuple[Rule, ...] = (
    # What goes with raw gates alone, and with a beta alone.
    *[("raw_gates", "no", axis, ANY) for axis in ("A_log", "dt_bias")],
    *[("edits", "g", axis, ANY) for axis in ("A_log", "dt_bias")],
    *[("no_beta", "yes", axis, ANY) for axis in ("raw_beta", "mixed_beta", "neg_eigval")],
    ("raw_beta", "no", "neg_eigval", ANY),
    ("beta_law", "two", "neg_eigval", ANY),
    # Of fp32 q, beta has no other dtype.
    ("dtype", "float32", "mixed_beta", "yes"),
    # A threshold is looked for with gates at it, or with such as only decay a state.
    ("softplus", ANY, "lower_bound", Not((NONE,))),
    ("softplus", "yes", "gate_law", Not((AT_THRESHOLD, "uniform", "zero", "exact"))),
    ("softplus", "no", "gate_law", AT_THRESHOLD),
    ("lower_bound", Not((NONE,)), "gate_law", AT_THRESHOLD),
    ("softplus", "yes", "jump", ANY),
    ("softplus", "yes", "strength", ("1", "over 1", "under 1/16")),
)
OF_STEPS = ("step_update", "step_rows", "cache_steps", "token_slots")
STATES: tuple[Rule, ...] = (
    *[("steps", "no", axis, ANY) for axis in OF_STEPS],
    *[("inplace", ANY, axis, ANY) for axis in OF_STEPS],
    ("inplace", "no", "output", "no"),
    # Slots for each token stand in place of a buffer and its rows, and take no trees.
    *[("token_slots", "yes", axis, ANY) for axis in ("step_update", "step_rows", "cache_steps")],
    *[("token_slots", "yes", axis, ANY) for axis in ("unkept", "spare_steps")],
    ("token_slots", "yes", "tree", ("chain", "branching")),
    # Where a state is written to a slot, or to a row of its number, no other sequence has it.
    ("shared", "yes", "step_update", "yes"),
    ("shared", "yes", "token_slots", "yes"),
    ("shared", "yes", "step_rows", "slots"),
    ("step_rows", "slots", "unkept", "yes"),
    # Without slots sequence n is in row n; without a state there are none.
    ("indices", "no", "padding", ("some", "all")),
    ("indices", "no", "shared", "yes"),
    ("indices", "no", "slot_zero", "no"),
    *[("initial_state", "no", axis, ANY) for axis in ("indices", "initial_flags")],
)
WEIGHTS = tuple(f"{form} weights" for form in FORMS)
BUFFERS = tuple(f"{form} buffers" for form in FORMS)
TREES = tuple(f"{form} trees" for form in FORMS)
INDICES = tuple(f"{form} indices" for form in FORMS)
LYING = tuple(f"lying {kind}" for kind in KINDS)
LYING_INDICES = "lying indices"  # of one sequence
WIDE = "wide tokens"  # of several sequences, as many tokens each
LAYS: tuple[Rule, ...] = (
    ("strides", "compact", "alignment", Not(("256",))),
    ("strides", Not(("compact",)), "alignment", "256"),
    # Arguments that a case does not have.
    ("batch", "dense", "strides", tuple(f"{form} bounds" for form in FORMS)),
    ("raw_gates", "no", "strides", WEIGHTS),
    ("edits", "g", "strides", WEIGHTS),
    ("initial_state", "no", "strides", (*(f"{form} states" for form in FORMS), *INDICES)),
    ("steps", "no", "strides", (*BUFFERS, *TREES)),
    ("inplace", ANY, "strides", (*BUFFERS, *TREES)),
    ("tree", NONE, "strides", TREES),
    ("dt_bias", NONE, "strides", "nested weights"),
    ("token_slots", "yes", "strides", (*INDICES, *BUFFERS, *TREES)),
    ("indices", "no", "strides", INDICES),
    # Tables of one sequence, and of several.
    ("sequences", "1", "strides", (*(one for one in INDICES if one != LYING_INDICES), WIDE)),
    *[
        ("strides", LYING_INDICES, axis, words)
        for axis, words in (
            ("sequences", Not(("1",))),
            ("padding", "some"),
            ("shared", "yes"),
            ("behind", ANY),
            ("before", "smaller_batch"),
        )
    ],
    # A batch of rows has as many tokens in each.
    ("strides", WIDE, "batch", "packed"),
    ("strides", WIDE, "sequences", MANY[1]),
    ("strides", WIDE, "tail", ANY),
    ("strides", WIDE, "length", "0"),
    ("strides", WIDE, "chunks", "0"),
    ("strides", WIDE, "behind", "an empty one"),
)
EARLIER: tuple[Rule, ...] = (
    ("before", Not((NONE,)), "pitch", "far"),  # a far pool is not made twice
    ("before", "smaller_batch", "sequences", "1"),
    ("before", "other_gate", "raw_gates", "no"),
    ("before", "other_gate", "edits", "g"),
    ("before", "other_gate_dtype", "dtype", "float32"),
    ("before", "other_state_dtype", "initial_state", "no"),
    # What writes the state, or does not, writes it where these do.
    ("before", "other_outputs", "step_update", "yes"),
    ("before", "other_outputs", "token_slots", "yes"),
)

BESIDE_RAW: tuple[tuple[str, Words], ...] = (  # what raw gates bring along
    ("A_log", ANY),
    ("dt_bias", ANY),
    ("strides", WEIGHTS),
    ("before", "other_gate"),
)

# No case has both, whatever is drawn: the contract of the operations has it so, or the strategies do.
APART: tuple[Rule, ...] = (
    # A dense batch has no cu_seqlens, no padding tokens and no sequence without tokens.
    ("batch", "dense", "cu_dtype", ANY),
    ("batch", "dense", "tail", ANY),
    ("batch", ("dense", "batched"), "length", "0"),
    ("batch", "dense", "chunks", "0"),
    ("batch", "dense", "behind", "an empty one"),
    ("batch", "batched", "tail", ANY),
    ("batch", "dense", "sequences", "more than 64"),
    # Without a state nothing lies in a pool, and nothing can be exact.
    *[
        ("initial_state", "no", axis, ANY)
        for axis in ("pitch", "padding", "shared", "slot_zero", "inplace", "state_law")
    ],
    ("initial_state", "no", "value_law", "exact"),
    # Where update keeps no steps there is no buffer; where it does, it writes no state.
    *[("steps", "no", axis, ANY) for axis in ("tree", "unkept", "spare_steps")],
    ("steps", "yes", "inplace", ANY),
    *[("inplace", ANY, axis, ANY) for axis in ("tree", "unkept", "spare_steps")],
    # Gates that come computed have no bound, of raw ones there is no g to edit; a sigmoid cannot be 2.
    ("raw_gates", "no", "lower_bound", ANY),
    *[(axis, words, "beta_law", "two") for axis, words in ((("raw_beta", "yes"),) if EITHER_FORM else RAW)],
    ("raw_gates", "yes", "edits", "g"),
    ("lower_bound", ANY, "edits", "g"),
    # Slots: of one sequence, of none that is live, and where two may name the same.
    ("sequences", "1", "padding", "some"),
    ("sequences", "1", "shared", "yes"),
    ("sequences", "1", "behind", ANY),
    ("padding", "all", "shared", "yes"),
    ("padding", "all", "slot_zero", "yes"),
    ("padding", "all", "unkept", "yes"),
    ("padding", "all", "value_law", "exact"),
    ("shared", "yes", "inplace", "yes"),
    # A far pool holds two or three slots, of two sequences at most, the first of which is live.
    ("pitch", "far", "state_dtype", "float32"),
    ("pitch", "far", "sequences", ("3 to 8", *MANY)),
    ("pitch", "far", "padding", "all"),
    ("pitch", "far", "shared", "yes"),
    # Laws under which nothing rounds.
    ("value_law", "exact", "l2norm", "yes"),
    ("value_law", "exact", "gate_law", Not(("zero", "exact"))),
    ("value_law", "exact", "beta_law", Not(("one", "zero", "exact"))),
    ("value_law", "exact", "v_exponent", Not(("0",))),
    ("value_law", "exact", "q_exponent", Not(("0",))),
    ("value_law", "exact", "edits", Not((NONE,))),
    ("value_law", "exact", "strength", ANY),
    ("value_law", "exact", "jump", ANY),
    ("gate_law", UNSIZED, "strength", ANY),
    ("gate_law", Not(("jump",)), "jump", ANY),
    *OPERANDS,
    *STATES,
    *LAYS,
    *EARLIER,
)

LONG = Not(("0", "1"))
# Only cases that are left as they were drawn have both (`informative`): wrong results could pass there, so no
# share of them is looked after.
PLAIN: tuple[Rule, ...] = (
    ("value_law", "ones", EVERY_AXIS, ANY),
    ("value_law", "zero_rows", "padding", "all"),
    ("value_law", "exact", "state_law", "zero"),
    ("beta_law", "zero", "gate_law", Not(STEADY)),
    ("beta_law", "zero", "strength", Not(("1/16 to 1",))),
    ("beta_law", "zero", "jump", ANY),
    ("beta_law", "zero", "state_law", "zero"),
    ("beta_law", "zero", "value_law", "exact"),
    ("beta_law", "zero", "padding", "all"),
    ("beta_law", "zero", "initial_state", "no"),
    ("beta_law", "exact", "padding", "all"),
    *[(axis, words, "beta_law", "two") for axis, words in (*RAW, *BESIDE_RAW) if EITHER_FORM],
    ("K", "1", "scale", ("1", "default")),
    ("jump", "first token", "strength", ("1", "over 1")),
    ("jump", "first token", "length", LONG),
    ("jump", "first token", "chunks", LONG),
    ("jump", "first token", "behind", "whole chunks"),
    ("jump", "first token", "tree", "branching"),
)
# What there is room for is drawn too seldom to look after a share of it.
SELDOM: tuple[Rule, ...] = (
    ("strides", WIDE, "length", "more than 32"),  # two long sequences
    ("strides", (WIDE, *LYING), "sequences", MANY),
    ("before", Not((NONE,)), "sequences", MANY),
)


def table(rules: Iterable[Rule], values: Iterable[str]) -> dict[str, set[str]]:
    """Return, for each of these values, those that the rules keep from it."""
    values = tuple(values)
    out: dict[str, set[str]] = {value: set() for value in values}
    for one, some, other, more in rules:
        left = [value for value in values if _named(value, one, some)]
        right = [value for value in values if _named(value, other, more)]
        for value in left:
            out[value].update(right)
        for value in right:
            out[value].update(left)
    return out


def _named(value: str, axis: str, words: Words) -> bool:
    """Tell whether a rule names a value."""
    if axis == EVERY_AXIS:
        return True
    if axis_values.axis(value) != axis:
        return False
    said = axis_values.word(value)
    if isinstance(words, Not):
        return said not in words.words
    return said == words if isinstance(words, str) else words == ANY or said in words
