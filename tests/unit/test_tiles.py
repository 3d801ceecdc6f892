"""Tile choices that keep compilers out of trouble, for every pair of head dimensions."""

from __future__ import annotations

import itertools

import pytest
import torch

from diffgdn.kernels.chunk import chunk_tiles as tiles

DIMS = (1, 8, 16, 17, 20, 32, 33, 64, 100, 128, 200, 256)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choices for compiled kernels, also where this process interprets them."""
    monkeypatch.setattr(tiles, "INTERPRETED", False)


@pytest.mark.parametrize(("K", "V"), list(itertools.product(DIMS, DIMS)))
def test_operands_at_one_address_have_one_row_width(compiled: None, K: int, V: int) -> None:
    """ptxas 12.8 mixes up the descriptors of operands of different widths in one place."""
    for stage in ("wy_gdn", "wy_kda"):
        chosen = tiles.tile(stage, torch.bfloat16, 64, K, V)
        assert chosen["BK"] == chosen["BV"]
    chosen = tiles.tile("output", torch.bfloat16, 64, K, V)
    assert chosen["BV"] >= chosen["BK"]


@pytest.mark.parametrize("dim", DIMS)
def test_the_state_pass_holds_all_of_K(compiled: None, dim: int) -> None:
    for dtype, states in itertools.product((torch.bfloat16, torch.float32), (0, 1000)):
        assert tiles.tile("state", dtype, 64, dim, 64, states)["BK"] >= dim


def test_only_many_states_of_half_precision_take_the_wide_tile(compiled: None) -> None:
    few, many = (tiles.tile("state", torch.bfloat16, 64, 128, 128, states)["BV"] for states in (32, 256))
    assert (few, many) == (32, 64)
    assert tiles.tile("state", torch.float32, 64, 128, 128, 256)["BV"] < 64
