"""Pictures of an error: what the words say and where the marks stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffgdn.cases.case import Case, Pool
from diffgdn.reference import noise
from diffgdn.verdict import localize
from diffgdn.verdict.comparison import Comparison

CASE = Case(op="gdn.extend", lens=(40, 0, 100), H=2, HV=4, K=8, V=6, pool=Pool(slots=3, indices=(0, 1, 2)))


def comparison(name: str, error: torch.Tensor, case: Case = CASE) -> Comparison:
    """A result whose error is `error` times its bound, about."""
    zeros = torch.zeros_like(error)
    bound = torch.full_like(error, 1.0 / noise.MAX_SIGMAS)
    return Comparison(case, name, torch.float32, error, zeros, bound, zeros, zeros.bool())


def output(case: Case = CASE) -> torch.Tensor:
    return torch.full((case.total, case.HV, case.V), 0.25, dtype=torch.float64)


def test_a_right_result_is_said_to_be_right() -> None:
    assert localize.summary(comparison("o", torch.zeros(140, 4, 6, dtype=torch.float64))) == [
        "no element is wrong"
    ]


def test_one_element() -> None:
    error = output()
    error[40 + 7, 2, 5] = 3.0
    assert localize.summary(comparison("o", error)) == [
        "1 of 3360 elements of o are wrong",
        "first: sequence 2, chunk 0, token 7, head 2, V 0 to 5",
        "sequences: only 2 of 3",
        "tokens: only 7 of 100",
        "heads: only 2 of 4",
        "V: only 5 of 6",
    ]


def test_tokens_past_the_first_chunk() -> None:
    error = output()
    error[40 + 64 :] = 3.0
    lines = localize.summary(comparison("o", error))
    assert "tokens: only >= 64 of 100" in lines
    assert "no token of a first chunk (64 tokens): the state carried between chunks is suspect" in lines
    assert lines[-2:] == ["heads: every one", "V: every one"]


@pytest.mark.parametrize(
    ("lens", "wrong", "suspect"),
    [
        ((200,), slice(64, None), ": the state carried between chunks is suspect"),
        ((200,), slice(192, None), ", and only of a last one: that chunk is suspect"),
        ((200,), slice(128, 192), ", but of single later ones: those are suspect, not the state carried"),
        ((200,), slice(128, None), ": the state carried between chunks is suspect"),
        ((128,), slice(64, None), ": the state carried between chunks is suspect"),
        ((200, 200), [*range(192, 200), 399], ", and only of a last one: that chunk is suspect"),
    ],
    ids=[
        "all but the first",
        "the last of four",
        "the third of four",
        "from the third on",
        "the second of two",
        "two sequences",
    ],
)
def test_the_last_chunk_alone_speaks_for_itself(
    lens: tuple[int, ...], wrong: slice | list[int], suspect: str
) -> None:
    case = Case(op="gdn.extend", lens=lens, K=1, V=2, pool=Pool(slots=2, indices=(0, 1)[: len(lens)]))
    error = output(case)
    error[wrong] = 3.0
    (line,) = [one for one in localize.summary(comparison("o", error, case)) if "first chunk" in one]
    assert line.startswith(f"no token of a first chunk (64 tokens){suspect}")


def test_tokens_at_one_place_of_every_chunk() -> None:
    case = Case(op="gdn.extend", lens=(64,), K=1, V=2, chunk_size=16)
    error = output(case)
    error[15::16] = 3.0
    lines = localize.summary(comparison("o", error, case))
    assert "tokens: only 15 to 63 in steps of 16 (of 64)" in lines
    assert "tokens within their chunk of 16: only 15 of 16" in lines


def test_a_state_has_sequences_rows_and_columns() -> None:
    # The sequence in the middle is empty and leaves no state behind: the second row is of sequence 2.
    error = torch.zeros(2, 4, 6, 8, dtype=torch.float64)
    error[1, :, 2:5, ::2] = 3.0
    assert localize.summary(comparison("state", error)) == [
        "48 of 384 elements of state are wrong",
        "first: sequence 2, head 0, V 0 to 5, K 0 to 7",
        "sequences: only 2 of 3",
        "heads: every one",
        "V: only 2 to 4 of 6",
        "K: only 0 to 6 in steps of 2 (of 8)",
    ]
    assert "(sequence 2, head 0):" in localize.text(comparison("state", error)).splitlines()


def test_steps_are_those_of_sequences_with_a_buffer_row() -> None:
    pool = Pool(slots=3, indices=(0, 1, 2), steps=3, buffer=2, rows=(-1, 0, 1))
    case = Case(op="gdn.verify", lens=(3, 2, 1), K=4, V=4, pool=pool)
    error = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    error[2, 0, 1, 3] = 3.0
    shown = comparison("steps", error, case)
    assert "sequences: only 2 of 3" in localize.summary(shown)
    assert "worst at (sequence 2, token 0, head 0, V 1, K 3)" in localize.text(shown)


def test_an_exact_case_shows_what_differs_though_within_the_bound() -> None:
    error = torch.zeros(140, 4, 6, dtype=torch.float64)
    error[3, 1, 0] = 1e-3
    assert localize.summary(comparison("o", error))[0] == "1 of 3360 elements of o are wrong"


def test_the_text_picture_marks_heads_by_tokens_and_the_worst_head() -> None:
    error = output()
    error[40 + 64 :, 1] = 3.0
    error[40 + 70, 1, 4] = torch.nan
    lines = localize.text(comparison("o", error)).splitlines()
    assert "heads down, tokens across (3 tokens a cell); begins: | a chunk, ║ a sequence" in lines
    ruler = lines[lines.index(next(line for line in lines if line.startswith("heads down"))) + 1]
    assert ruler == " " * 7 + " " * (40 // 3) + "║" + " " * ((40 + 64) // 3 - 40 // 3 - 1) + "|"
    rows = [line.split() for line in lines if line.strip()[:1].isdigit() and len(line.split()) == 2]
    heads = rows[:4]
    assert [set(marks) for _, marks in heads[:1] + heads[2:]] == [{"·"}] * 3
    assert heads[1][1].count("█") == 1
    assert heads[1][1].index("▒") == (40 + 64) // 3
    begin = lines.index("sequence 2, head 1:")
    assert lines[begin + 1] == "tokens down, V across (5 tokens a cell); begins: - a chunk"
    assert [line[:6].strip() for line in lines[begin + 2 :] if line[6:7] == "-"] == ["60"]
    assert lines[-1].startswith("worst at (sequence 2, token 70, head 1, V 4): got nan, expected 0, bound")


@pytest.mark.parametrize("name", ["steps", "state", "boundary", "final"])
def test_every_kind_of_result_has_a_picture(name: str) -> None:
    leading = {"steps": 140, "state": 2, "boundary": 3, "final": 3}[name]
    error = torch.zeros(leading, 4, 6, 8, dtype=torch.float64)
    error[-1, 3, 5, 7] = 100.0
    case = replace(CASE, boundary=True) if name != "steps" else Case(
        op="gdn.verify", lens=(40, 0, 100), H=2, HV=4, K=8, V=6,
        pool=Pool(slots=3, indices=(0, 1, 2), steps=100, buffer=3, rows=(0, 1, 2)),
    )  # fmt: skip
    drawn = localize.text(comparison(name, error, case))
    assert drawn.count("█") == 3
    assert "heads: only 3 of 4" in drawn
    assert "V down, K across" in drawn


def test_large_results_are_squeezed_without_losing_the_worst() -> None:
    case = Case(op="gdn.extend", lens=(300,), H=1, HV=32, K=4, V=96)
    error = output(case)
    error[222, 31, 70] = 100.0
    lines = localize.text(comparison("o", error, case)).splitlines()
    pictures = [line for line in lines if line[:6].strip().isdigit()]
    assert max(len(line) for line in pictures) <= 7 + localize.WIDTH
    assert len(pictures) <= 2 * localize.HEIGHT
    assert sum(line.count("█") for line in pictures) == 2


def test_the_image_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = localize.write_picture(comparison("o", output() * 8), tmp_path / "picture.png")
    assert path == tmp_path / "picture.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_text_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localize, "find_spec", lambda name: None)
    shown = comparison("o", output() * 8)
    path = localize.write_picture(shown, tmp_path / "picture.png")
    assert path == tmp_path / "picture.txt"
    assert path.read_text(encoding="utf-8") == localize.text(shown) + "\n"
