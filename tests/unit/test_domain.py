"""Which values cases have, what they can reach and do reach, and how a campaign counts and tells it."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from diffgdn import campaign, strategies
from diffgdn.campaign import events
from diffgdn.campaign.coverage import Counts, Coverage
from diffgdn.campaign.drawn import drawn
from diffgdn.cases import axis_values
from diffgdn.cases.axis_values import values
from diffgdn.cases.case import Case, Edit, Gates, Pool, Values
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cases.promises import EVERYTHING, Promises
from diffgdn.cases.spans import Span
from diffgdn.cases.trace import Trace
from diffgdn.cases.trace_steps import Step
from diffgdn.report import coverage_table
from diffgdn.report.console import ConsoleReport
from diffgdn.report.jsonfile import summary
from diffgdn.report.tally import Tally
from diffgdn.strategies import apart
from diffgdn.strategies.domain import Domain, domain
from diffgdn.strategies.informative import make_informative

TOYS = Path(__file__).with_name("toys.py")
EVERY = tuple(OPERATIONS)
VALUES_WITHIN = 2000  # cases, over all operations
NARROW = Promises(
    dtype=("bfloat16",),
    state_dtype=("float32", "q"),
    K=(64, 128),
    V=Span(32, 128, multiple=32),
    H=(2, 4),
    ratio=(1, 2),
    length=Span(1, 20),
    empty=False,
    padding=False,
    batch=("packed", "batched"),
    scale=("default",),
    tree=(False,),
    pitch=(0,),
)

# Every value that cases must keep reaching in the interpreter: one that a strategy loses is missed here even
# if the domain, which is made of the strategies' tables, loses it too.
WORDS = {
    "A_log": "bfloat16, float16, float32",
    "alignment": "128, 16, 2, 256, 32, 4, 64, 8",
    "before": "bigger_batch, new_values, none, other_chunk_size, other_dtype, other_gate, other_gate_dtype, "
    "other_l2norm, other_outputs, other_scale, other_state_dtype, other_strides, same, smaller_batch",
    "cache_steps": "buffer, longest, none",
    "dt_bias": "bfloat16, float16, float32, none",
    "indices": "no, yes",
    "initial_flags": "no, yes",
    "mixed_beta": "no, yes",
    "mixed_qkv": "no, yes",
    "neg_eigval": "no, yes",
    "no_beta": "no, yes",
    "output": "no, yes",
    "raw_beta": "no, yes",
    "softplus": "no, yes",
    "step_rows": "given, slots",
    "step_update": "no, yes",
    "strides": "compact, far bounds, far buffers, far indices, far outputs, far states, far tokens, "
    "far trees, far weights, gapped bounds, gapped buffers, gapped indices, gapped outputs, gapped states, "
    "gapped tokens, "
    "gapped trees, gapped weights, lying buffers, lying indices, lying outputs, lying states, lying tokens, "
    "lying trees, lying weights, nested buffers, nested outputs, nested states, nested tokens, nested trees, "
    "nested weights, wide tokens",
    "token_slots": "no, yes",
    "track": "no, yes",
    "H": "1, 2, 3",
    "HV": "1, 2, 3, 4, 5 to 8, 9 to 16",
    "K": "1, 128, 129 to 255, 16, 17 to 31, 2 to 15, 256, 32, 33 to 63, 64, 65 to 127",
    "V": "1, 128, 129 to 255, 16, 17 to 31, 2 to 15, 256, 32, 33 to 63, 64, 65 to 127",
    "batch": "batched, dense, packed",
    "batch_invariant": "no, yes",
    "behind": "a part, an empty one, whole chunks",
    "beta_law": "exact, half, near_one, one, two, uniform, zero",
    "boundary": "no, yes",
    "chunk_size": "16, 32, 64",
    "chunks": "0, 1, a chunk, a chunk and one, a chunk less one, chunks, chunks and a part, chunks and one, "
    "less than a chunk",
    "cu_dtype": "int32, int64",
    "dtype": "bfloat16, float16, float32",
    "edits": "g, k, none, q, v",
    "final": "no, yes",
    "gate_dtype": "bfloat16, float16, float32",
    "gate_law": "alternating, checkpoint, constant, exact, extreme, huge, jump, mixed, model, "
    "threshold, underflow, uniform, zero",
    "index_dtype": "int32, int64",
    "initial_state": "no, yes",
    "inplace": "no, yes",
    "jump": "chunk's edge, first token, later token",
    "l2norm": "no, yes",
    "length": "0, 1, 2, 3 to 4, 5 to 8, 9 to 32, more than 32",
    "lower_bound": "-1 to -5, -5, none, over -1, under -5",
    "order": "ascending, descending, shuffled",
    "padding": "all, none, some",
    "pitch": "0, aligned, far, unaligned",
    "q_exponent": "0, above 0, below 0",
    "ratio": "1, 2, 3, 4",
    "raw_gates": "no, yes",
    "scale": "0, 1, above 1, below 1, default",
    "sequences": "1, 2, 3 to 8, 9 to 64, more than 64",
    "shared": "no, yes",
    "slot_zero": "no, yes",
    "spare_steps": "no, yes",
    "square": "no, yes",
    "state_dtype": "bfloat16, float16, float32",
    "state_law": "law, zero",
    "steps": "no, yes",
    "strength": "1, 1/16 to 1, over 1, under 1/16",
    "tail": "0, 1, more",
    "tree": "branching, chain, none",
    "unkept": "no, yes",
    "v_exponent": "0, above 0, below 0",
    "value_law": "exact, normal, ones, parallel, spiky, uniform, zero_rows",
    "view": "contiguous, gapped, packed",
}


@cache
def counted(cases: int, seed: int = 1, promises: Promises = EVERYTHING) -> Counts:
    """What so many cases over all operations reach, in the interpreter."""
    return drawn(EVERY, -(-cases // len(EVERY)), seed=seed, promises=promises)


def words(counts: Counts, axis: str) -> str:
    found = [axis_values.word(value) for value in counts.values if axis_values.axis(value) == axis]
    return ", ".join(sorted(found))


class TestValues:
    def test_of_an_extend(self) -> None:
        case = Case(
            op="kda.extend",
            lens=(32, 17, 0, 15),
            H=2,
            HV=6,
            K=48,
            dtype="bfloat16",
            pool=Pool(9, (3, -1, 0, 2), pitch=2**31, dtype="float16"),
            gates=Gates(law="jump", at=31, strength=0.01, raw=True, lower_bound=-5.0),
            values=Values(v_exponent=-3),
            chunk_size=16,
            edits=(Edit("v", 0, 1.0), Edit("k", 0, 1.0)),
            scale=0.25,
        )
        assert set(values(case)) >= {
            "operation=kda.extend",
            "chunks=chunks",
            "chunks=a chunk and one",
            "chunks=0",
            "chunks=a chunk less one",
            "behind=whole chunks",
            "behind=an empty one",
            "sequences=3 to 8",
            "HV=5 to 8",
            "ratio=3",
            "K=33 to 63",
            "V=16",
            "square=no",
            "pitch=far",
            "padding=some",
            "slot_zero=yes",
            "lower_bound=-5",
            "jump=chunk's edge",
            "strength=under 1/16",
            "v_exponent=below 0",
            "edits=k",
            "edits=v",
            "scale=below 1",
        }
        assert "edits=none" not in values(case)
        assert "behind=a part" not in values(case)  # what comes behind 17 tokens is empty

    def test_of_a_tree(self) -> None:
        pool = Pool(1, (0,), steps=4, buffer=1, rows=(0,))
        case = Case(op="gdn.verify", lens=(3,), pool=pool, parents=((-1, 0, 0),))
        assert {"tree=branching", "length=3 to 4", "spare_steps=yes"} <= set(values(case))
        assert "tree=chain" in values(replace(case, parents=((-1, 0, 1),)))
        assert "tree=none" in values(replace(case, parents=()))

    def test_what_no_axis_asks_is_not_there(self) -> None:
        case = Case(op="gdn.extend", lens=(4, 4), pool=Pool(indices=(-1, -1)), values=Values(state="none"))
        axes = {axis_values.axis(value) for value in values(replace(case, packed=False))}
        assert axes.isdisjoint(
            {"pitch", "padding", "cu_dtype", "tail", "state_law", "jump", "length", "tree"}
        )

    @pytest.mark.parametrize(
        ("n", "said"),
        [
            (1, "1"),
            (2, "2 to 15"),
            (16, "16"),
            (31, "17 to 31"),
            (128, "128"),
            (129, "129 to 255"),
            (256, "256"),
        ],
    )
    def test_dimensions(self, n: int, said: str) -> None:
        assert axis_values.dim(n) == said

    def test_of_a_trace_are_its_steps(self) -> None:
        steps = (Step("arrive", (0,)), Step("decode", (0,)), Step("decode", (0,)), Step("finish", (0,)))
        assert values(Trace("gdn", steps)) == (
            "family=gdn",
            "next=arrive, decode",
            "next=decode, decode",
            "next=decode, finish",
            "step=arrive",
            "step=decode",
            "step=finish",
        )


class TestDomain:
    def test_every_value_is_reached_within_2000_cases(self) -> None:
        counts = counted(VALUES_WITHIN)
        known = domain(EVERY)
        assert set(known.values) & {*Coverage(known, counts).missed_values()} == set()
        assert {axis: words(counts, axis) for axis in WORDS} == WORDS

    def test_rare_things_meet(self) -> None:
        """Far arguments that are not aligned; rows named by slots where fewer steps are asked for."""
        pairs = counted(VALUES_WITHIN).pairs
        assert any(pairs[f"alignment={n}", "strides=far tokens"] for n in (2, 4, 8))
        assert pairs["cache_steps=longest", "step_rows=slots"] + pairs["cache_steps=none", "step_rows=slots"]

    def test_cases_have_nothing_that_is_declared_impossible(self) -> None:
        assert Coverage(domain(EVERY), counted(VALUES_WITHIN)).outside() == []

    def test_nor_inside_promises(self) -> None:
        counts = counted(600, promises=NARROW)
        known = domain(EVERY, promises=NARROW)
        assert Coverage(known, counts).outside() == []
        assert not {value for value in counts.values if axis_values.axis(value) in known.axes} - set(
            known.values
        )

    def test_promises_narrow_it(self) -> None:
        known = domain(EVERY, promises=NARROW)
        said = {
            axis: {axis_values.word(v) for v in known.values if axis_values.axis(v) == axis}
            for axis in known.axes
        }
        assert said["K"] == {"64", "128"}
        assert said["V"] == {"32", "64", "65 to 127", "128"}
        assert said["batch"] == {"packed", "batched"}
        assert said["length"] == {"1", "2", "3 to 4", "5 to 8", "9 to 32"}
        assert said["tree"] == {"none"}
        assert said["padding"] == {"none"}
        assert ("HV" in said, said["HV"]) == (True, {"2", "4", "5 to 8"})

    @pytest.mark.parametrize("number", range(3))
    def test_nor_on_the_menu_of_a_gpu_campaign(self, number: int) -> None:
        menu = strategies.Menu.draw(number, EVERY, backend="gpu")
        counts = drawn(EVERY, 30, seed=number, backend="gpu", menu=menu)
        assert Coverage(domain(EVERY, backend="gpu", menu=menu), counts).outside() == []
        assert Coverage(domain(EVERY, backend="gpu"), counts).outside() == []

    def test_a_menu_has_no_more_than_all_builds(self) -> None:
        menu = strategies.Menu.draw(1, EVERY, backend="gpu")
        known, every = domain(EVERY, backend="gpu", menu=menu), domain(EVERY, backend="gpu")
        assert set(known.values) <= set(every.values)
        assert set(known.pairs()) < set(every.pairs())

    def test_what_plain_cases_alone_have_is_not_wanted(self) -> None:
        known = domain(("gdn.decode",))
        assert "value_law=ones" in known.values
        assert known.partners["value_law=ones"] == frozenset()
        assert "beta_law=uniform" in known.plain["value_law=ones"]
        case = Case(op="gdn.decode")
        assert {("beta_law=one", "value_law=ones")} <= set(_pairs(values(case)))
        assert make_informative(case) != case

    def test_of_one_operation_it_has_what_that_takes(self) -> None:
        """On the axes of operands, options, lays and earlier calls too, in the interpreter and on a GPU."""
        interpreted, gpu = domain(("gdn.packed_decode",)), domain(("gdn.packed_decode",), backend="gpu")
        for found in ({*interpreted.values}, {*gpu.values, *gpu.declared}):
            assert {"strides=gapped outputs", "strides=lying weights", "dt_bias=none"} <= found
            axes = {axis_values.axis(value) for value in found}
            assert axes.isdisjoint({"track", "mixed_qkv", "softplus", "token_slots", "raw_beta"})
            assert found.isdisjoint({"strides=wide tokens", "strides=nested weights", "strides=gapped trees"})
            assert found.isdisjoint({"before=other_chunk_size", "before=other_outputs"})
        other = {"before=other_scale", "before=other_state_dtype"}  # which are compiled for
        assert other <= {*interpreted.values}
        assert other.isdisjoint(gpu.declared)

    def test_earlier_calls_are_promised_too(self) -> None:
        promises = Promises(dtype=("bfloat16",), gate_dtype=("q",), chunk_size=(64,), l2norm=(True,))
        found = {*domain(("kda.extend",), promises=promises).values}
        apart = {"before=other_dtype", "before=other_gate_dtype", "before=other_chunk_size"}
        assert found.isdisjoint({*apart, "before=other_l2norm", "mixed_qkv=yes"})
        assert {"before=other_state_dtype", "before=other_gate", "before=other_scale"} <= found
        assert {"before=none"} == {
            value
            for value in domain(("kda.extend",), promises=Promises(company=False)).values
            if value.startswith("before=")
        }

    def test_every_pair_has_its_mirror(self) -> None:
        known = domain(EVERY)
        assert all(one in known.partners[other] for one in known.values for other in known.partners[one])
        assert not any(known.partners[value] & known.plain[value] for value in known.values)

    def test_every_rule_is_about_something(self) -> None:
        """A word that was misspelt would keep nothing apart."""
        gpu = domain(EVERY, backend="gpu")
        known = {*domain(EVERY).values, *gpu.values, *gpu.declared}
        for rule in (*apart.APART, *apart.PLAIN, *apart.SELDOM):
            assert any(apart.table([rule], known).values()), rule


def _pairs(found: tuple[str, ...]) -> set[tuple[str, str]]:
    return {(one, other) for one in found for other in found if one < other}


KNOWN = Domain(
    values=("K=1", "K=16", "dtype=float32"),
    partners={
        "K=1": frozenset({"dtype=float32"}),
        "K=16": frozenset({"dtype=float32"}),
        "dtype=float32": frozenset({"K=1", "K=16"}),
    },
    plain={},
)


class TestCoverage:
    def test_counts_values_and_pairs(self) -> None:
        counts, other = Counts(), Counts()
        counts.add(Case(op="gdn.decode"))
        other.add(Case(op="gdn.decode"))
        other.add(Case(op="gdn.decode", K=1))
        counts.merge(other)
        assert counts.cases == 3
        assert (counts.values["K=16"], counts.values["K=1"], counts.values["dtype=float32"]) == (2, 1, 3)
        assert counts.pairs["K=16", "dtype=float32"] == 2

    def test_says_what_was_missed(self) -> None:
        coverage = Coverage(KNOWN)
        coverage.counts.add(Case(op="gdn.decode"))
        assert coverage.missed_values() == ["K=1"]
        assert coverage.missed_pairs() == [("K=1", "dtype=float32")]
        assert coverage.axes()["K"] == {"1": 0, "16": 1}

    def test_says_what_the_domain_does_not_hold(self) -> None:
        coverage = Coverage(replace(KNOWN, partners=KNOWN.partners | {"K=16": frozenset()}))
        coverage.counts.add(Case(op="gdn.decode"))
        assert coverage.outside() == [("K=16", "dtype=float32")]

    def test_pairs_of_axes_that_only_cases_know(self) -> None:
        coverage = Coverage(KNOWN)
        coverage.counts.add(Case(op="gdn.decode", K=1, view="packed"))
        coverage.counts.add(Case(op="gdn.decode", view="gapped"))
        perhaps = coverage.perhaps()
        assert ("K=1", "view=gapped") in perhaps
        assert ("K=1", "view=packed") not in perhaps
        assert ("view=gapped", "view=packed") not in perhaps

    def test_lines_name_what_is_missing(self) -> None:
        coverage = Coverage(KNOWN)
        coverage.counts.add(Case(op="gdn.decode"))
        assert coverage_table.lines(coverage) == [
            "coverage of 1 case: 2 of 3 values, 1 of 2 pairs of values",
            "values not reached: K=1",
            "pairs not reached, those that were most likely first: K=1 with dtype=float32",
        ]


def run(tmp_path: Path, **options: object) -> tuple[list[events.Event], Tally, str]:
    """A campaign of a toy that has two operations: its events, what they amount to, and the screen."""
    told: list[events.Event] = []
    given = {"operations": EVERY, "workers": 2, "seed": 7, "max_cases": 30, **options}
    config = campaign.Config(f"{TOYS}:right", backend="interpret", corpus=tmp_path, **given)  # type: ignore[arg-type]
    campaign.run(config, told.append)
    tally, screen = Tally(), io.StringIO()
    with ConsoleReport(Console(file=screen, width=160)) as console:
        for event in told:
            tally(event)
            console(event)
    return told, tally, screen.getvalue()


class TestCampaign:
    def test_counts_each_case_once(self, tmp_path: Path) -> None:
        told, tally, screen = run(tmp_path, coverage=True)
        expected = Counts()
        for event in told:
            if isinstance(event, events.CaseRun):
                assert event.case is not None
                expected.add(event.case)
        assert tally.coverage is not None
        assert tally.coverage.counts == expected
        assert expected.cases == 30
        assert tally.coverage.axes()["operation"].keys() == {"gdn.decode", "kda.recurrent"}
        assert tally.coverage.outside() == []
        found = summary(tally)["coverage"]
        assert found["cases"] == 30
        assert found["axes"]["K"]["16"] == expected.values["K=16"]
        assert found["pairs"]["K=16"]["V=16"] == expected.pairs["K=16", "V=16"]
        assert list(tally.coverage.missed_pairs()) == [tuple(pair) for pair in found["missed"]["pairs"]] != []
        assert "coverage of 30 cases: " in screen

    def test_counts_nothing_unless_asked(self, tmp_path: Path) -> None:
        told, tally, screen = run(tmp_path, max_cases=6)
        assert tally.coverage is None
        assert not [event for event in told if isinstance(event, events.Covered)]
        assert "coverage" not in summary(tally)
        assert "coverage" not in screen
