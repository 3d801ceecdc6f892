"""Chunk kernels that run state and output as one stage: taken where they should be, and right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diffgdn.backend import selection

selection.enter(selection.detect())

import torch  # noqa: E402

from diffgdn.cases.case import Case, Gates, Pool, Values  # noqa: E402
from diffgdn.kernels import chunk_gated_delta_rule  # noqa: E402
from diffgdn.kernels.chunk import chunk_tiles, pipeline, segment_starts  # noqa: E402
from diffgdn.kernels.chunk.strides import in_units  # noqa: E402
from diffgdn.kernels.device import INTERPRETED  # noqa: E402
from diffgdn.runner.in_process import InProcess  # noqa: E402
from diffgdn.verdict.failures import Verdict  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
PLAIN = Case(
    op="gdn.extend",
    lens=(70,),
    K=64,
    V=64,
    dtype="bfloat16",
    gates=Gates(law="uniform", beta="uniform"),
    values=Values(law="normal", seed=3),
    l2norm=True,
)
SEVERAL = Pool(slots=5, indices=(3, -1, 0, 4))


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Into how many segments each call that went over the walk cut its sequences."""
    seen: list[Any] = []
    walk = vars(pipeline)["walk"]

    def watched(*args: Any, **options: Any) -> Any:
        seen.append(options["segments"])
        return walk(*args, **options)

    monkeypatch.setattr(pipeline, "walk", watched)
    return seen


def verdict(case: Case, target: str = "vk") -> Verdict:
    found = InProcess("interpret" if INTERPRETED else "gpu").run(case, target)
    assert found.refused is None
    return found


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({}, "vk"),
        ({"K": 128, "lens": (65,)}, "vk"),
        ({"V": 128, "lens": (65,)}, "kv"),
        ({"lens": (64, 0, 130, 1), "pool": SEVERAL, "tail": 70, "boundary": True}, "vk"),
        ({"lens": (64, 0, 130, 1), "pool": SEVERAL, "final": True, "inplace": False}, "kv"),
        ({"lens": (66, 66), "pool": Pool(slots=2, indices=(1, 0)), "packed": False, "boundary": True}, "vk"),
        ({"H": 1, "HV": 3, "l2norm": False, "view": "packed"}, "vk"),
        ({"gates": Gates(law="model", beta="uniform", raw=True)}, "vk"),
        ({"gates": Gates(law="uniform", strength=200.0, beta="uniform"), "lens": (130,)}, "vk"),
        ({"values": Values(law="normal", state="none"), "final": True, "pool": Pool(indices=(-1,))}, "vk"),
        ({"pool": Pool(slots=2, indices=(1,), pitch=256, dtype="bfloat16")}, "vk"),
    ],
    ids=lambda x: ", ".join(x) or "plain" if isinstance(x, dict) else x,
)
def test_is_right(changes: dict[str, Any], target: str, walks: list[Any]) -> None:
    found = verdict(replace(PLAIN, **changes), target)
    assert found.failure is None
    assert walks


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_sequence_in_segments_is_right(
    count: int, walks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(chunk_tiles.OVERRIDES, "segments", {"SEGMENTS": count})
    pool = Pool(slots=4, indices=(2, -1, 0, 3))
    case = replace(PLAIN, lens=(200, 64, 0, 1), pool=pool, tail=3, boundary=True, final=True)
    found = verdict(case)
    assert found.failure is None
    assert set(walks) == {count}


def test_segments_start_from_the_states_that_one_walk_has_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5 chunks in 3 segments the second starts behind two, the third behind four."""
    starts: list[torch.Tensor] = []
    states = segment_starts.segment_states

    def kept(*args: Any, **options: Any) -> torch.Tensor:
        starts.append(states(*args, **options))
        return starts[-1]

    monkeypatch.setattr("diffgdn.kernels.chunk.walk.segment_states", kept)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 300, 1, 64, device=DEVICE).bfloat16() for _ in range(3))
    g, beta = -torch.rand(1, 300, 1, device=DEVICE) * 0.1, torch.rand(1, 300, 1, device=DEVICE)
    options: dict[str, Any] = {"initial_state": torch.randn(1, 1, 64, 64, device=DEVICE)}
    options |= {"use_qk_l2norm_in_kernel": True, "inplace_update": False}
    _, _, h = chunk_gated_delta_rule(q, k, v, g, beta, **options)
    monkeypatch.setitem(chunk_tiles.OVERRIDES, "segments", {"SEGMENTS": 3})
    chunk_gated_delta_rule(q, k, v, g, beta, **options)
    (found,) = starts  # [1, 3, 1, V, K]
    torch.testing.assert_close(found[0, :, 0], h[0, (0, 2, 4), 0].float(), rtol=0.02, atol=0.02)


def test_a_state_that_only_decays_passes_segments_as_it_passes_a_walk(
    walks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written, so nothing comes of bf16 factors: the sizes of its bound are those of fp32."""
    monkeypatch.setitem(chunk_tiles.OVERRIDES, "segments", {"SEGMENTS": 3})
    gates = Gates(law="uniform", strength=0.01, beta="zero")
    found = verdict(replace(PLAIN, lens=(321,), gates=gates, final=True, boundary=True))
    assert found.failure is None
    assert set(walks) == {3}


def test_a_walk_alone_on_its_multiprocessor_loads_further_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_tiles, "INTERPRETED", False)
    few, many = (chunk_tiles.tile("walk", torch.bfloat16, 64, 128, 128, states) for states in (64, 65))
    assert many == few | {"num_stages": few["num_stages"] - 1}


def test_offsets_of_a_chunk_in_units_fit_in_32_bits() -> None:
    """A view whose tokens are far apart is read element by element, with offsets in 64 bits."""
    near = torch.empty(1, 64, 2, 64, dtype=torch.bfloat16)
    far = torch.empty_strided((1, 64, 2, 64), (0, 2**25, 64, 1), dtype=torch.bfloat16, device="meta")
    assert in_units(near)[1] == 8
    assert in_units(near, far)[1] == 1


def test_few_heads_and_a_long_sequence_are_cut_and_others_are_not() -> None:
    assert chunk_tiles.walk_segments(N=1, HV=8, V=128, chunks=1024) == 8
    assert chunk_tiles.walk_segments(N=1, HV=2, V=128, chunks=64) == 4
    assert chunk_tiles.walk_segments(N=1, HV=8, V=128, chunks=63) == 1
    assert chunk_tiles.walk_segments(N=8, HV=32, V=128, chunks=128) == 1
    assert chunk_tiles.walk_segments(N=1, HV=1, V=64, chunks=4) == 1
    assert chunk_tiles.walk_segments(N=0, HV=1, V=64, chunks=0) == 1


@pytest.mark.parametrize("changes", [{"l2norm": False}, {"batch_invariant": True}], ids=str)
def test_what_must_not_be_cut_is_not(
    changes: dict[str, Any], walks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of any length may make a transition overflow; a cut depends on the batch."""
    monkeypatch.setattr(pipeline, "walk_segments", lambda *_: 3)
    assert verdict(replace(PLAIN, lens=(200,), **changes)).failure is None
    assert set(walks) == {1}


def test_one_switch_brings_all_stages_back(walks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_tiles, "TWO_STAGES", False)
    assert verdict(replace(PLAIN, lens=(17,))).failure is None
    assert not walks


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float16"}, {"dtype": "float32"}, {"chunk_size": 16}, {"K": 48}, {"V": 256}],
    ids=str,
)
def test_others_go_by_all_stages(changes: dict[str, Any], walks: list[Any]) -> None:
    assert verdict(replace(PLAIN, lens=(17,), **changes)).failure is None
    assert not walks


def test_stages_that_are_watched_are_run(walks: list[Any]) -> None:
    seen: list[dict[str, object]] = []
    with pipeline.observed(seen.append):
        verdict(replace(PLAIN, lens=(3,)))
    assert not walks
    assert {"w", "u", "v_new"} <= seen[0].keys()
