"""The recurrent kernels keep their contract: a sentence of it a test, against a plain float64 recurrence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from diffgdn.backend import selection

selection.enter(selection.detect())

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.compiler import CUDABackend  # noqa: E402
from triton.runtime.jit import JITFunction, create_function_from_signature  # noqa: E402

from diffgdn.kernels import (  # noqa: E402
    fused_recurrent_gated_delta_rule,
    fused_recurrent_gated_delta_rule_packed_decode,
    fused_recurrent_gated_delta_rule_update,
    fused_recurrent_kda,
    fused_recurrent_kda_packed_decode,
    fused_sigmoid_gating_delta_rule_update,
    tiles,
)
from diffgdn.kernels.device import INTERPRETED  # noqa: E402
from diffgdn.kernels.fold import fold_kernel, launch_fold  # noqa: E402
from diffgdn.kernels.recurrent import recurrent_kernel  # noqa: E402
from diffgdn.kernels.recurrent_launch import is_aligned, launch  # noqa: E402
from diffgdn.kernels.step_changes import change_numbers  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
both = pytest.mark.parametrize("kda", [False, True], ids=["gdn", "kda"])


# -- the truth --


def walk(
    S: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    l2norm: bool = False,
    parents: Sequence[int] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """One sequence [T, ...] from S [HV, V, K] in float64: outputs [T, HV, V], states after each step."""
    q, k, v, g, beta = (x.double() for x in (q, k, v, g, beta))
    group = v.shape[1] // q.shape[1]
    q, k = (x.repeat_interleave(group, 1) for x in (q, k))
    if l2norm:
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    start, S = S.double(), S.double()
    outputs, states = list[Tensor](), list[Tensor]()
    for t in range(q.shape[0]):
        if parents is not None and t > 0:
            S = states[parents[t]] if parents[t] >= 0 else start
        a = g[t].exp()
        S = S * (a[:, None, :] if a.ndim == 2 else a[:, None, None])
        d = beta[t, :, None] * (v[t] - torch.einsum("hvk,hk->hv", S, k[t]))
        S = S + d[:, :, None] * k[t][:, None, :]
        outputs.append(scale * torch.einsum("hvk,hk->hv", S, q[t]))
        states.append(S)
    return outputs, states


def decay(
    a: Tensor, A_log: Tensor, dt_bias: Tensor, HV: int, K: int | None, lower_bound: float | None = None
) -> Tensor:
    """Log decay of raw gates a [..., HV] or, with K, [..., HV * K], in float64."""
    x = a.double() + dt_bias.double().flatten()
    rate = A_log.double().flatten().exp()
    if K is not None:
        x, rate = x.unflatten(-1, (HV, K)), rate[:, None]
    return lower_bound * torch.sigmoid(rate * x) if lower_bound is not None else -rate * F.softplus(x)


def close(actual: Tensor, expected: Tensor) -> None:
    """Equal up to fp32 arithmetic on the way and one rounding to the dtype of `actual` at the end."""
    one_rounding = {BF16: 2**-8, FP16: 2**-11, FP32: 0}[actual.dtype]
    assert actual.shape == expected.shape
    torch.testing.assert_close(
        actual.double(),
        expected.double(),
        rtol=one_rounding * 1.01,
        atol=1e-5 * max(1.0, expected.abs().max().item()),
    )


# -- inputs --


class Inputs:
    """B * T tokens for update, decode and whole sequences, with a pool of five slots."""

    def __init__(
        self,
        kda: bool = False,
        B: int = 2,
        T: int = 1,
        H: int = 1,
        HV: int = 2,
        K: int = 8,
        V: int = 6,
        dtype: torch.dtype = FP32,
        state: torch.dtype = FP32,
        slots: int = 5,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.kda, self.B, self.T, self.H, self.HV, self.K, self.V = kda, B, T, H, HV, K, V
        make = lambda *shape: torch.randn(*shape, device=DEVICE).to(dtype)
        self.q, self.k, self.v = make(B, T, H, K), make(B, T, H, K), make(B, T, HV, V)
        self.a, self.b = make(B, T, HV * K if kda else HV), make(B, T, HV)
        self.A_log = torch.randn(HV, device=DEVICE)
        self.dt_bias = torch.randn(HV * K if kda else HV, device=DEVICE)
        self.g = decay(self.a, self.A_log, self.dt_bias, HV, K if kda else None).float()
        self.beta = self.b.float().sigmoid()
        self.pool = torch.randn(slots, HV, V, K, device=DEVICE).to(state)
        self.scale = K**-0.5

    def tokens(self, *names: str) -> list[Tensor]:
        """The named tensors as [B * T, ...]."""
        return [getattr(self, name).flatten(0, 1) for name in names]

    def decode(self, pool: Tensor, indices: Tensor, **options: Any) -> Any:
        return fused_sigmoid_gating_delta_rule_update(
            self.A_log,
            self.a,
            self.dt_bias,
            1.0,
            20.0,
            self.q,
            self.k,
            self.v,
            self.b,
            pool,
            indices,
            is_kda=self.kda,
            **options,
        )

    def update(self, pool: Tensor | None, indices: Tensor | None, **options: Any) -> Any:
        return fused_recurrent_gated_delta_rule_update(
            self.q, self.k, self.v, self.g, self.beta, None, pool, indices, **options
        )

    def truth(
        self,
        pool: Tensor,
        indices: Sequence[int],
        bounds: Sequence[int],
        l2norm: bool = False,
        parents: Sequence[Sequence[int]] | None = None,
    ) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """For sequences between bounds: outputs [B, T, HV, V], the pool after, each one's states by step."""
        q, k, v, g, beta = self.tokens("q", "k", "v", "g", "beta")
        o = torch.zeros(v.shape, dtype=torch.float64, device=DEVICE)
        after, kept = pool.double(), []
        for n, (start, end) in enumerate(pairwise(bounds)):
            i = indices[n]
            S = (
                pool[i].double()
                if i >= 0
                else torch.zeros(self.HV, self.V, self.K, dtype=torch.float64, device=DEVICE)
            )
            s = slice(start, end)
            tree = None if parents is None else parents[n]
            outputs, states = walk(S, q[s], k[s], v[s], g[s], beta[s], self.scale, l2norm, tree)
            if outputs:
                o[s] = torch.stack(outputs)
                if i >= 0:
                    after[i] = states[-1]
            kept.append(states)
        return o.unflatten(0, (self.B, self.T)), after, kept


def ints(*values: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


# -- decode --


@both
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("state", [BF16, FP16, FP32], ids=["S-bf16", "S-fp16", "S-fp32"])
def test_decode_in_every_dtype(kda: bool, dtype: torch.dtype, state: torch.dtype) -> None:
    x = Inputs(kda, dtype=dtype, state=state, B=1, HV=1)
    pool = x.pool.clone()
    o = x.decode(pool, ints(3))
    expected, after, _ = x.truth(x.pool, [3], [0, 1])
    assert o.dtype == dtype
    assert pool.dtype == state
    close(o, expected)
    close(pool, after)


@pytest.mark.parametrize(
    ("K", "V"), [(1, 1), (1, 3), (3, 1), (16, 16), (20, 7), (60, 100), (128, 128), (256, 17), (17, 256)]
)
@both
def test_decode_for_head_dims_from_1_to_256(kda: bool, K: int, V: int) -> None:
    x = Inputs(kda, B=1, HV=1, K=K, V=V)
    pool = x.pool.clone()
    o = x.decode(pool, ints(0), use_qk_l2norm_in_kernel=True)
    expected, after, _ = x.truth(x.pool, [0], [0, 1], l2norm=True)
    close(o, expected)
    close(pool, after)


@both
def test_padding_starts_from_zero_and_writes_no_state_while_slot_0_is_real(kda: bool) -> None:
    x = Inputs(kda, B=3)
    pool = x.pool.clone()
    o = x.decode(pool, ints(-1, 0, -7))
    expected, after, _ = x.truth(x.pool, [-1, 0, -7], [0, 1, 2, 3])
    close(o, expected)
    close(pool, after)
    assert torch.equal(pool[1:], x.pool[1:])


@pytest.mark.parametrize("H", [1, 2, 4])
@both
def test_query_heads_are_shared_by_their_group_of_value_heads(kda: bool, H: int) -> None:
    x = Inputs(kda, B=1, H=H, HV=4)
    pool = x.pool.clone()
    expected, after, _ = x.truth(x.pool, [2], [0, 1])
    close(x.decode(pool, ints(2)), expected)
    close(pool, after)


def test_a_scale_is_applied_once() -> None:
    x = Inputs(B=1)
    x.scale = 0.25
    expected, _, _ = x.truth(x.pool, [2], [0, 1])
    close(x.decode(x.pool, ints(2), scale=0.25), expected)


@both
def test_gates_keep_their_digits_at_both_ends(kda: bool) -> None:
    x = Inputs(kda, B=1, T=6, HV=1, K=4)
    extremes = torch.tensor([-200.0, -30.0, 0.0, 19.99, 20.01, 200.0], device=DEVICE)
    x.a[:] = extremes[None, :, None]
    x.b[:] = extremes.flip(0)[None, :, None]
    x.A_log[:] = -1.0
    x.g = decay(x.a, x.A_log, x.dt_bias, 1, 4 if kda else None)
    x.beta = x.b.double().sigmoid()
    pool = x.pool.clone()
    expected, after, _ = x.truth(x.pool, [0], [0, 6])
    close(x.decode(pool, ints(0)), expected)
    close(pool, after)


def test_the_lower_bound_scales_a_sigmoid_and_clamps_nothing() -> None:
    x = Inputs(kda=True, B=1, T=3)
    x.g = decay(x.a, x.A_log, x.dt_bias, x.HV, x.K, lower_bound=-5.0)
    pool = x.pool.clone()
    expected, after, _ = x.truth(x.pool, [4], [0, 3])
    close(x.decode(pool, ints(4), lower_bound=-5.0), expected)
    close(pool, after)


def test_softplus_beta_and_threshold_are_honoured() -> None:
    x = Inputs(B=1, T=2)
    raw = x.a.double() + x.dt_bias.double()
    bent = torch.where(2.0 * raw > 0.5, raw, torch.log1p(torch.exp(2.0 * raw)) / 2.0)
    x.g = -x.A_log.double().exp() * bent
    expected, _, _ = x.truth(x.pool, [1], [0, 2])
    o = fused_sigmoid_gating_delta_rule_update(
        x.A_log, x.a, x.dt_bias, 2.0, 0.5, x.q, x.k, x.v, x.b, x.pool, ints(1)
    )
    close(o, expected)


@pytest.mark.parametrize("form", ["tokens", "tokens-heads", "batch", "batch-heads"])
@both
def test_raw_gates_come_in_every_shape_that_callers_use(kda: bool, form: str) -> None:
    x = Inputs(kda, B=2, T=2)
    expected, _, _ = x.truth(x.pool, [1, 2], [0, 2, 4])
    if kda and form.endswith("heads"):
        x.a = x.a.unflatten(-1, (x.HV, x.K))
    if form.startswith("tokens"):
        x.a, x.b = x.a.flatten(0, 1), x.b.flatten(0, 1)
    x.A_log = x.A_log.view(1, 1, x.HV, 1)
    x.dt_bias = x.dt_bias.view(x.HV, -1)
    close(x.decode(x.pool, ints(1, 2)), expected)


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=["int32", "int64"])
@both
def test_several_tokens_a_sequence_with_empty_sequences_anywhere(kda: bool, index: torch.dtype) -> None:
    x = Inputs(kda, B=1, T=7)
    bounds, slots = [0, 0, 3, 3, 5, 5], [4, 0, 1, -1, 2]
    pool = x.pool.clone()
    o = x.decode(pool, ints(*slots, dtype=index), cu_seqlens=ints(*bounds, dtype=index))
    expected, after, _ = x.truth(x.pool, slots, bounds)
    close(o, expected)
    close(pool, after)
    assert torch.equal(pool[[4, 1, 2, 3]], x.pool[[4, 1, 2, 3]])


@both
def test_output_rows_past_the_last_sequence_are_zero_whatever_is_in_their_tokens(kda: bool) -> None:
    x = Inputs(kda, B=1, T=5)
    for tensor in (x.q, x.k, x.v, x.a, x.b):
        tensor[:, 3:] = float("nan")
    for bounds in ([0, 3], [0, 3, 3], [0, 0]):
        o = x.decode(x.pool, ints(*range(len(bounds) - 1)), cu_seqlens=ints(*bounds))
        assert torch.equal(o[:, bounds[-1] :], torch.zeros_like(o[:, bounds[-1] :]))
        assert o[:, : bounds[-1]].isfinite().all()


def test_no_sequences_at_all_give_zero_outputs() -> None:
    x = Inputs(B=1, T=3)
    pool = x.pool.clone()
    o = x.decode(pool, ints(), cu_seqlens=ints(0))
    assert torch.equal(o, torch.zeros_like(x.v))
    assert torch.equal(pool, x.pool)


@both
def test_sequences_may_cut_a_batch_of_several_rows(kda: bool) -> None:
    x = Inputs(kda, B=3, T=2)
    bounds, slots = [0, 1, 5], [2, 0]
    expected, after, _ = x.truth(x.pool, slots, bounds)
    pool = x.pool.clone()
    close(x.decode(pool, ints(*slots), cu_seqlens=ints(*bounds)), expected)
    close(pool, after)


def strided(x: Tensor, dim: int, factor: int, noise: float) -> Tensor:
    """A view equal to x into a larger tensor full of noise, its stride at dim `factor` times the needed."""
    shape = list(x.shape)
    shape[dim] *= factor
    backing = torch.full(shape, noise, dtype=x.dtype, device=x.device)
    view: Tensor = backing.unflatten(dim, (x.shape[dim], factor)).select(dim + 1, 0)
    view.copy_(x)
    return view


@pytest.mark.parametrize("dim", [0, 1, 2])
@both
def test_strided_inputs_are_read_where_they_lie_also_where_hv_equals_h(kda: bool, dim: int) -> None:
    x = Inputs(kda, B=2, T=2, H=2, HV=2)
    expected, after, _ = x.truth(x.pool, [1, 3], [0, 2, 4])
    for name in ("q", "k", "v") if dim == 2 else ("q", "k", "v", "a", "b"):
        setattr(x, name, strided(getattr(x, name), dim, 3, float("nan")))
    pool = x.pool.clone()
    close(x.decode(pool, ints(1, 3)), expected)
    close(pool, after)


@pytest.mark.parametrize("layout", ["vk", "kv"])
@both
def test_update_works_in_a_pool_that_is_a_view_of_a_wider_envelope(kda: bool, layout: str) -> None:
    x = Inputs(kda, B=2)
    native = x.pool if layout == "vk" else x.pool.transpose(-1, -2).contiguous()
    for dim in (0, 1, 2):
        pool = strided(native, dim, 2, 7.0)
        backing = pool._base
        assert backing is not None
        before = backing.clone()
        o = x.update(pool, ints(4, 1), layout=layout)
        expected, after, _ = x.truth(x.pool, [4, 1], [0, 1, 2])
        close(o, expected)
        close(pool.contiguous(), after if layout == "vk" else after.transpose(-1, -2))
        assert torch.sum(backing != before) <= 2 * x.HV * x.V * x.K


def test_a_pool_past_two_to_the_31_elements_is_addressed_in_64_bits() -> None:
    x = Inputs(B=1)
    pitch = 2**30 + 64
    memory = torch.empty(
        pitch * 4, dtype=BF16, device=DEVICE
    )  # pages that nothing touches cost a CPU nothing
    pool = memory.as_strided((4, x.HV, x.V, x.K), (pitch, x.V * x.K, x.K, 1))
    pool[3] = x.pool[0].to(BF16)
    expected, after, _ = x.truth(pool[3:].float(), [0], [0, 1])
    close(x.decode(pool, ints(3)), expected)
    close(pool[3], after[0])


@pytest.mark.parametrize(
    ("x", "aligned", "in_any_batch"),
    [
        (torch.zeros(2, 3, 8, dtype=BF16), True, True),
        (torch.zeros(2, 3, 20, dtype=BF16), False, False),
        (torch.zeros(2, 3, 20), True, True),
        (torch.zeros(1, 1, 20, dtype=BF16), True, False),
        (torch.zeros(2, 3, 16, dtype=BF16)[..., 8:], True, True),
        (torch.zeros(2, 3, 16, dtype=BF16)[..., 4:12], False, False),
    ],
    ids=["rows of 16 bytes", "of 40", "of 80", "a single row of 40", "second half", "from the middle"],
)
def test_wide_loads_are_for_rows_that_all_start_on_16_bytes(
    x: Tensor, aligned: bool, in_any_batch: bool
) -> None:
    assert is_aligned(x, whatever_the_sizes=False) == aligned
    assert is_aligned(x, whatever_the_sizes=True) == in_any_batch


@both
def test_inputs_are_read_only(kda: bool) -> None:
    x = Inputs(kda, B=2, T=2)
    before = {name: value.clone() for name, value in vars(x).items() if isinstance(value, torch.Tensor)}
    indices = ints(1, 3)
    x.decode(x.pool, indices, use_qk_l2norm_in_kernel=True, disable_state_update=True)
    for name, value in before.items():
        assert torch.equal(getattr(x, name), value), name
    assert indices.tolist() == [1, 3]


@both
def test_a_state_kept_in_bf16_is_rounded_once_not_at_each_token(kda: bool) -> None:
    x = Inputs(kda, B=1, T=12, HV=1, state=BF16)
    pool = x.pool.clone()
    _, after, _ = x.truth(x.pool, [0], [0, 12])
    x.decode(pool, ints(0))
    close(pool, after)


@both
def test_the_split_over_v_changes_no_bit(kda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = Inputs(kda, B=2, T=2, V=13)
    results = []
    for BV in (4, 16):
        monkeypatch.setattr(tiles, "override", tiles.Tile(BV, 1, 1))
        pool = x.pool.clone()
        results.append((x.decode(pool, ints(1, 3)), pool))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@both
def test_a_sequence_has_the_same_bits_alone_and_in_any_batch(kda: bool) -> None:
    x = Inputs(kda, B=3)
    pool = x.pool.clone()
    o = x.decode(pool, ints(1, 3, 0), batch_invariant=True)
    alone = x.pool.clone()
    for name in ("q", "k", "v", "a", "b"):
        setattr(x, name, getattr(x, name)[1:2])
    assert torch.equal(o[1:2], x.decode(alone, ints(3), batch_invariant=True))
    assert torch.equal(pool[3], alone[3])


# -- update --


@both
@pytest.mark.parametrize("layout", ["vk", "kv"])
def test_update_takes_gates_as_they_are_and_writes_the_pool(kda: bool, layout: str) -> None:
    x = Inputs(kda, B=2, T=3, K=5, V=9)
    pool = x.pool.clone() if layout == "vk" else x.pool.transpose(-1, -2).contiguous()
    o = x.update(pool, ints(3, -1), layout=layout, use_qk_l2norm_in_kernel=True)
    expected, after, _ = x.truth(x.pool, [3, -1], [0, 3, 6], l2norm=True)
    close(o, expected)
    close(pool if layout == "vk" else pool.transpose(-1, -2), after)


def test_update_without_beta_takes_ones_and_without_a_pool_starts_from_zero() -> None:
    x = Inputs(B=2, T=2)
    x.beta = None  # type: ignore[assignment]
    o = x.update(None, None)
    x.beta = torch.ones(2, 2, x.HV, device=DEVICE)
    expected, _, _ = x.truth(x.pool, [-1, -1], [0, 2, 4])
    close(o, expected)


def test_update_can_leave_out_the_output_or_the_state() -> None:
    x = Inputs(B=2, T=2)
    expected, after, _ = x.truth(x.pool, [1, 1], [0, 2, 4])
    pool = x.pool.clone()
    close(x.update(pool, ints(1, 1), disable_state_update=True), expected)
    assert torch.equal(pool, x.pool)
    _, after, _ = x.truth(x.pool, [1, 2], [0, 2, 4])
    x.update(pool, ints(1, 2), disable_output_calculation=True)
    close(pool, after)


@pytest.mark.parametrize("g", [0.0, -1e4, -88.0])
@both
def test_update_survives_gates_of_nothing_and_of_everything(kda: bool, g: float) -> None:
    x = Inputs(kda, B=1, T=3)
    x.g = torch.full_like(x.g, g)
    x.g[:, 1] = 0.0
    pool = x.pool.clone()
    expected, after, _ = x.truth(x.pool, [0], [0, 3])
    close(x.update(pool, ints(0)), expected)
    close(pool, after)


# -- verify --

TREES = {
    "chain": [0, 0, 1, 2, 3],
    "star": [0, 0, 0, 0, 0],
    "far back": [0, 0, 1, 0, 2],
    "two branches": [-1, 0, 0, 1, 2],
    "deep then back": [0, 0, 1, 2, 1],
}


@both
@pytest.mark.parametrize("layout", ["vk", "kv"])
def test_verify_keeps_the_state_after_every_step_and_leaves_the_pool_alone(kda: bool, layout: str) -> None:
    x = Inputs(kda, B=3, T=3)
    turn = lambda s: s if layout == "vk" else s.transpose(-1, -2)
    pool = turn(x.pool).contiguous()
    buffer = torch.full((4, 5, *pool.shape[1:]), 7.0, device=DEVICE)
    o = x.decode(
        pool, ints(1, 1, -1), disable_state_update=True, layout=layout, intermediate_states_buffer=buffer,
        intermediate_state_indices=ints(2, 0, -1, dtype=torch.int64), cache_steps=4,
    )  # fmt: skip
    expected, _, kept = x.truth(x.pool, [1, 1, -1], [0, 3, 6, 9])
    close(o, expected)
    assert torch.equal(turn(pool), x.pool)
    for n, row in ((0, 2), (1, 0)):
        close(turn(buffer[row, :3]).contiguous(), torch.stack(kept[n]))
        assert (buffer[row, 3:] == 7.0).all()
    assert (buffer[[1, 3]] == 7.0).all()


def test_verify_without_buffer_rows_uses_the_slot_numbers() -> None:
    x = Inputs(B=2, T=2)
    buffer = torch.full((5, 2, x.HV, x.V, x.K), 7.0, device=DEVICE)
    x.update(x.pool, ints(3, -1), disable_state_update=True, intermediate_states_buffer=buffer)
    _, _, kept = x.truth(x.pool, [3, -1], [0, 2, 4])
    close(buffer[3], torch.stack(kept[0]))
    assert (buffer[[0, 1, 2, 4]] == 7.0).all()


@pytest.mark.parametrize("tree", TREES)
@both
def test_verify_continues_each_token_from_its_parent(kda: bool, tree: str) -> None:
    parents = [TREES[tree], TREES["star"]]
    x = Inputs(kda, B=2, T=5)
    buffer = torch.zeros(2, 5, x.HV, x.V, x.K, device=DEVICE)
    table = strided(ints(*parents[0], *parents[1]).view(2, 5), 1, 2, 1 << 20)
    o = x.decode(
        x.pool, ints(4, -1), disable_state_update=True, use_qk_l2norm_in_kernel=True,
        retrieve_parent_token=table, intermediate_states_buffer=buffer, intermediate_state_indices=ints(1, 0),
    )  # fmt: skip
    expected, _, kept = x.truth(x.pool, [4, -1], [0, 5, 10], l2norm=True, parents=parents)
    close(o, expected)
    close(buffer[1], torch.stack(kept[0]))
    close(buffer[0], torch.stack(kept[1]))


def test_a_tree_does_not_depend_on_the_buffer_or_its_dtype() -> None:
    x = Inputs(B=1, T=5)
    options = dict(disable_state_update=True, retrieve_parent_token=ints(*TREES["far back"]).view(1, 5))
    without = x.update(x.pool, ints(2), **options)
    buffer = torch.zeros(1, 5, x.HV, x.V, x.K, dtype=BF16, device=DEVICE)
    rows = ints(0)
    kept = x.update(
        x.pool, ints(2), intermediate_states_buffer=buffer, intermediate_state_indices=rows, **options
    )
    assert torch.equal(kept, without)


@both
def test_verify_of_packed_sequences_of_different_lengths(kda: bool) -> None:
    x = Inputs(kda, B=1, T=6)
    bounds, slots, parents = [0, 2, 2, 5], [3, 0, 3], [[0, 0, 9, 9], [9, 9, 9, 9], [9, 0, 0, 9]]
    buffer = torch.full((3, 4, x.HV, x.V, x.K), 7.0, dtype=BF16, device=DEVICE)
    o = x.decode(
        x.pool, ints(*slots), cu_seqlens=ints(*bounds), disable_state_update=True,
        intermediate_states_buffer=buffer, intermediate_state_indices=ints(0, 1, 2),
        retrieve_parent_token=torch.tensor(parents, device=DEVICE),
    )  # fmt: skip
    expected, _, kept = x.truth(x.pool, slots, bounds, parents=parents)
    close(o, expected)
    close(buffer[0, :2], torch.stack(kept[0]))
    close(buffer[2, :3], torch.stack(kept[2]))
    assert (buffer[1] == 7.0).all()
    assert (buffer[2, 3:] == 7.0).all()


# -- packed decode --


def packed(
    x: Inputs,
    out: Tensor | None = None,
    indices: Sequence[int] = (),
    pool: Tensor | None = None,
    **options: Any,
) -> Any:
    mixed = torch.cat([t[:, 0].flatten(1) for t in (x.q, x.k, x.v)], 1)
    function = fused_recurrent_kda_packed_decode if x.kda else fused_recurrent_gated_delta_rule_packed_decode
    wide = strided(mixed, 0, 2, float("nan"))
    return function(
        wide, x.a[:, 0], x.b[:, 0], x.A_log, x.dt_bias, None, pool, out, ints(*indices), **options
    )


@both
@pytest.mark.parametrize("dtype", [BF16, FP32], ids=["bf16", "fp32"])
def test_packed_decode_is_decode_into_the_callers_tensors_with_zero_rows_for_padding(
    kda: bool, dtype: torch.dtype
) -> None:
    x = Inputs(kda, B=3, H=1, HV=2, K=9, V=5, dtype=dtype)
    pool = strided(x.pool, 0, 2, 7.0)
    out = torch.full((3, 1, x.HV, x.V), float("nan"), dtype=dtype, device=DEVICE)
    o, state = packed(x, out, (4, -1, 0), pool, use_qk_l2norm_in_kernel=True)
    expected, after, _ = x.truth(x.pool, [4, -1, 0], [0, 1, 2, 3], l2norm=True)
    expected[1] = 0
    assert o is out
    assert state is pool
    close(out, expected)
    close(pool.contiguous(), after)


def test_packed_kda_decode_takes_a_lower_bound() -> None:
    x = Inputs(kda=True, B=1)
    x.g = decay(x.a, x.A_log, x.dt_bias, x.HV, x.K, lower_bound=-5.0)
    expected, after, _ = x.truth(x.pool, [2], [0, 1])
    out, pool = packed(x, torch.empty_like(x.v), (2,), x.pool.clone(), lower_bound=-5.0)
    close(out, expected)
    close(pool, after)


# -- whole sequences --


def test_whole_gdn_sequences_return_a_final_state_and_leave_the_initial_one() -> None:
    x = Inputs(B=1, T=6, slots=4, state=BF16)
    before = x.pool.clone()
    cu_seqlens = ints(0, 2, 2, 5, 5)
    o, final = fused_recurrent_gated_delta_rule(
        x.q, x.k, x.v, x.g, x.beta, initial_state=x.pool, output_final_state=True, cu_seqlens=cu_seqlens
    )
    expected, after, _ = x.truth(x.pool, range(4), cu_seqlens.tolist())
    close(o, expected)
    close(final, after)
    assert torch.equal(x.pool, before)
    assert torch.equal(final[[1, 3]], before[[1, 3]].float())


def test_whole_gdn_sequences_without_a_state_return_none_for_it() -> None:
    x = Inputs(B=2, T=3, H=2, HV=2, dtype=BF16)
    o, final = fused_recurrent_gated_delta_rule(x.q, x.k, x.v, x.g, x.beta.bfloat16())
    x.beta = x.beta.bfloat16()
    close(o, x.truth(x.pool, [-1, -1], [0, 3, 6])[0])
    assert final is None


def test_dense_sequences_of_no_tokens_return_their_initial_state() -> None:
    x = Inputs(B=2, T=0, slots=2)
    o, final = fused_recurrent_gated_delta_rule(
        x.q, x.k, x.v, x.g, x.beta, initial_state=x.pool, output_final_state=True
    )
    assert o.shape == (2, 0, x.HV, x.V)
    assert torch.equal(final, x.pool)


def test_whole_kda_sequences_write_the_final_state_in_place_or_apart() -> None:
    x = Inputs(kda=True, B=2, T=3, slots=2, state=BF16)
    expected, after, _ = x.truth(x.pool, [0, 1], [0, 3, 6], l2norm=True)
    before = x.pool.clone()
    o, apart = fused_recurrent_kda(
        x.q, x.k, x.v, x.g, x.beta, initial_state=x.pool, inplace_final_state=False
    )
    assert torch.equal(x.pool, before)
    assert apart.dtype == BF16
    close(o, expected)
    close(apart, after)
    o, inplace = fused_recurrent_kda(x.q, x.k, x.v, x.g, x.beta, initial_state=x.pool)
    assert inplace is x.pool
    assert torch.equal(inplace, apart)


def test_whole_kda_sequences_without_an_initial_state_return_a_final_one_when_asked() -> None:
    x = Inputs(kda=True, B=1, T=2)
    call = lambda **options: fused_recurrent_kda(x.q, x.k, x.v, x.g, x.beta, **options)[1]
    assert call() is None
    _, _, kept = x.truth(x.pool, [-1], [0, 2], l2norm=True)
    for options in (dict(output_final_state=True), dict(inplace_final_state=False)):
        final = call(**options)
        assert final.dtype == FP32
        close(final[0], kept[0][-1])


@both
def test_the_same_call_twice_gives_the_same_bits(kda: bool) -> None:
    x = Inputs(kda, B=2, T=3, dtype=BF16)
    first, second = x.pool.clone(), x.pool.clone()
    assert torch.equal(x.decode(first, ints(2, 4)), x.decode(second, ints(2, 4)))
    assert torch.equal(first, second)


# -- what is compiled --


@pytest.fixture
def compiled_for(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return watch(recurrent_kernel, monkeypatch)


@pytest.fixture
def folds_compiled_for(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return watch(fold_kernel, monkeypatch)


def watch(own: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Triton looks compiled kernels up by, of each launch of this kernel, which is left out."""
    found = list[Any]()
    jit = JITFunction(own.fn, **own.kwargs) if INTERPRETED else own
    specialised = create_function_from_signature(
        jit.signature, jit.params, CUDABackend(GPUTarget("cuda", 90, 32))
    )

    def run(kernel: Any, *args: Any, grid: Any, warmup: Any, **options: Any) -> None:
        found.append(str(specialised(*args, **options)[1:]))

    monkeypatch.setattr(type(own), "run", run)
    return found


def launch_verify(
    N: int = 3,
    T: int = 5,
    HV: int = 3,
    slots: int = 4,
    pitch: int = 0,
    offset: int = 0,
    padding: int = 0,
    index_stride: int = 1,
    K: int = 17,
) -> None:
    """Verify with every tensor there is; 17 floats are aligned nowhere. pitch: between slots, if not 0."""
    V, tokens = 16, N * T

    def tensor(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
        """A view with `padding` more in its first axis but one, that starts `offset` elements into memory."""
        whole = [*shape[:1], shape[1] + padding, *shape[2:]] if len(shape) > 1 else list(shape)
        size = torch.Size(whole).numel()
        memory = torch.zeros(size + 4, dtype=dtype, device=DEVICE)[offset : offset + size].view(whole)
        return memory[:, : shape[1]] if len(shape) > 1 else memory

    indices = tensor(N, index_stride, dtype=torch.int32)[:, 0]
    pool = torch.empty(slots, max(pitch, HV * V * K), device="meta")[:, : HV * V * K].unflatten(1, (HV, V, K))
    launch(
        tensor(1, tokens, 1, K), tensor(1, tokens, 1, K), tensor(1, tokens, HV, V), tensor(1, tokens, HV),
        tensor(1, tokens, HV), tensor(1, tokens, HV, V), kda=False, h0=pool, ht=pool, h_indices=indices,
        cu_seqlens=tensor(N + 1, dtype=torch.int32), cache=tensor(N, T, HV, V, K), cache_indices=indices,
        cache_steps=T, parents=tensor(N, T, dtype=torch.int32), scale=0.5, raw_beta=True, A_log=tensor(HV),
        dt_bias=tensor(HV),
    )  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        {"N": 1}, {"N": 16}, {"T": 1}, {"T": 16}, {"HV": 1}, {"HV": 16}, {"slots": 1}, {"slots": 100},
        {"pitch": 2**20}, {"pitch": 2**31 + 7}, {"padding": 1}, {"padding": 11}, {"offset": 1},
        {"index_stride": 4}, {"index_stride": 16},
    ],
    ids=str,
)  # fmt: skip
def test_no_size_stride_or_place_compiles_another_kernel(
    other: dict[str, int], compiled_for: list[Any]
) -> None:
    """Batches, slots and views vary freely: 1, multiples of 16 and numbers past 2^31 are like any other."""
    launch_verify()
    launch_verify(**other)
    first, second = compiled_for
    assert first == second


def fold(N: int = 3, HV: int = 3, steps: int = 5, slots: int = 4, offset: int = 0, K: int = 17) -> None:
    """Commit paths of a tree."""
    row = torch.zeros(N + 1, dtype=torch.int32, device=DEVICE)[offset : offset + N]
    pool = torch.zeros(slots * HV * 16 * K + 1, device=DEVICE)[offset:][: slots * HV * 16 * K]
    changes = torch.zeros(N, steps, 1024, device=DEVICE)[..., : change_numbers(1, HV, K, 16)]
    path = torch.zeros(N, steps, dtype=torch.int64, device=DEVICE)
    launch_fold(
        pool.view(slots, HV, 16, K), row, changes, row, row, path, H=1, kda=False, kv=False,
        batch_invariant=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [{"N": 1}, {"N": 16}, {"HV": 1}, {"HV": 16}, {"steps": 1}, {"steps": 16}, {"slots": 1}, {"offset": 1}],
    ids=str,
)
def test_no_size_stride_or_place_compiles_another_fold(
    other: dict[str, int], folds_compiled_for: list[Any]
) -> None:
    fold()
    fold(**other)
    fold(K=16)
    first, second, third = folds_compiled_for
    assert first == second != third


@pytest.mark.parametrize("other", [{"K": 16}, {"K": 33}], ids=str)
def test_a_head_dimension_compiles_another_kernel(other: dict[str, int], compiled_for: list[Any]) -> None:
    launch_verify()
    launch_verify(**other)
    assert len(set(compiled_for)) == 2


def test_it_compiles_for_a_gpu_with_wide_loads_where_rows_are_aligned(tmp_path: Path) -> None:
    """In a process of its own: this one may interpret. Aligned rows of floats come in fours."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).parent / "compile_recurrent.py"
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    aligned, unaligned, fold, _ = done.stdout.split()
    assert (aligned, unaligned, fold) == ("4", "1", "4")
