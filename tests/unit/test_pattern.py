"""Words for the first place that is wrong, and for what the wrong part is all of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffgdn.cases.case import Case, Pool
from diffgdn.reference import noise
from diffgdn.verdict import localize
from diffgdn.verdict.comparison import Comparison
from diffgdn.verdict.pattern import Tile

CASE = Case(
    op="gdn.extend", lens=(40, 24), H=2, HV=6, K=48, V=40, chunk_size=16, pool=Pool(slots=2, indices=(0, 1))
)
OUTPUT = (64, 6, 40)
STATE = (2, 6, 40, 48)


def comparison(shape: tuple[int, ...], wrong: Any, case: Case = CASE) -> Comparison:
    """A result that is far off at `wrong`, an index, and right elsewhere."""
    error = torch.zeros(shape, dtype=torch.float64)
    error[wrong] = 3.0
    zeros, bound = torch.zeros_like(error), torch.full_like(error, 1.0 / noise.MAX_SIGMAS)
    name = "o" if len(shape) == 3 else "state"
    return Comparison(case, name, torch.float32, error, zeros, bound, zeros, zeros.bool())


def line(kind: str, made: Comparison, tile: Tile = localize.UNKNOWN) -> str | None:
    """The line of the summary about the first place, or about the pattern."""
    lines = [one for one in localize.summary(made, tile) if one.startswith(f"{kind}: ")]
    assert len(lines) < 2
    return lines[0].removeprefix(f"{kind}: ") if lines else None


@pytest.mark.parametrize(
    ("tile", "rows"),
    [(Tile(), "32 to 39"), (Tile(V=64), "0 to 39"), (Tile(V=8), "32 to 39"), (Tile(V=1), "35")],
)
def test_the_first_place_is_said_with_its_chunk_and_its_tile(tile: Tile, rows: str) -> None:
    made = comparison(OUTPUT, ([40 + 17, 40 + 18], [4, 0], [35, 0]))
    assert line("first", made, tile) == f"sequence 1, chunk 1, token 17, head 4, V {rows}"


def test_the_first_place_of_a_state_has_both_tiles() -> None:
    made = comparison(STATE, (1, 2, 17, 33))
    assert line("first", made) == "sequence 1, head 2, V 16 to 31, K 32 to 47"
    assert line("first", made, Tile(V=8, K=64)) == "sequence 1, head 2, V 16 to 23, K 0 to 47"


def test_an_operation_without_chunks_names_none() -> None:
    case = Case(op="gdn.decode", lens=(1, 1), H=2, HV=6, K=48, V=40, pool=Pool(slots=2, indices=(0, 1)))
    assert line("first", comparison((2, 6, 40), (1, 3, 2), case)) == "sequence 1, token 0, head 3, V 0 to 15"


TAIL = [*range(5, 16), *range(16 + 5, 32), *range(40 + 5, 40 + 16)]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (range(21, 40), "every token from 21 on"),
        ([*range(21, 40), *range(40 + 3, 64)], "every token behind the first wrong one of its sequence"),
        (TAIL, "all of a chunk's tail, from its token 5 on"),
        (range(5, 16), "all of a chunk's tail, from its token 5 on"),
        ([*TAIL, 40 + 16 + 5], None),  # of the last chunk one of three
        (range(5, 15), None),
        (range(16), None),
        ([*range(5, 16), *range(16 + 6, 32)], None),
        ([39], None),
        (range(64), None),
    ],
)
def test_tokens(tokens: Any, said: str | None) -> None:
    assert line("pattern", comparison(OUTPUT, list(tokens))) == said


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ([1, 4], "every third head, one of each group that shares a key head"),
        ([0, 2, 4], "every second head"),
        ([1, 3, 5], "every second head"),
        ([3, 4, 5], "all value heads of key head 1"),
        ([1, 2, 3], None),
        ([0, 2], None),
        ([2], None),
        ([0, 5], None),
        ([4, 5], None),
        (list(range(6)), None),
    ],
)
def test_heads(heads: list[int], said: str | None) -> None:
    assert line("pattern", comparison(OUTPUT, (slice(None), heads))) == said


def test_heads_at_equal_steps_are_a_pattern_only_all_through() -> None:
    case = Case(op="gdn.extend", lens=(1,), HV=8, V=2)
    assert line("pattern", comparison((1, 8, 2), (0, [3, 5, 7]), case)) is None
    assert line("pattern", comparison((1, 8, 2), (0, [1, 3, 5, 7]), case)) == "every second head"


@pytest.mark.parametrize(
    ("rows", "tile", "said"),
    [
        (range(16, 32), Tile(), "one block of V, 16 to 31"),
        (range(32, 40), Tile(), "the last, partial block of V, 32 to 39"),
        (range(8, 16), Tile(V=8), "one tile of V, 8 to 15"),
        ([7, 15, 39], Tile(V=8), "the last V of tiles of 8"),
        ([31], Tile(), "the last V of blocks of 16"),
        ([16, 32], Tile(), "the first V of blocks of 16"),
        ([0], Tile(), None),
        ([0, 1], Tile(), None),
        (range(32, 40), Tile(V=64), None),
        (range(40), Tile(V=64), None),
        ([7, 14], Tile(V=8), None),
    ],
)
def test_tiles(rows: Any, tile: Tile, said: str | None) -> None:
    made = comparison(STATE, (slice(None), slice(None), list(rows)))
    assert line("pattern", made, tile) == said


def test_columns_have_tiles_too_and_patterns_are_put_together() -> None:
    made = comparison(STATE, (slice(None), slice(1, None, 2), slice(None), slice(32, 48)))
    assert line("pattern", made) == "every second head; one block of K, 32 to 47"
