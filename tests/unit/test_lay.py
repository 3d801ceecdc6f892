"""Strides and alignment of single arguments: how they lie, what is watched, asked, refused and drawn."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from diffgdn.backend import selection

selection.enter(selection.detect())

import torch  # noqa: E402

from diffgdn import targets  # noqa: E402
from diffgdn.cases import lay, size_limits  # noqa: E402
from diffgdn.cases.case import Case, Gates, Pool, Values  # noqa: E402
from diffgdn.cases.lay import FAR, Lay  # noqa: E402
from diffgdn.cases.operations import OPERATIONS  # noqa: E402
from diffgdn.cases.promises import EVERYTHING, Promises  # noqa: E402
from diffgdn.findings import repro  # noqa: E402
from diffgdn.findings.finding import Finding  # noqa: E402
from diffgdn.search import lay_moves  # noqa: E402
from diffgdn.strategies import cases  # noqa: E402
from diffgdn.tensors import inputs  # noqa: E402
from diffgdn.tensors.arena import Arguments  # noqa: E402
from diffgdn.tensors.layout import arrange  # noqa: E402
from diffgdn.verdict import execute  # noqa: E402

DECODE = Case(
    "gdn.decode",
    lens=(2, 2, 2),
    H=3,
    HV=3,
    K=4,
    V=4,
    dtype="bfloat16",
    pool=Pool(4, (3, 0, 2), dtype="bfloat16"),
    gates=Gates("uniform", beta="uniform"),
    values=Values("normal", seed=2),
    packed=False,
)
PACKED = replace(DECODE, packed=True, lens=(1, 2, 3), tail=1, view="packed")
VERIFY = replace(
    PACKED,
    op="kda.verify",
    pool=Pool(3, (2, 0, 1), steps=4, buffer=3, rows=(1, -1, 2)),
    parents=((-1,), (-1, 0), (-1, 0, 0)),
)
ROW = Case(
    "kda.packed_decode", lens=(1, 1), H=1, HV=3, K=4, V=8, pool=Pool(2, (1, 0)), values=Values("normal")
)
STEPWISE = {"decode": DECODE, "packed": PACKED, "verify": VERIFY, "packed_decode": ROW}


def laid(case: Case, **lays: dict[str, Any]) -> Case:
    return replace(case, lay=tuple(Lay(name, **given) for name, given in lays.items()))


def arranged(case: Case) -> Arguments:
    return arrange(case, inputs.draw(case), "cpu")


def every(case: Case, far: bool) -> Case:
    """The case with all arguments nested in another order, with gaps, and not aligned; far: on one axis."""
    lays = []
    for name, shape in lay.shapes(case).items():
        free = len(shape) - (name not in lay.STRIDED)
        gaps = [3 * (axis < free) for axis in range(len(shape))]
        nesting = (*reversed(range(free)), *range(free, len(shape)))
        if far:
            gaps[nesting[0]] = 2 * FAR
        lays.append(Lay(name, tuple(gaps), nesting, 2))
    return replace(case, lay=tuple(lays))


# -- how arguments lie -------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_shapes_that_a_case_knows_are_those_of_its_arguments(op: str) -> None:
    @seed(0)
    @settings(max_examples=20, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases(op))
    def ask(case: Case) -> None:
        arguments = arranged(replace(case, lay=()))
        found = {name: tuple(x.shape) for name, x in arguments.tensors.items() if x is not None}
        joints = {region.name for region in arguments.regions} - set(lay.NAMES)
        without = joints | ({"indices"} if case.state_options.slots else set())
        assert {name: shape for name, shape in found.items() if name not in without} == lay.shapes(case)

    ask()


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("name", STEPWISE)
def test_arguments_hold_the_same_values_wherever_they_lie(name: str, far: bool) -> None:
    plain, other = arranged(STEPWISE[name]), arranged(every(STEPWISE[name], far))
    for argument, shape in lay.shapes(STEPWISE[name]).items():
        x, y = plain[argument], other[argument]
        assert tuple(y.shape) == shape
        if argument == "state":  # the other slots are poison
            x, y = x[list(STEPWISE[name].pool.indices)], y[list(STEPWISE[name].pool.indices)]
        assert torch.equal(x.contiguous().view(torch.int16), y.contiguous().view(torch.int16)), argument
        assert other[argument].data_ptr() % 256 == max(2, x.element_size())
        assert far == (argument in {one.region.name for one in other.far})


def test_gaps_lie_between_what_lies_inside_an_axis() -> None:
    shape = (2, 5, 3, 4)  # with no gaps: 60, 12, 4, 1
    assert lay.strides(shape, Lay("q")) == (60, 12, 4, 1)
    assert lay.strides(shape, Lay("q", (7, 0, 1, 0))) == (14 * 5 + 7 - 0, 14, 5, 1)
    assert lay.strides(shape, Lay("q", (), (2, 0, 1, 3))) == (20, 4, 40, 1)
    assert lay.strides(shape, Lay("q", (0, FAR, 0, 0), (1, 0, 2, 3))) == (12, 24 + FAR, 4, 1)
    assert lay.strides((1, 3), Lay("b", (9, 0))) == (12, 1)
    assert lay.strides((3,), Lay("rows", (2,))) == (3,)


def test_a_pools_pitch_adds_to_the_gap_of_its_slots() -> None:
    case = laid(replace(DECODE, pool=replace(DECODE.pool, pitch=10)), state={"gaps": (5, 0, 0, 0)})
    assert arranged(case)["state"].stride() == (63, 16, 4, 1)


def test_zeros_lie_between_the_elements_of_an_index_vector() -> None:
    for gap in (2, FAR):
        indices = arranged(laid(DECODE, indices={"gaps": (gap,)}))["indices"]
        assert indices.tolist() == [3, 0, 2]
        assert [int(indices.as_strided((1,), (1,), indices.storage_offset() + n)) for n in (1, 2)] == [0, 0]
        before = indices.as_strided((1,), (1,), indices.storage_offset() - 1)
        assert (int(before) == 0) == (gap == FAR)


# -- what is watched ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [5, FAR])
@pytest.mark.parametrize(
    ("argument", "place", "expected"),
    [
        ("q", lambda x: x[1, 0, 2, 3:], ("q", "element", (1, 0, 2, 3))),
        ("state", lambda x: x[3, 1, 2, 1:2], ("state", "element", (3, 1, 2, 1))),
        ("q", lambda x: x.as_strided((1,), (1,), x[1].storage_offset() - 1), ("q", "gap", None)),
        ("state", lambda x: x.as_strided((1,), (1,), x.storage_offset() - 3), ("state", "guard", ())),
    ],
)
def test_a_change_is_named_by_argument_and_place(gap: int, argument: str, place: Any, expected: Any) -> None:
    case = laid(replace(DECODE, inplace=False), **{argument: {"gaps": (gap, 0, 0, 0)}})
    arguments = arranged(case)
    assert arguments.find_change() is None
    before = arguments.bits()
    place(arguments[argument]).fill_(7.0)
    change = arguments.find_change()
    assert change is not None
    tensor, where, index = expected
    assert (change.tensor, change.where, change.count) == (tensor, where, 1)
    assert index is None or change.index == index
    assert not torch.equal(arguments.bits(), before)
    arguments.restore()
    assert torch.equal(arguments.bits(), before)
    assert arguments.find_change() is None


def test_what_is_written_in_a_far_pool_is_no_change_and_stays_written() -> None:
    arguments = arranged(laid(DECODE, state={"gaps": (0, FAR, 0, 0), "nesting": (1, 0, 2, 3)}))
    state = arguments["state"]
    state[[0, 2, 3]] = 5.0
    assert arguments.find_change() is None
    assert bool((state[[0, 2, 3]] == 5.0).all())
    state[1, 2, 3, 3] = 1.0  # of a slot that nothing names, next to one that is
    change = arguments.find_change()
    assert change is not None
    assert (change.tensor, change.where, change.index) == ("state", "element", (1, 2, 3, 3))


# -- cases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([Lay("p")], "lay of 'p': expected one of q, k, v"),
        ([Lay("q"), Lay("q")], "lay: one for each argument, got q, q"),
        ([Lay("q", (1, 1))], "lay of 'q': gaps: 4 or none, got (1, 1)"),
        ([Lay("q", (0, -1, 0, 0))], "lay of 'q': gaps: 0 or more"),
        ([Lay("q", (0, 0, 0, 1))], "lay of 'q': gaps: none on its last axis, which is contiguous"),
        ([Lay("q", (), (0, 1, 3, 2))], "lay of 'q': nesting: its last axis stays innermost"),
        ([Lay("q", (), (0, 0, 1, 3))], "lay of 'q': nesting: the axes 0 to 3 in some order"),
        ([Lay("q", offset=3)], "lay of 'q': offset: an even number"),
        ([Lay("q", offset=256)], "lay of 'q': offset: 0 to 255 bytes"),
    ],
)
def test_what_is_no_lay_is_refused(given: list[Lay], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(DECODE, lay=tuple(given))
    assert str(caught.value).startswith(message)


def test_a_single_channel_of_a_state_is_contiguous_in_either_layout() -> None:
    """As [K, V] its last axis has V indices, where [V, K] has one."""
    gaps = (Lay("state", (0, 0, 0, 5)),)
    with pytest.raises(ValueError, match="none on its last axis"):
        Case("gdn.decode", K=1, V=3, lay=gaps)
    assert Case("gdn.decode", K=1, V=1, lay=gaps).lay == gaps


def test_an_argument_that_is_not_passed_may_have_a_lay_which_says_nothing() -> None:
    case = laid(DECODE, cu_seqlens={"gaps": (3,)}, beta={"gaps": (1,)})
    assert list(lay.placed(case)) == []
    assert list(lay.asked(case)) == []


def test_a_case_with_lays_is_of_format_four_and_read_back() -> None:
    case = every(VERIFY, far=True)
    told = json.loads(json.dumps(case.to_json()))
    assert told["format_version"] == 4
    assert Case.from_json(told) == case
    assert (
        eval(repr(case), {"Case": Case, "Gates": Gates, "Lay": Lay, "Pool": Pool, "Values": Values}) == case
    )


def test_a_case_that_takes_too_much_memory_is_refused() -> None:
    assert size_limits.refusal(every(DECODE, far=True)) is None
    wide = laid(DECODE, q={"gaps": (1 << 40, 0, 0, 0)})
    assert str(size_limits.refusal(wide)).startswith("lay of q: ")


# -- promises ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"q": {"gaps": (5, 0, 0, 0)}}, ["wide tokens"]),
        ({"q": {"gaps": (5, 5, 0, 0)}}, ["gapped tokens", "wide tokens"]),
        ({"b": {"gaps": (0, FAR, 0)}}, ["gapped tokens", "far tokens"]),
        ({"state": {"nesting": (1, 0, 2, 3)}}, ["nested states"]),
        ({"state": {"nesting": (0, 1, 2, 3)}}, []),
        ({"indices": {"gaps": (1,)}}, ["gapped indices"]),
        ({"A_log": {"offset": 4}}, [4]),
        ({"A_log": {"offset": 48}}, [16]),
    ],
)
def test_a_case_asks_for_the_forms_of_its_strides(changes: dict[str, Any], asked: list[Any]) -> None:
    case = laid(DECODE, **changes)
    assert [value for _, value in lay.asked(case)] == asked
    assert set(asked) <= {*lay.STRIDES, *lay.ALIGNMENTS}
    assert EVERYTHING.broken_by(case) is None
    narrow = Promises(strides=("compact",), alignment=(256,)).broken_by(case)
    words = {str: "strides: compact promised, ", int: "alignment: 256 promised, "}
    assert narrow == (f"{words[type(asked[0])]}{asked[0]} asked" if asked else None)


def test_a_gap_on_an_axis_of_one_element_is_a_stride_that_lies() -> None:
    case = laid(PACKED, q={"gaps": (5, 0, 0, 0)})
    assert [value for _, value in lay.asked(case)] == ["lying tokens"]


NARROW = Promises(strides=("gapped states", "gapped indices", "far indices"), alignment=(16, 64))
DRAWN = {
    ("interpret", EVERYTHING): {
        "gapped states",
        "gapped indices",
        "nested states",
        "lying tokens",
        2,
        16,
        32,
    },
    ("interpret", NARROW): {"gapped states", "gapped indices", "far indices", 16, 64},
    ("gpu", EVERYTHING): {"gapped states", "gapped indices", "nested states", "lying tokens", 2, 16, 64},
    ("gpu", NARROW): {"gapped states", "gapped indices", 16, 64},
}


@pytest.mark.parametrize("backend", ["interpret", "gpu"])
@pytest.mark.parametrize("own", [EVERYTHING, NARROW], ids=["everything", "narrow"])
def test_lays_are_drawn_inside_the_promises_in_one_case_of_eight(backend: str, own: Promises) -> None:
    count, some = 0, 0
    asked: set[Any] = set()

    for number in range(8):  # within one seed Hypothesis repeats itself, so a campaign draws by many

        @seed(number)
        @settings(
            max_examples=200,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases("gdn.update", backend=backend, promises=own))
        def ask(case: Case) -> None:
            nonlocal count, some
            assert own.broken_by(case) is None
            count, some = count + 1, some + bool(case.lay)
            asked.update(value for _, value in lay.asked(case))

        ask()
    assert 0.02 < some / count < 0.3
    assert asked >= DRAWN[backend, own]


def test_what_is_drawn_on_a_gpu_keeps_alignments_and_rows_as_the_build_has_them() -> None:
    """But for multiples of 64 elements and 16 bytes, of which kernels see nothing."""

    @seed(1)
    @settings(max_examples=300, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases("gdn.verify", backend="gpu"))
    def ask(case: Case) -> None:
        fixed = [one for one in case.lay if one.offset == 2 or one.gaps[-2:] == (64, 0)]
        for one in case.lay:
            if one not in fixed:
                assert one.offset % 16 == 0
                assert all(gap % 64 == 0 for gap in one.gaps)
                rows = one.tensor in ("state", "buffer") and len(one.gaps) > 2
                assert not rows or one.gaps[-2] == 0

    ask()


# -- shrinking, scripts, our kernels -----------------------------------------------------------------------


def test_moves_leave_out_lays_and_make_gaps_and_offsets_plainer() -> None:
    case = laid(DECODE, q={"gaps": (70, 0, 9, 0), "offset": 2}, state={"nesting": (1, 0, 2, 3)})
    fewer = {tuple(one.tensor for one in found.lay) for found in lay_moves.fewer(case) if found}
    assert fewer == {("q",), ("state",)}
    found = [other.lay for other in lay_moves.plainer(case) if other]
    q, state = case.lay
    for wanted in (
        (replace(q, offset=0), state),
        (replace(q, offset=64), state),
        (replace(q, gaps=(1, 0, 9, 0)), state),
        (replace(q, gaps=(64, 0, 9, 0)), state),
        (replace(q, gaps=(70, 0, 0, 0)), state),
        (q,),
        (q, Lay("state")),
    ):
        assert wanted in found


def test_a_lone_gap_moves_further_out_and_never_in() -> None:
    """So a failure that any of them shows ends at the same one, wherever its shrink began."""
    outer, inner = (laid(DECODE, q={"gaps": gaps}) for gaps in ((0, 5, 0, 0), (0, 0, 5, 0)))
    assert outer in lay_moves.plainer(inner)
    assert inner not in lay_moves.plainer(outer)
    two = laid(DECODE, q={"gaps": (0, 5, 5, 0)})
    assert {one.lay[0].gaps for one in lay_moves.plainer(two) if one and one.lay} <= {
        (), (0, 5, 0, 0), (0, 0, 5, 0), *((0, 5, n, 0) for n in range(5)), *((0, n, 5, 0) for n in range(5))
    }  # fmt: skip


def test_a_large_gap_may_grow_so_that_fewer_indices_are_needed() -> None:
    case = laid(DECODE, q={"gaps": (0, 0, FAR // 2, 0)})
    assert laid(DECODE, q={"gaps": (0, 0, 2 * FAR, 0)}) not in lay_moves.fewer(case)  # past what is allowed
    one = replace(case, lens=(1,), pool=Pool(), packed=True)
    assert laid(one, q={"gaps": (0, 0, 2 * FAR, 0)}) in lay_moves.fewer(one)


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("name", STEPWISE)
def test_our_kernels_take_arguments_wherever_they_lie(name: str, far: bool) -> None:
    verdict = execute.run(every(STEPWISE[name], far), targets.get("vk"), selection.detect())
    assert verdict.ok, verdict.failure


@pytest.mark.parametrize("op", ["gdn.extend", "kda.extend"])
def test_a_prefill_takes_arguments_wherever_they_lie(op: str) -> None:
    case = replace(PACKED, op=op, lens=(17, 3), pool=Pool(2, (1, 0)), chunk_size=16, boundary=True)
    verdict = execute.run(every(case, far=True), targets.get("vk"), selection.detect())
    assert verdict.ok, verdict.failure


def test_a_script_lays_out_its_arguments_as_the_case_does(tmp_path: Path) -> None:
    if selection.detect() != "interpret":
        pytest.skip("the script of a case that the interpreter found")
    for far in (False, True):
        case = every(VERIFY, far)
        finding = Finding(case=case, target="vk", backend="interpret", kind="beyond_bound", message="far")
        text = repro.script(finding)
        arguments = arranged(case)
        for name in lay.shapes(case):
            strides = ", ".join(map(str, arguments[name].stride()))
            assert f"{name!r}" in text
            assert f"({strides},)" in text
        (tmp_path / "script.py").write_text(text)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["right"]), done.stderr


def test_no_more_is_touched_of_a_far_argument_than_what_is_around_its_elements() -> None:
    case = laid(replace(DECODE, lens=(50, 50, 50)), q={"gaps": (0, FAR // 8, 0, 0), "nesting": (1, 0, 2, 3)})
    (far,) = arranged(case).far
    assert len(far.watched) == 50
    touched = sum(stop - start for start, stop in far.watched)
    assert math.prod(far.view.shape) < touched < 1 << 20 < far.words.numel()


drawing = settings(
    database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_arguments_of_a_drawn_case_have_the_shapes_that_lays_go_by(op: str) -> None:
    @seed(5)
    @settings(drawing, max_examples=60)
    @given(cases(op))
    def agree(case: Case) -> None:
        if case.pool.pitch > 10_000 or any(max(one.gaps, default=0) > 10_000 for one in case.lay):
            return
        passed = arrange(case, inputs.draw(case), "cpu").tensors
        expected = lay.shapes(case)
        assert {name: tuple(passed[name].shape) for name in expected} == expected  # type: ignore[union-attr]
        others = {name for name in lay.NAMES if passed.get(name) is not None} - set(expected)
        assert others <= ({"indices"} if case.state_options.slots else set())

    agree()


@pytest.mark.parametrize("op", ["gdn.decode", "kda.extend", "gdn.verify"])
def test_no_lay_is_drawn_that_takes_too_much_memory(op: str) -> None:
    """A pool whose slots lie far apart is not put inside another axis, which would spread it out again."""
    own = Promises(pitch=(FAR // 2,), H=(8,), HV=(24,), initial_state=(True,))
    lays: set[str] = set()

    @seed(3)
    @settings(drawing, max_examples=300)
    @given(cases(op, backend="gpu", promises=own))
    def fits(case: Case) -> None:
        for one, shape, strides in lay.placed(case):
            assert lay.reach(shape, strides) <= size_limits.MOST_REACH, one
        lays.update(one.tensor for one in case.lay)

    fits()
    assert lays
