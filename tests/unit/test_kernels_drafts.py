"""Verify without stored states, and the commit of accepted steps, keep their contract, a sentence a test.

The verify that stores states, which test_kernels_recurrent.py holds to a float64 recurrence, runs the same
steps: outputs and committed states have its bits, on a GPU as far as two builds of a kernel have the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from diffgdn.backend import selection

selection.enter(selection.detect())

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from diffgdn.kernels import (  # noqa: E402
    change_numbers,
    commit_accepted_steps,
    fused_sigmoid_gating_delta_rule_update,
    fused_sigmoid_gating_delta_rule_verify,
)
from diffgdn.kernels.device import INTERPRETED  # noqa: E402
from diffgdn.kernels.step_changes import parts  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
both = pytest.mark.parametrize("kda", [False, True], ids=["gdn", "kda"])
TREE = (-1, 0, 0, 1, 1, 2)


def ints(*values: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


class Drafts:
    """B drafts of T tokens, a pool of five slots, and both ways to verify them."""

    def __init__(
        self, kda: bool = False, B: int = 2, T: int = 4, H: int = 2, HV: int = 4, K: int = 8, V: int = 6,
        dtype: torch.dtype = FP32, state: torch.dtype = FP32, **options: Any,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        make = lambda *shape: torch.randn(*shape, device=DEVICE).to(dtype)
        self.sizes = (H, HV, K, V, kda)
        self.B, self.T, self.kda, self.layout = B, T, kda, options.get("layout", "vk")
        self.pool = make(5, HV, V, K).to(state)
        if self.layout == "kv":
            self.pool = self.pool.mT.contiguous()
        raw = dict(A_log=make(HV).float(), dt_bias=make(HV * K if kda else HV).float())
        self.call = raw | dict(
            a=make(B, T, HV * K if kda else HV), b=make(B, T, HV), softplus_beta=1.0, softplus_threshold=20.0,
            q=make(B, T, H, K), k=make(B, T, H, K), v=make(B, T, HV, V), is_kda=kda,
            use_qk_l2norm_in_kernel=True, **options,
        )  # fmt: skip

    def changes(self, rows: int = 3, steps: int | None = None) -> Tensor:
        """Numbers of steps that nobody has written, all 7."""
        return torch.full((rows, steps or self.T, change_numbers(*self.sizes)), 7.0, device=DEVICE)

    def verify(
        self, pool: Tensor, slots: Tensor, changes: Tensor, rows: Tensor | None, **more: Any
    ) -> Tensor:
        o: Tensor = fused_sigmoid_gating_delta_rule_verify(
            **self.call | more,
            initial_state_source=pool,
            initial_state_indices=slots,
            step_changes=changes,
            step_change_indices=rows,
        )
        return o

    def stored(
        self, pool: Tensor, slots: Tensor, dtype: torch.dtype = FP32, **more: Any
    ) -> tuple[Tensor, Tensor]:
        """Outputs, and the state after each step [B, T, HV, V, K], of the verify that stores states."""
        N = slots.numel()
        buffer = torch.zeros(N, self.T, *pool.shape[1:], dtype=dtype, device=DEVICE)
        o = fused_sigmoid_gating_delta_rule_update(
            **self.call | more,
            initial_state_source=pool,
            initial_state_indices=slots,
            disable_state_update=True,
            intermediate_states_buffer=buffer,
            intermediate_state_indices=torch.arange(N, device=DEVICE),
        )
        return o, buffer

    def commit(self, pool: Tensor, slots: Tensor, changes: Tensor, counts: Tensor, **more: Any) -> Tensor:
        done: Tensor = commit_accepted_steps(
            pool, slots, changes, counts, is_kda=self.kda, layout=self.layout, **more
        )
        return done


def same(actual: Tensor, expected: Tensor) -> None:
    """Equal; on a GPU but for the order of sums in two builds of the kernel, and a rounding that it moves."""
    if INTERPRETED:
        assert torch.equal(actual, expected)
    else:
        unit = {BF16: 2**-7, FP16: 2**-10, FP32: 2**-20}[actual.dtype]
        torch.testing.assert_close(actual, expected, rtol=0, atol=unit * expected.abs().max().item())


def tree(*rows: Sequence[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32, device=DEVICE)


# -- verify --


@both
@pytest.mark.parametrize("dtype", [BF16, FP32], ids=["bf16", "fp32"])
def test_outputs_are_those_of_the_verify_that_stores_states(kda: bool, dtype: torch.dtype) -> None:
    x = Drafts(kda, dtype=dtype)
    pool, slots = x.pool.clone(), ints(3, 3)
    o = x.verify(pool, slots, x.changes(), ints(2, 0))
    expected, _ = x.stored(x.pool, slots)
    assert o.dtype == dtype
    same(o, expected)
    assert torch.equal(pool, x.pool)


@both
def test_a_change_is_d_k_and_the_log_decay_of_its_step(kda: bool) -> None:
    x = Drafts(kda, lower_bound=-5.0) if kda else Drafts()
    changes = x.changes()
    x.verify(x.pool, ints(3, 1), changes, ints(2, 0))
    _, states = x.stored(x.pool, ints(3, 1))
    d, k, g = (one.double() for one in parts(changes, *x.sizes))
    raw = x.call["k"].double()
    torch.testing.assert_close(
        k[[2, 0]], raw / (raw.square().sum(-1, keepdim=True) + 1e-6).sqrt(), atol=1e-6, rtol=0
    )
    for n, row, slot in ((0, 2, 3), (1, 0, 1)):
        S = x.pool[slot].double()
        for t in range(x.T):
            a = g[row, t].exp()
            S = S * (a.unsqueeze(1) if kda else a.view(-1, 1, 1))
            pushed = (S * k[row, t].repeat_interleave(2, 0).unsqueeze(1)).sum(-1)
            beta = x.call["b"][n, t].double().sigmoid().unsqueeze(-1)
            right = beta * (x.call["v"][n, t].double() - pushed)
            torch.testing.assert_close(d[row, t], right, atol=1e-5, rtol=0)
            S = S + d[row, t].unsqueeze(-1) * k[row, t].repeat_interleave(2, 0).unsqueeze(1)
            torch.testing.assert_close(states[n, t].double(), S, atol=1e-5, rtol=0)
    assert (changes[1] == 7).all()


def test_padding_keeps_nothing_and_steps_past_a_draft_are_not_written() -> None:
    x = Drafts(T=6, B=1)
    changes = x.changes(rows=2, steps=5)
    bounds = ints(0, 2, 2, 5)
    o = x.verify(x.pool, ints(4, 0, -1), changes, ints(1, 0, -1), cu_seqlens=bounds)
    expected, _ = x.stored(x.pool, ints(4, 0, -1), cu_seqlens=bounds)
    same(o, expected)
    assert (changes[0] == 7).all()
    assert (changes[1, 2:] == 7).all()
    assert (changes[1, :2] != 7).all()


def test_rows_go_by_slots_if_none_are_given() -> None:
    x = Drafts()
    own, by_slot = x.changes(rows=5), x.changes(rows=5)
    x.verify(x.pool, ints(4, 2), own, ints(4, 2))
    x.verify(x.pool, ints(4, 2), by_slot, None)
    assert torch.equal(own, by_slot)
    first, second = x.pool.clone(), x.pool.clone()
    x.commit(first, ints(4, 2), own, ints(2, 3), step_change_indices=ints(4, 2))
    x.commit(second, ints(4, 2), own, ints(2, 3))
    assert torch.equal(first, second)


# -- commit --


@both
@pytest.mark.parametrize("layout", ["vk", "kv"])
@pytest.mark.parametrize("state", [BF16, FP16, FP32], ids=["bf16", "fp16", "fp32"])
def test_a_committed_slot_has_the_state_after_the_accepted_steps_bit_for_bit(
    kda: bool, layout: str, state: torch.dtype
) -> None:
    x = Drafts(kda, state=state, layout=layout)
    for first, second in ((0, 1), (2, 3), (4, 0)):
        pool, changes = x.pool.clone(), x.changes()
        x.verify(pool, ints(3, 0), changes, ints(1, 2))
        done = x.commit(pool, ints(3, 0), changes, ints(first, second), step_change_indices=ints(1, 2))
        _, states = x.stored(x.pool, ints(3, 0), dtype=state)
        assert done is pool
        for n, slot, count in ((0, 3, first), (1, 0, second)):
            same(pool[slot], states[n, count - 1] if count else x.pool[slot])
        assert torch.equal(pool[[1, 2, 4]], x.pool[[1, 2, 4]])


@both
def test_the_path_of_a_tree_is_committed_in_its_order(kda: bool) -> None:
    x = Drafts(kda, T=6)
    parents, pool, changes = tree(TREE, TREE), x.pool.clone(), x.changes()
    o = x.verify(pool, ints(1, 4), changes, ints(0, 1), retrieve_parent_token=parents)
    expected, states = x.stored(x.pool, ints(1, 4), retrieve_parent_token=parents)
    same(o, expected)
    path = tree((0, 1, 4, 99), (0, 2, 5, -7))  # past the count nothing is read
    x.commit(
        pool,
        ints(1, 4),
        changes,
        ints(3, 2, dtype=torch.int64),
        step_change_indices=ints(0, 1),
        accepted_path=path,
    )
    same(pool[1], states[0, 4])
    same(pool[4], states[1, 2])


def test_padding_and_rows_that_kept_nothing_commit_nothing() -> None:
    x = Drafts(B=3)
    pool, changes = x.pool.clone(), x.changes()
    x.verify(pool, ints(3, 0, 2), changes, ints(0, 1, 2))
    x.commit(pool, ints(-1, 0, 2), changes, ints(4, 4, 0), step_change_indices=ints(0, -1, 2))
    assert torch.equal(pool, x.pool)


def test_a_slot_without_accepted_steps_keeps_bits_that_no_arithmetic_keeps() -> None:
    x = Drafts()
    changes = x.changes()
    x.verify(x.pool, ints(3, 0), changes, ints(0, 1))
    bits = torch.full(x.pool.shape, 0x7F812345, dtype=torch.int32, device=DEVICE)  # a signalling NaN
    pool = bits.clone().view(FP32)
    x.commit(pool, ints(3, 0), changes, ints(0, 0), step_change_indices=ints(0, 1))
    assert torch.equal(pool.view(torch.int32), bits)


@both
def test_pools_numbers_and_tables_may_be_strided_views(kda: bool) -> None:
    x = Drafts(kda, V=5, K=7)
    slots, rows, counts = ints(3, 9, 0, 9)[::2], ints(2, 9, 0, 9)[::2], ints(3, 9, 1, 9)[::2]
    plain, changes = x.pool.clone(), x.changes()
    x.verify(plain, slots, changes, rows)
    x.commit(plain, slots, changes, counts, step_change_indices=rows)
    memory = torch.full((5, 2, *x.pool.shape[1:]), 7.0, device=DEVICE)
    memory[:, 0] = x.pool
    wide = torch.full((3, x.T, 2, changes.shape[2] + 3), 7.0, device=DEVICE)
    x.verify(memory[:, 0], slots, wide[:, :, 1, 1:-2], rows)
    assert torch.equal(wide[:, :, 1, 1:-2], changes)
    x.commit(memory[:, 0], slots, wide[:, :, 1, 1:-2], counts, step_change_indices=rows)
    assert torch.equal(memory[:, 0], plain)
    wide[:, :, 1, 1:-2], memory[:, 0] = 7.0, 7.0
    assert (wide == 7).all()
    assert (memory == 7).all()


@both
@pytest.mark.parametrize(
    ("K", "V", "H", "HV"), [(1, 1, 1, 1), (3, 200, 1, 3), (130, 17, 2, 2), (64, 64, 1, 2)]
)
def test_commit_for_any_head_dims(kda: bool, K: int, V: int, H: int, HV: int) -> None:
    x = Drafts(kda, B=1, T=2, K=K, V=V, H=H, HV=HV)
    pool, changes = x.pool.clone(), x.changes()
    x.verify(pool, ints(2), changes, ints(0))
    x.commit(pool, ints(2), changes, ints(2), step_change_indices=ints(0))
    _, states = x.stored(x.pool, ints(2))
    same(pool[2], states[0, 1])


def test_a_sequence_does_not_depend_on_the_others_in_its_batch() -> None:
    x = Drafts(B=2)
    pool, changes = x.pool.clone(), x.changes()
    x.verify(pool, ints(3, 0), changes, ints(0, 1))
    alone = pool.clone()
    x.commit(pool, ints(3, 0), changes, ints(2, 4), step_change_indices=ints(0, 1), batch_invariant=True)
    x.commit(alone, ints(3), changes, ints(2), step_change_indices=ints(0), batch_invariant=True)
    assert torch.equal(pool[3], alone[3])


@pytest.mark.parametrize(
    ("counts", "path"), [((9, 9), None), ((2, 2), ((0, 9), (0, -9)))], ids=["counts", "path"]
)
def test_tables_that_were_not_validated_do_not_lead_outside(
    counts: tuple[int, ...], path: tuple[tuple[int, ...], ...] | None
) -> None:
    x = Drafts()
    pool, changes = x.pool.clone(), x.changes(rows=2)
    x.verify(pool, ints(3, 0), changes, ints(0, 1))
    x.commit(
        pool, ints(3, 0), changes, ints(*counts), step_change_indices=ints(0, 1), validate=False,
        accepted_path=None if path is None else tree(*path),
    )  # fmt: skip
    right = x.pool.clone()
    held = (4, 4) if path is None else (2, 2)
    x.commit(
        right, ints(3, 0), changes, ints(*held), step_change_indices=ints(0, 1), validate=False,
        accepted_path=None if path is None else tree((0, 3), (0, 0)),
    )  # fmt: skip
    assert torch.equal(pool, right)
    assert torch.isfinite(pool).all()


def test_no_sequences_are_no_launch() -> None:
    x = Drafts()
    none = ints()
    assert x.commit(x.pool, none, x.changes(), none, step_change_indices=none) is x.pool
