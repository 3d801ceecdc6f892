"""The image of an error: axes, colours, lines and title; and how it comes to know the kernel's tile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from diffgdn import targets
from diffgdn.backend import selection
from diffgdn.cases.case import Case, Pool
from diffgdn.findings.finding import Finding
from diffgdn.findings.repro import call_script
from diffgdn.reference import noise
from diffgdn.runner.in_process import InProcess
from diffgdn.targets import launches
from diffgdn.verdict import localize, picture
from diffgdn.verdict.comparison import Comparison
from diffgdn.verdict.failures import CheckFailure, Verdict
from diffgdn.verdict.pattern import Tile

CASE = Case(
    op="gdn.extend", lens=(40, 24), HV=2, K=48, V=40, chunk_size=16, pool=Pool(slots=2, indices=(0, 1))
)


def comparison(wrong: Any, case: Case = CASE, name: str = "o", size: float = 3.0) -> Comparison:
    """A result that is off by `size` bounds at `wrong`, an index, and by half a bound elsewhere."""
    shape = {"o": (case.total, case.HV, case.V), "state": (len(case.lens), case.HV, case.V, case.K)}[name]
    error = torch.full(shape, 0.5, dtype=torch.float64)
    error[wrong] = size
    zeros, bound = torch.zeros_like(error), torch.full_like(error, 1.0 / noise.MAX_SIGMAS)
    return Comparison(case, name, torch.float32, error, zeros, bound, zeros, zeros.bool())


def drawn(made: Comparison, tile: Tile = localize.UNKNOWN, target: str = "vk") -> Any:
    pytest.importorskip("matplotlib")
    panels = [(panel, *localize.levels(panel)) for panel in localize._panels(made, tile)]
    return picture.figure(panels, localize.title(made, target, tile))


def lines(axes: Any) -> dict[str, list[float]]:
    """Where lines cross the axes, by style and direction: "--x" is dashed and stands on x."""
    found: dict[str, list[float]] = {}
    for one in axes.lines:
        upright = one.get_xdata()[0] == one.get_xdata()[1]
        place = (one.get_xdata() if upright else one.get_ydata())[0]
        found.setdefault(one.get_linestyle() + ("x" if upright else "y"), []).append(float(place))
    return found


def test_levels_are_shades_and_what_passes_is_the_first() -> None:
    _, detail = localize._panels(comparison((slice(3, 5), 1, slice(7, 9))), Tile())
    levels, down, across = localize.levels(detail)
    assert (down, across, tuple(levels.shape)) == (1, 1, (40, 40))
    assert levels[3:5, 7:9].eq(2).all()
    assert levels.count_nonzero() == 4
    for size, level in ((1.5, 1), (7.0, 2), (63.0, 3), (65.0, 4), (torch.nan, 4)):
        _, detail = localize._panels(comparison((3, 1, 7), size=size), Tile())
        assert int(localize.levels(detail)[0][3, 7]) == level


def test_a_large_result_keeps_its_one_wrong_element() -> None:
    case = Case(op="gdn.extend", lens=(5000,), K=4, V=4)
    overview, _ = localize._panels(comparison((4321, 0, 2), case), Tile())
    levels, _, across = localize.levels(overview)
    assert across == 11
    assert levels.nonzero().tolist() == [[0, 4321 // 11]]
    axes = drawn(comparison((4321, 0, 2), case)).axes[0]
    assert axes.images[0].get_extent()[1] >= 4999.5
    assert axes.get_xlim() == (-0.5, 4999.5)


def test_the_ground_is_light_and_what_is_wrong_is_darker_the_worse() -> None:
    figure = drawn(comparison((3, 1, 7)))
    image = figure.axes[0].images[0]
    brightness = [sum(image.cmap(image.norm(level))[:3]) for level in range(len(picture.LEVELS))]
    assert brightness[0] > 2.7
    assert brightness == sorted(brightness, reverse=True)
    assert int(image.get_array()[1, 3]) == 2
    assert int(image.get_array().sum()) == 2


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_axes_have_whole_numbers_alone(heads: int) -> None:
    case = replace(CASE, HV=heads, V=5)
    for axes in drawn(comparison((3, 0, 2), case)).axes[:2]:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, sorted(axes.get_ylim()))):
            shown = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
            assert shown
            assert all(tick == int(tick) for tick in shown)


def test_lines_end_sequences_and_chunks_and_tiles_where_they_are_known() -> None:
    made = comparison((3, 1, 7))
    overview, detail = drawn(made).axes[:2]
    assert lines(overview) == {"-x": [39.5], "--x": [15.5, 31.5, 55.5]}
    assert lines(detail) == {"--y": [15.5, 31.5]}
    assert overview.get_xlabel() == "tokens (solid: a sequence ends, dashed: a chunk ends)"
    assert lines(drawn(made, Tile(V=16, K=16)).axes[1]) == {"--y": [15.5, 31.5], ":x": [15.5, 31.5]}
    state = drawn(comparison((1, 1, 7, 9), name="state"), Tile(V=32, K=16)).axes[1]
    assert lines(state) == {":y": [31.5], ":x": [15.5, 31.5]}
    assert (state.get_title(loc="left"), state.get_xlabel()) == (
        "sequence 1, head 1",
        "K (dotted: a tile ends)",
    )


def test_an_operation_without_chunks_has_no_lines_of_them() -> None:
    case = Case(op="gdn.update", lens=(100, 24), V=8, pool=Pool(slots=2, indices=(0, 1)))
    assert lines(drawn(comparison((3, 0, 7), case)).axes[0]) == {"-x": [99.5]}


def test_signs_on_most_cells_are_left_out_of_the_text() -> None:
    slots = tuple(range(9))
    case = Case(op="gdn.decode", lens=(1,) * 9, V=8, pool=Pool(slots=9, indices=slots))
    assert "heads down, tokens across\n" in localize.text(comparison((3, 0, 7), case))


def test_the_title_says_what_and_is_narrow_enough() -> None:
    slots = tuple(range(40))
    case = Case(op="gdn.extend", lens=(3,) * 40, HV=2, chunk_size=16, pool=Pool(slots=40, indices=slots))
    figure = drawn(comparison((3, 1, 7), case), target="my_kernel:chunk")
    title = figure.get_suptitle()
    first, *rest = title.splitlines()
    assert first == "gdn.extend, target my_kernel:chunk: o is wrong"
    assert repr(case).replace(" ", "") in "".join(rest).replace(" ", "")
    assert rest[-1] == "first: sequence 1, chunk 0, token 0, head 1, V 0 to 15"
    assert "everything" not in title
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width == 1200
    assert box.y0 > figure.axes[0].get_tightbbox().y1
    assert figure._suptitle.get_fontsize() * 600 / figure.get_figwidth() / 72 >= 11  # pixels of 600


class Constants(NamedTuple):
    """As the recurrent kernels are passed theirs."""

    BV: int
    BK: int


class Kernel:
    """Stands for a Triton kernel."""

    fn = None

    def run(self, *args: object, **given: object) -> None:
        """Launch nothing."""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(launches, "CLASSES", (Kernel,))
    return Kernel()


def test_the_smallest_tile_of_the_kernels_launched_is_noted(kernel: Kernel) -> None:
    found: dict[str, int] = {}
    with launches.tiles(found):
        kernel.run(1, BV=64, BT=16)
        kernel.run(1, VARIANT=Constants(BV=32, BK=128))
        kernel.run(1, BV=128, BK=256, V=8)
    kernel.run(1, BV=2)
    assert found == {"V": 32, "K": 128}
    other: dict[str, int] = {}
    with launches.tiles(other):
        kernel.run((1, 2), V=8)
    assert other == {}


@pytest.mark.parametrize("op", ["gdn.extend", "gdn.recurrent"])
def test_our_own_kernels_say_their_tile(op: str) -> None:
    found: dict[str, int] = {}
    pool = Pool() if op == "gdn.extend" else Pool(indices=())
    with launches.tiles(found):
        verdict = InProcess(selection.detect()).run(Case(op=op, lens=(2,), pool=pool), "vk")
    assert verdict.ok
    assert found.keys() == {"V", "K"}
    assert found["K"] >= 16


def test_the_picture_of_an_issue_is_told_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[Tile]()

    def note(made: Comparison, tile: Tile) -> str:
        told.append(tile)
        return ""

    monkeypatch.setattr(localize, "text", note)
    monkeypatch.setattr(call_script, "_script", lambda *given: "")  # it would say that the kernel is right
    finding = Finding(
        Case(op="gdn.extend", lens=(2,)), "vk", selection.detect(), "beyond_bound", "", tensor="o"
    )
    assert call_script.make(finding, targets.get("vk"), guarded=False).why_not == ""
    assert len(told) == 1
    assert told[0].V is not None
    assert told[0].K is not None


@pytest.fixture
def runner(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Every answer is one wrong element, and one launch."""
    made, failure = comparison((3, 1, 33)), CheckFailure("gdn.extend", "o", None, "wrong")

    def judged(*given: object) -> Verdict:
        kernel.run(BV=8, BK=16)
        return Verdict(CASE, "eager", "interpret", failure, comparison=made)

    monkeypatch.setattr(InProcess, "_judged", judged)
    return InProcess("interpret")


def test_the_text_picture_is_told_the_tile(runner: InProcess) -> None:
    shown = runner.run(CASE, "eager", picture=True).picture
    assert shown is not None
    assert "first: sequence 0, chunk 0, token 3, head 1, V 32 to 39\n" in shown
    ruler = " " * 7 + "        |" + "       |" * 3
    assert f"tokens down, V across (2 tokens a cell); begins: - a chunk, | a tile\n{ruler}\n" in shown


def test_the_image_is_told_the_target_and_the_tile(
    runner: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[tuple[object, ...]]()

    def note(made: Comparison, path: Path, *given: object) -> Path:
        told.append((path, *given))
        return path

    monkeypatch.setattr(localize, "write_picture", note)
    finding = Finding(CASE, "eager", "interpret", "beyond_bound", "wrong")
    _, path = runner.document(finding, tmp_path, picture=True)
    assert path == tmp_path / f"{finding.id}.png"
    assert told[0] == (path, "eager", Tile(V=8, K=16), "")
