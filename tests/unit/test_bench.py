"""The bench: its shapes and floors, what is checked before a time counts, and how times are made of turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffgdn.bench import floors, row_check, shapes, timed_data
from diffgdn.bench.floors import Limits
from diffgdn.bench.shapes import Shape
from diffgdn.cases.case import Case
from diffgdn.cases.operations import OPERATIONS
from diffgdn.reference import noise, oracle
from diffgdn.reference.noise import CHUNKED
from diffgdn.targets import get
from diffgdn.tensors import inputs
from diffgdn.tensors.layout import arrange
from diffgdn.verdict.failures import BeyondBound, NotFinite

TOYS = Path(__file__).with_name("bench_toys.py")
LIMITS = Limits(copy_gb=3000.0, in_place_gb=2900.0, matrix_tflops=800.0)
TINY = [shape for op in OPERATIONS for shape in shapes.shapes(op, "tiny")]


def tiny(op: str) -> Shape:
    (shape,) = shapes.shapes(op, "tiny")
    return shape


def named(name: str) -> Shape:
    return next(one for op in OPERATIONS for one in shapes.shapes(op, "full") if one.name == name)


def long_case(length: int = 300) -> Case:
    """Longer than the cut case, and small otherwise."""
    case = tiny("gdn.extend").case
    pool = replace(case.pool, slots=1, indices=(0,))
    return replace(case, lens=(length,), H=2, HV=4, pool=pool)


# Shapes


@pytest.mark.parametrize("chosen", shapes.SETS)
def test_no_two_rows_have_one_name(chosen: str) -> None:
    names = [shape.name for op in OPERATIONS for shape in shapes.shapes(op, chosen)]
    assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_full_set_has_the_short_one(op: str) -> None:
    short, full = ({shape.name for shape in shapes.shapes(op, chosen)} for chosen in ("short", "full"))
    assert short <= full


@pytest.mark.parametrize(
    "name",
    [
        "gdn.extend 1x32768 16/32",
        "gdn.extend 8x1024 16/64",
        "gdn.extend 1x65536 2/8",
        "gdn.extend 1x8192 4/16",
        "kda.extend 64x128 32/32",
        "kda.extend 1x8192 12/12",
        "kda.extend 1x65536 6/6",
        "kda.extend 1x8192 32/32 raw",
        "gdn.decode 512x1 16/32",
        "kda.decode 64x1 96/96",
        "kda.packed_decode 256x1 32/32 fp16",
        "gdn.decode 64x1 16/32 bf16",
        "kda.verify 256x4 32/32",
        "gdn.verify 64x8 16/32",
    ],
)
def test_a_row_that_serving_sees_is_timed(name: str) -> None:
    case = named(name).case
    assert (case.K, case.V, case.l2norm) == (128, 128, True)


# Floors


def test_decode_must_read_and_write_each_state_once() -> None:
    """4 MiB a sequence at 32 value heads in fp32, half of it in bf16."""
    case = named("gdn.decode 64x1 16/32").case
    assert floors.state_bytes(case) == 64 * (4 << 20)
    assert floors.state_bytes(named("gdn.decode 64x1 16/32 bf16").case) == 64 * (2 << 20)


def test_verify_must_read_a_state_and_write_one_for_each_step() -> None:
    assert floors.state_bytes(named("kda.verify 8x4 32/32").case) == 8 * (1 + 4) * (2 << 20)


def test_the_bytes_of_tokens_are_those_of_what_comes_in_and_goes_out() -> None:
    """All there is but the state, the two weights of a head and the index tables, and an output like v."""
    for shape in TINY:
        data = inputs.draw(shape.case)
        read = sum(
            one.numel() * one.element_size()
            for name, one in data.items()
            if name not in ("state", "A_log", "dt_bias")
        )
        output = data["v"].numel() * data["q"].element_size()
        assert floors.token_bytes(shape.case) == read + output


def test_prefill_must_form_products_by_chunk() -> None:
    """8 C K + 6 K V for each token and value head, at chunk 64 for gdn and 16 for kda."""
    assert floors.flops(named("gdn.extend 1x8192 16/32").case) == 8192 * 32 * 163_840
    assert floors.flops(named("kda.extend 1x8192 32/32").case) == 8192 * 32 * 114_688
    assert floors.flops(named("gdn.decode 1x1 16/32").case) == 32 * 98_304


def test_the_floor_is_the_longer_of_the_two() -> None:
    shape = named("gdn.extend 1x8192 16/32")
    by_memory = floors.floor(shape.moved, shape.formed, LIMITS)
    assert by_memory.bound == "memory"
    assert by_memory.microseconds == pytest.approx(by_memory.bytes / 3e6)  # the better bandwidth, 3000 GB/s
    by_matrix = floors.floor(shape.moved, shape.formed, replace(LIMITS, matrix_tflops=8.0))
    assert by_matrix.bound == "matrix"
    assert by_matrix.microseconds == pytest.approx(by_matrix.flops / 8e6)


# Tensors of large shapes


@pytest.mark.parametrize("shape", TINY, ids=lambda shape: shape.name)
def test_repeated_tensors_have_the_form_of_drawn_ones(shape: Shape) -> None:
    want, got = inputs.draw(shape.case), timed_data.draw(shape.case)
    assert {name: (one.shape, one.dtype) for name, one in got.items()} == {
        name: (one.shape, one.dtype) for name, one in want.items()
    }


def test_sequences_and_slots_far_apart_differ() -> None:
    """What reads the token or the slot of another sequence, or chunk, gets other numbers."""
    small = tiny("gdn.extend").case
    case = replace(small, lens=(1024,) * 4, pool=replace(small.pool, slots=4, indices=(0, 1, 2, 3)))
    data = timed_data.draw(case)
    sequences = data["k"].view(4, 1024, -1)
    assert all(not torch.equal(sequences[0, :64], sequences[n, :64]) for n in (1, 2, 3))
    assert not torch.equal(sequences[0, :64], sequences[0, 64:128])
    pool = replace(small.pool, slots=64, indices=tuple(range(64)))
    many = replace(tiny("gdn.decode").case, lens=(1,) * 64, pool=pool)
    states = timed_data.draw(many)["state"]
    assert all(not torch.equal(states[0], states[n]) for n in (1, 2, 4, 8, 16, 32))


def test_copies_fill_the_cache_several_times() -> None:
    cache = 50 << 20
    for moved in (1 << 20, 10 << 20, 100 << 20):
        copies = timed_data.copies_for(moved, cache)
        assert copies * moved >= 2 * cache or copies == timed_data.MOST_COPIES
    assert timed_data.copies_for(1 << 33, cache) == timed_data.LEAST_COPIES
    assert timed_data.copies_for(1 << 20, 0) == 1


def test_a_copy_of_arguments_shares_no_memory_but_the_bounds_of_sequences() -> None:
    case = tiny("gdn.extend").case
    first = arrange(case, inputs.draw(case), "cpu")
    second = timed_data.copied(first)
    for name, tensor in first.tensors.items():
        other = second.tensors[name]
        if tensor is not None:
            assert other is not None
            assert torch.equal(other, tensor)
            assert (other.data_ptr() == tensor.data_ptr()) == (name == "cu_seqlens")
            assert other.stride() == tensor.stride()


# What is checked


def test_a_cut_case_is_small_and_has_the_same_build() -> None:
    case = named("gdn.extend 8x1024 16/64").case
    small = row_check.cut(case)
    assert small.lens == (140, 140)
    assert replace(small, lens=case.lens, pool=case.pool) == case
    verify = row_check.cut(named("kda.verify 256x4 32/32").case)
    assert (verify.lens, verify.pool.steps, verify.pool.rows) == ((4, 4), 4, (0, 1))


@pytest.mark.parametrize("op", ["gdn.extend", "kda.extend", "gdn.decode", "kda.verify"])
def test_lanes_are_a_case_of_their_own(op: str) -> None:
    """The oracle finds in them what it finds in the whole case."""
    small = tiny(op).case
    pool = replace(small.pool, slots=3, indices=(0, 1, 2), buffer=3 if small.pool.rows else 0)
    pool = replace(pool, rows=(0, 1, 2) if small.pool.rows else ())
    case = replace(small, lens=small.lens[:1] * 3, HV=4, H=2 if op.startswith("gdn") else 4, pool=pool)
    data, lanes = inputs.draw(case), row_check.Lanes((0, 2), (0, 3))
    part = row_check.case_of(case, lanes)
    whole, own = oracle.expected(case, data), oracle.expected(part, row_check.data_of(case, data, lanes))
    length = case.lens[0]
    rows = torch.cat([torch.arange(length), torch.arange(2 * length, 3 * length)])
    assert torch.equal(own.o, whole.o[rows][:, [0, 3]])
    assert torch.equal(own.state, whole.state[[0, 2]][:, [0, 3]])


def test_the_truth_of_lanes_may_come_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of the recurrence, which is not run then."""
    case, stored = long_case(), [("o", torch.bfloat16), ("state", torch.float32)]
    data = timed_data.draw(case)
    stepped = noise.reference(case, data, CHUNKED, stored)
    monkeypatch.setattr(oracle, "along", lambda *given: pytest.fail("the recurrence was run"))
    chunked = noise.reference(case, data, CHUNKED, stored, by_chunks=True)
    for name, truth in stepped.truth.items().items():
        other = chunked.truth.items()[name]
        assert (other - truth).abs().max() <= 1e-9 * truth.abs().max()
        assert torch.allclose(chunked.noise[name], stepped.noise[name])


def judged(toy: str, case: Case) -> dict[str, float]:
    target, data = get(f"{TOYS}:{toy}"), timed_data.draw(case)
    arguments = arrange(case, data, "cpu")
    return row_check.judge_lanes(case, data, arguments, target, "interpret")


def test_right_results_at_full_size_pass() -> None:
    shares = judged("right", long_case())
    assert set(shares) == {"o", "state"}
    assert all(0.0 < share < 1.0 for share in shares.values())


def test_what_is_wrong_at_full_size_alone_is_found_on_its_lanes() -> None:
    """The cut case passes, and the token lies behind all that it has."""
    target = get(f"{TOYS}:wrong_when_long")
    assert row_check.judge_cut(long_case(), target, "interpret").ok
    with pytest.raises(BeyondBound, match="error"):
        judged("wrong_when_long", long_case())


def test_what_is_no_number_is_found_outside_of_the_lanes_too() -> None:
    assert 1 not in row_check.lanes_of(long_case()).heads
    with pytest.raises(NotFinite, match="16 of 19200 elements"):
        judged("hole_when_long", long_case())
