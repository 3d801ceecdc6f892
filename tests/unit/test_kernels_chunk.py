"""The chunk kernels keep their contract: each test is one sentence of it, against a plain float64
recurrence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from diffgdn.backend import selection

selection.enter(selection.detect())

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from diffgdn.kernels import chunk_gated_delta_rule, chunk_kda  # noqa: E402
from diffgdn.kernels.chunk import chunk_tiles as tiles  # noqa: E402
from diffgdn.kernels.device import INTERPRETED  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# What a few roundings to the dtype of q, k, v may do to results of size one; fp32 as it sums.
ROUNDINGS = {BF16: 0.04, FP16: 0.005, FP32: 1e-5}
Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # q, k, v, g, beta
both = pytest.mark.parametrize("kda", [False, True], ids=["gdn", "kda"])


# -- inputs ------------------------------------------------------------------------------------------------


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def inputs(
    kda: bool,
    tokens: int,
    H: int = 1,
    HV: int = 2,
    K: int = 16,
    V: int = 16,
    B: int = 1,
    dtype: torch.dtype = FP32,
    unit: bool = True,
    gate: float = 0.3,
) -> Five:
    """q, k, v, g, beta: rows of q and k of length one (rounded), gates of this typical size."""
    q, k, v = draw(B, tokens, H, K, seed=1), draw(B, tokens, H, K, seed=2), draw(B, tokens, HV, V, seed=3)
    if unit:
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    g = -gate * draw(B, tokens, HV, *([K] if kda else []), seed=4).abs()
    return q.to(dtype), k.to(dtype), v.to(dtype), g, draw(B, tokens, HV, seed=5).sigmoid()


def bounds(lens: list[int], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor([0, *lens], device=DEVICE).cumsum(0).to(dtype)


def index(*slots: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(slots, device=DEVICE, dtype=dtype)


def extend(
    kda: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    chunk_size: int = 16,
    **options: Any,
) -> tuple[Any, ...]:
    """Either function; returns o, the final state, the boundary states."""
    boundary = options.pop("boundary", True)
    final = options.pop("output_final_state", True)
    if not kda:
        returned: tuple[Any, ...] = chunk_gated_delta_rule(
            q,
            k,
            v,
            g,
            beta,
            chunk_size=chunk_size,
            output_final_state=final,
            output_boundary_states=boundary,
            **options,
        )
        return returned
    results = chunk_kda(
        q,
        k,
        v,
        g,
        beta,
        chunk_size=chunk_size,
        output_final_state=final,
        output_intermediate_states=boundary,
        **options,
    )
    results = results if isinstance(results, tuple) else (results,)
    return results[0], results[-1] if final else None, results[1] if boundary else None


# -- the truth ---------------------------------------------------------------------------------------------


def walk(
    S: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    l2norm: bool = False,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """One sequence [T, ...] from state S [HV, V, K], in float64: outputs [T, HV, V], the state before each
    step, the last one."""
    S, q, k, v, g, beta = (x.double() for x in (S, q, k, v, g, beta))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k = (x.repeat_interleave(v.shape[1] // q.shape[1], 1) for x in (q, k))
    if l2norm:
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    outputs, before = [], []
    for t in range(q.shape[0]):
        before.append(S)
        a = g[t].exp()
        S = S * (a[:, None, :] if a.ndim == 2 else a[:, None, None])
        d = beta[t, :, None] * (v[t] - torch.einsum("hvk,hk->hv", S, k[t]))
        S = S + d[:, :, None] * k[t][:, None, :]
        outputs.append(scale * torch.einsum("hvk,hk->hv", S, q[t]))
    return torch.stack(outputs) if outputs else v, before, S


def truth(
    tensors: Sequence[Tensor],
    lens: list[int],
    starts: Tensor | None = None,
    chunk_size: int = 16,
    **options: Any,
) -> tuple[Tensor, Tensor, Any]:
    """Packed sequences of these lengths, starts [N, HV, V, K]: o of their tokens, final states, boundary
    states."""
    q, k, v, g, beta = (x.flatten(0, 1) for x in tensors)
    zero = v.new_zeros(v.shape[1], v.shape[2], q.shape[2])
    outputs, finals, boundaries, at = [], [], [], 0
    for n, length in enumerate(lens):
        cut = slice(at, at + length)
        o, before, S = walk(
            zero if starts is None else starts[n], *(x[cut] for x in (q, k, v, g, beta)), **options
        )
        outputs.append(o)
        finals.append(S)
        boundaries += before[::chunk_size]
        at += length
    return torch.cat(outputs), torch.stack(finals), torch.stack(boundaries) if boundaries else None


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype = FP32) -> None:
    """Equal up to the roundings that a computation in `dtype` makes, measured against the size of the
    whole."""
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=ROUNDINGS[dtype], atol=ROUNDINGS[dtype] * size
    )


# -- values ------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=["bf16", "fp16", "fp32"])
def test_agrees_with_the_recurrence(kda: bool, dtype: torch.dtype) -> None:
    tensors, lens = inputs(kda, 40, dtype=dtype), [33, 7]
    pool = draw(4, 2, 16, 16, seed=6)
    start = pool.clone()
    o, final, h = extend(
        kda,
        *tensors,
        initial_state=pool,
        initial_state_indices=index(3, 1),
        cu_seqlens=bounds(lens),
        chunk_size=16,
    )
    expected_o, expected_final, expected_h = truth(tensors, lens, start[[3, 1]])
    assert (o.dtype, final.dtype, h.dtype) == (dtype, FP32, dtype)
    close(o[0], expected_o, dtype)
    close(final, expected_final, dtype)
    close(h[0], expected_h, dtype)
    assert torch.equal(pool[[3, 1]], final)


@both
@pytest.mark.parametrize("chunk_size", [16, 32, 64])
def test_any_chunk_size_gives_the_same(kda: bool, chunk_size: int) -> None:
    """... for a length that fills neither the last chunk nor its last block of 16."""
    tensors = inputs(kda, 75, HV=1)
    o, final, h = extend(kda, *tensors, chunk_size=chunk_size)
    expected_o, expected_final, expected_h = truth(tensors, [75], chunk_size=chunk_size)
    close(o[0], expected_o)
    close(final, expected_final)
    close(h[0], expected_h)


@both
@pytest.mark.parametrize("length", [1, 15, 16, 17, 32])
def test_lengths_around_a_chunk(kda: bool, length: int) -> None:
    tensors = inputs(kda, length, HV=1)
    o, final, h = extend(kda, *tensors)
    expected_o, expected_final, expected_h = truth(tensors, [length])
    close(o[0], expected_o)
    close(final, expected_final)
    close(h[0], expected_h)


@both
@pytest.mark.parametrize(("H", "HV"), [(2, 2), (2, 6)], ids=["HV=H", "HV=3H"])
def test_value_heads_in_groups(kda: bool, H: int, HV: int) -> None:
    """Each head has its own gates, beta, state and slot; query head h serves value heads from h * HV / H
    on."""
    tensors = inputs(kda, 18, H=H, HV=HV)
    o, final, _ = extend(kda, *tensors)
    expected_o, expected_final, _ = truth(tensors, [18])
    close(o[0], expected_o)
    close(final, expected_final)


@both
@pytest.mark.parametrize(("K", "V"), [(1, 1), (3, 20), (20, 3), (40, 24)])
def test_head_dimensions_that_are_no_powers_of_two(kda: bool, K: int, V: int) -> None:
    tensors = inputs(kda, 20, HV=1, K=K, V=V)
    start = draw(1, 1, V, K, seed=6)
    o, final, h = extend(kda, *tensors, initial_state=start, inplace_update=False)
    expected_o, expected_final, expected_h = truth(tensors, [20], start)
    close(o[0], expected_o)
    close(final, expected_final)
    close(h[0], expected_h)


@both
def test_head_dimensions_of_256(kda: bool) -> None:
    tensors = inputs(kda, 17, HV=1, K=256, V=256)
    o, final, _ = extend(kda, *tensors)
    expected_o, expected_final, _ = truth(tensors, [17])
    close(o[0], expected_o)
    close(final, expected_final)


@both
def test_blocks_of_k_and_v_smaller_than_the_whole(kda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does for large heads."""
    small = {"BK": 16, "BV": 16}
    overrides = {
        "wy_gdn": small,
        "wy_kda": small | {"BC": 8, "LEAF": 4},
        "output": small,
        "state": {"BV": 16},
    }
    for stage, entries in overrides.items():
        monkeypatch.setitem(tiles.OVERRIDES, stage, entries)
    tensors = inputs(kda, 35, HV=1, K=24, V=40)
    start = draw(1, 1, 40, 24, seed=6)
    o, final, h = extend(kda, *tensors, initial_state=start, inplace_update=False, chunk_size=32)
    expected_o, expected_final, expected_h = truth(tensors, [35], start, chunk_size=32)
    close(o[0], expected_o)
    close(final, expected_final)
    close(h[0], expected_h)


@both
@pytest.mark.parametrize("dtype", [BF16, FP32], ids=["bf16", "fp32"])
def test_l2norm_inside(kda: bool, dtype: torch.dtype) -> None:
    """q and k of any length are scaled to one; a zero row stays zero."""
    q, k, v, g, beta = inputs(kda, 20, dtype=dtype, unit=False)
    q[0, 3], k[0, 5] = 0, 0
    q[0, 7] *= 100
    o, final, _ = extend(kda, q, k, v, g, beta, use_qk_l2norm_in_kernel=True)
    expected_o, expected_final, _ = truth((q, k, v, g, beta), [20], l2norm=True)
    close(o[0], expected_o, dtype)
    close(final, expected_final, dtype)


@both
def test_scale_multiplies_the_output_once(kda: bool) -> None:
    tensors = inputs(kda, 20)
    expected, _, _ = truth(tensors, [20], scale=1.0)
    close(extend(kda, *tensors, scale=3)[0][0], 3 * expected)
    close(extend(kda, *tensors)[0][0], expected / 4)


@both
def test_gates_and_beta_in_the_dtype_of_q(kda: bool) -> None:
    q, k, v, g, beta = inputs(kda, 20, dtype=BF16)
    o, final, _ = extend(kda, q, k, v, g.bfloat16(), beta.bfloat16())
    expected_o, expected_final, _ = truth((q, k, v, g.bfloat16(), beta.bfloat16()), [20])
    close(o[0], expected_o, BF16)
    close(final, expected_final, BF16)


# -- gates -------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("chunk_size", [16, 64])
@pytest.mark.parametrize("strength", [30.0, 3000.0, float("inf")])
def test_strong_gates_stay_finite_and_forgotten_keys_stay_forgotten(
    kda: bool, chunk_size: int, strength: float
) -> None:
    """Decay past fp32's range inside a chunk, mixed with no decay at all, by token and (kda) by channel."""
    q, k, v, g, beta = inputs(kda, 70, HV=1)
    g = torch.where(draw(*g.shape, seed=7) > 0.5, -strength, 0.0)
    start = draw(1, 1, 16, 16, seed=6)
    o, final, h = extend(
        kda, q, k, v, g, beta, initial_state=start, inplace_update=False, chunk_size=chunk_size
    )
    expected_o, expected_final, expected_h = truth((q, k, v, g, beta), [70], start, chunk_size=chunk_size)
    close(o[0], expected_o)
    close(final, expected_final)
    close(h[0], expected_h)


@both
def test_strong_gates_in_bf16(kda: bool) -> None:
    q, k, v, g, beta = inputs(kda, 70, HV=1, dtype=BF16)
    g = torch.where(draw(*g.shape, seed=7) > 0.5, -2661.0, 0.0)
    o, final, _ = extend(kda, q, k, v, g, beta, chunk_size=64)
    expected_o, expected_final, _ = truth((q, k, v, g, beta), [70])
    close(o[0], expected_o, BF16)
    close(final, expected_final, BF16)


@pytest.mark.skipif(not INTERPRETED, reason="a GPU has tiles of its own")
def test_the_interpreter_has_loops_over_tiles_too() -> None:
    """Where a head is large: small cases, of which most are, stay as quick as they were."""
    for stage in ("wy_gdn", "wy_kda", "output"):
        large = tiles.tile(stage, torch.float32, 64, 128, 96)
        assert (large["BK"], large["BV"]) == (64, 64)
        assert large.get("BC", 64) == 64
        small = tiles.tile(stage, torch.float32, 64, 64, 33)
        assert (small["BK"], small["BV"]) == (64, 64)
    assert tiles.tile("state", torch.float32, 64, 256, 256)["BK"] == 256


@pytest.mark.parametrize("leaf", [1, 2, 4, 8])
def test_kda_gates_split_further_down(leaf: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU does it: matrix products with split exponents even between neighbouring tokens."""
    monkeypatch.setitem(tiles.OVERRIDES, "wy_kda", {"LEAF": leaf})
    q, k, v, g, beta = inputs(True, 41, HV=1)
    g = torch.where(draw(*g.shape, seed=7) > 0.5, -1000.0, g)
    o, final, _ = extend(True, q, k, v, g, beta, chunk_size=32)
    expected_o, expected_final, _ = truth((q, k, v, g, beta), [41])
    close(o[0], expected_o)
    close(final, expected_final)


@both
def test_full_decay_on_every_token_leaves_each_token_its_own(kda: bool) -> None:
    """o_i = scale beta_i (k_i . q_i) v_i, and the last token's delta alone is the state."""
    q, k, v, g, beta = inputs(kda, 70, HV=1)
    o, final, h = extend(kda, q, k, v, torch.full_like(g, -1e4), beta, chunk_size=64)
    alone = beta[0, :, 0, None] * v[0, :, 0]
    close(o[0, :, 0], alone * (k * q).sum(-1)[0] / 4)
    close(final[0, 0], alone[-1, :, None] * k[0, -1])
    assert h[0, 0].abs().max() == 0


@both
def test_no_decay_at_all(kda: bool) -> None:
    q, k, v, g, beta = inputs(kda, 40)
    o, final, _ = extend(kda, q, k, v, torch.zeros_like(g), beta)
    expected_o, expected_final, _ = truth((q, k, v, torch.zeros_like(g), beta), [40])
    close(o[0], expected_o)
    close(final, expected_final)


@both
def test_decay_right_before_the_end_of_a_sequence_is_felt(kda: bool) -> None:
    """A chunk's last token is its own last one, not its last row's."""
    q, k, v, g, beta = inputs(kda, 19, HV=1)
    g = torch.zeros_like(g)
    g[0, 18] = -1.0
    _, final, _ = extend(kda, q, k, v, g, beta)
    close(final, truth((q, k, v, g, beta), [19])[1])


@both
@pytest.mark.parametrize("chunk_size", [16, 32, 64])
def test_near_parallel_keys(kda: bool, chunk_size: int) -> None:
    """Where powers of the chunk's matrix reach 1e18 and cancel: fp32 keeps its digits all the same."""
    q, k, v, g, beta = inputs(kda, 64, HV=1)
    k = F.normalize(k[:, :1] + 0.01 * k, dim=-1)
    beta = torch.full_like(beta, 0.98)
    o, final, _ = extend(kda, q, k, v, 1e-3 * g, beta, chunk_size=chunk_size)
    expected_o, expected_final, _ = truth((q, k, v, 1e-3 * g, beta), [64])
    close(o[0], expected_o)
    close(final, expected_final)


@both
@pytest.mark.parametrize("value", [0.0, 1.0, 2.0])
def test_beta_at_its_ends(kda: bool, value: float) -> None:
    q, k, v, g, _ = inputs(kda, 20, HV=1)
    beta = torch.full((1, 20, 1), value, device=DEVICE)
    start = draw(1, 1, 16, 16, seed=6)
    o, final, _ = extend(kda, q, k, v, g, beta, initial_state=start, inplace_update=False)
    expected_o, expected_final, _ = truth((q, k, v, g, beta), [20], start)
    close(o[0], expected_o)
    close(final, expected_final)


@pytest.mark.parametrize("lower_bound", [None, -5.0], ids=["softplus", "lower_bound"])
@pytest.mark.parametrize("biased", [False, True], ids=["", "dt_bias"])
def test_kda_raw_gates(lower_bound: float | None, biased: bool) -> None:
    """-exp(A_log) softplus(g + dt_bias), or lower_bound sigmoid(exp(A_log) (g + dt_bias)): a scale, not a
    clamp."""
    q, k, v, g, beta = inputs(True, 20)
    raw, A_log = 3 * draw(1, 20, 2, 16, seed=8), draw(2, seed=9)
    raw[0, 4] = -40.0  # tiny decay
    dt_bias = draw(2, 16, seed=10) if biased else None
    x = raw.double() + (0 if dt_bias is None else dt_bias.double())
    rate = A_log.double().exp()[:, None]
    g = -rate * F.softplus(x) if lower_bound is None else lower_bound * torch.sigmoid(rate * x)
    o, final, _ = extend(
        True, q, k, v, raw, beta, A_log=A_log.view(1, 1, 2, 1),
        dt_bias=dt_bias if dt_bias is None else dt_bias.flatten(),
        lower_bound=lower_bound,
    )  # fmt: skip
    expected_o, expected_final, _ = truth((q, k, v, g, beta), [20])
    close(o[0], expected_o)
    close(final, expected_final)


def test_kda_raw_beta() -> None:
    q, k, v, g, _ = inputs(True, 20)
    raw = 4 * draw(1, 20, 2, seed=8)
    o = chunk_kda(q, k, v, g, raw, beta_is_raw=True, chunk_size=16)
    close(o[0], truth((q, k, v, g, raw.double().sigmoid()), [20])[0])


# -- sequences ---------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_empty_sequences_anywhere_leave_their_slots_alone(kda: bool, dtype: torch.dtype) -> None:
    tensors, lens = inputs(kda, 25, HV=1), [0, 17, 0, 0, 8, 0]
    pool = draw(8, 1, 16, 16, seed=6)
    start, slots = pool.clone(), [5, 0, 7, 2, 3, 1]
    o, final, h = extend(
        kda,
        *tensors,
        initial_state=pool,
        initial_state_indices=index(*slots, dtype=dtype),
        cu_seqlens=bounds(lens, dtype),
    )
    expected_o, expected_final, expected_h = truth(tensors, lens, start[slots])
    close(o[0], expected_o)
    close(final, expected_final)
    close(h[0], expected_h)
    for slot in (1, 2, 4, 5, 6, 7):
        assert torch.equal(pool[slot], start[slot])
    assert torch.equal(final[[0, 2, 3, 5]], start[[5, 7, 2, 1]])


@both
@pytest.mark.parametrize("lens", [[15, 17], [17, 15], [16, 16, 1], [1, 1, 1, 30]], ids=str)
def test_chunks_do_not_straddle_sequences(kda: bool, lens: list[int]) -> None:
    tensors = inputs(kda, sum(lens), HV=1, gate=20.0)
    o, final, h = extend(kda, *tensors, cu_seqlens=bounds(lens))
    expected_o, expected_final, expected_h = truth(tensors, lens)
    close(o[0], expected_o)
    close(final, expected_final)
    close(h[0], expected_h)


@both
def test_more_sequences_than_the_chunk_table_reads_at_once(kda: bool) -> None:
    lens = [1, 0, 2] * 25
    q, k, v, g, beta = inputs(kda, 75, HV=1, K=1, V=1)
    o, final, h = extend(kda, q, k, v, g, beta, cu_seqlens=bounds(lens))
    expected_o, expected_final, _ = truth((q, k, v, g, beta), lens)
    close(o[0], expected_o)
    close(final, expected_final)
    assert h.shape[1] == 50


def test_table_entries_past_the_last_token_stay_within_an_int32() -> None:
    """There are as many as sequences; counted on in chunks from the last token, most would pass 2**31."""
    from diffgdn.kernels.chunk.tile_table import chunk_table_kernel

    tokens, last = 2**31 - 64, 2**31 - 104  # one sequence of 16 tokens, then padding
    cu_seqlens = torch.tensor([last - 16, last], dtype=torch.int64, device=DEVICE)
    table = torch.full((64, 2), 7, dtype=torch.int32, device=DEVICE)
    first = torch.empty(1, dtype=torch.int32, device=DEVICE)
    chunk_table_kernel[(1,)](cu_seqlens, table, first, 1, tokens, 64, BT=16, BC=64, BN=64)
    entries = table.tolist()
    assert entries[:4] == [[last - 16, 16], [last, -16], [last + 16, -16], [last + 32, -8]]
    assert entries[4:] == [[tokens, 0]] * 60


@both
def test_a_table_entry_block_smaller_than_the_table(kda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does: programs of the table stage that own no sequence's first chunk."""
    from diffgdn.kernels.chunk import tile_table

    monkeypatch.setattr(tile_table, "INTERPRETED", False)
    monkeypatch.setattr(tile_table, "BLOCK_C", 2)
    monkeypatch.setattr(tile_table, "BLOCK_N", 2)
    tensors, lens = inputs(kda, 40, HV=1), [20, 0, 5, 2, 13]
    o, final, h = extend(kda, *tensors, cu_seqlens=bounds(lens))
    expected_o, expected_final, expected_h = truth(tensors, lens)
    close(o[0], expected_o)
    close(final, expected_final)
    close(h[0], expected_h)


@both
def test_dense_batches(kda: bool) -> None:
    tensors = inputs(kda, 18, B=2, HV=1)
    start = draw(2, 1, 16, 16, seed=6)
    o, final, h = extend(kda, *tensors, initial_state=start, inplace_update=False)
    expected_o, expected_final, expected_h = truth(tensors, [18, 18], start)
    assert h.shape == (2, 2, 1, 16, 16)
    close(o.flatten(0, 1), expected_o)
    close(final, expected_final)
    close(h.flatten(0, 1), expected_h)


@both
@pytest.mark.parametrize("padding", [3, 40], ids=["within a chunk", "beyond a chunk"])
def test_tokens_past_the_last_sequence_give_zeros_and_are_never_read(kda: bool, padding: int) -> None:
    q, k, v, g, beta = inputs(kda, 20 + padding, HV=1)
    for x in (q, k, v, g, beta):
        x[:, 20:] = float("nan")
    o, final, h = extend(kda, q, k, v, g, beta, cu_seqlens=bounds([17, 3]), use_qk_l2norm_in_kernel=True)
    expected_o, expected_final, expected_h = truth(
        [x[:, :20] for x in (q, k, v, g, beta)], [17, 3], l2norm=True
    )
    assert (o[0, 20:] == 0).all()
    close(o[0, :20], expected_o)
    close(final, expected_final)
    close(h[0], expected_h)


@both
def test_nothing_at_all(kda: bool) -> None:
    """No tokens, no sequences, or neither."""
    pool = draw(3, 2, 16, 16, seed=6)
    start = pool.clone()
    o, final, h = extend(
        kda,
        *inputs(kda, 0),
        initial_state=pool,
        initial_state_indices=index(2, -1),
        cu_seqlens=bounds([0, 0]),
    )
    assert o.shape == (1, 0, 2, 16)
    assert h.shape == (1, 0, 2, 16, 16)
    assert torch.equal(final, torch.stack([start[2], torch.zeros_like(start[2])]))
    assert torch.equal(pool, start)
    o, final, h = extend(kda, *inputs(kda, 5), cu_seqlens=bounds([]))
    assert (o == 0).all()
    assert (o.shape, final.shape, h.shape) == ((1, 5, 2, 16), (0, 2, 16, 16), (1, 0, 2, 16, 16))
    o, final, h = extend(kda, *inputs(kda, 0, B=2))
    assert (o.shape, h.shape) == ((2, 0, 2, 16), (2, 0, 2, 16, 16))
    assert (final == 0).all()


# -- states ------------------------------------------------------------------------------------------------


@both
def test_padding_index_starts_from_zero_and_writes_nothing(kda: bool) -> None:
    tensors, lens = inputs(kda, 24), [10, 6, 8]
    pool = draw(3, 2, 16, 16, seed=6)
    start = pool.clone()
    o, final, h = extend(
        kda, *tensors, initial_state=pool, initial_state_indices=index(0, -1, 2), cu_seqlens=bounds(lens)
    )
    starts = torch.stack([start[0], torch.zeros_like(start[0]), start[2]])
    expected_o, expected_final, expected_h = truth(tensors, lens, starts)
    close(o[0], expected_o)
    close(final, expected_final)
    close(h[0], expected_h)
    close(pool, torch.stack([expected_final[0], start[1].double(), expected_final[2]]))
    assert torch.equal(pool[1], start[1])


@both
def test_all_padding_leaves_the_pool_bit_identical(kda: bool) -> None:
    pool = draw(2, 2, 16, 16, seed=6)
    start = pool.clone()
    extend(
        kda,
        *inputs(kda, 8),
        initial_state=pool,
        initial_state_indices=index(-1, -1),
        cu_seqlens=bounds([5, 3]),
    )
    assert torch.equal(pool, start)


@both
def test_without_inplace_update_the_pool_is_read_only_and_may_be_shared(kda: bool) -> None:
    tensors, lens = inputs(kda, 12), [5, 7]
    pool = draw(2, 2, 16, 16, seed=6)
    start = pool.clone()
    o, final, _ = extend(
        kda,
        *tensors,
        initial_state=pool,
        initial_state_indices=index(1, 1),
        cu_seqlens=bounds(lens),
        inplace_update=False,
    )
    expected_o, expected_final, _ = truth(tensors, lens, start[[1, 1]])
    assert torch.equal(pool, start)
    close(o[0], expected_o)
    close(final, expected_final)


@both
def test_dense_initial_states_without_indices_are_updated_in_place(kda: bool) -> None:
    tensors, lens = inputs(kda, 12), [5, 7]
    state = draw(2, 2, 16, 16, seed=6)
    _, expected, _ = truth(tensors, lens, state)
    extend(kda, *tensors, initial_state=state, cu_seqlens=bounds(lens))
    close(state, expected)


@both
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
def test_a_state_in_half_precision_is_rounded_once_at_the_store(kda: bool, dtype: torch.dtype) -> None:
    tensors = inputs(kda, 40)
    pool = draw(2, 2, 16, 16, seed=6).to(dtype)
    _, expected, _ = truth(tensors, [40], pool[[1]])
    _, final, _ = extend(
        kda, *tensors, initial_state=pool, initial_state_indices=index(1), cu_seqlens=bounds([40])
    )
    assert final.dtype == dtype
    assert torch.equal(pool[1], final[0])
    half_a_unit = {BF16: 2**-8, FP16: 2**-11}[dtype]
    torch.testing.assert_close(pool[1].double(), expected[0], rtol=half_a_unit * 1.01, atol=1e-5)


@both
def test_an_envelope_pool_is_written_through_its_strides(kda: bool) -> None:
    """Slots further apart than a state is large, as when one allocation holds all layers; what lies between
    stays."""
    whole = draw(3, 3, 2, 16, 16, seed=6)
    before = whole.clone()
    pool = whole[:, 1]
    tensors = inputs(kda, 20)
    _, expected, _ = truth(tensors, [20], before[2:, 1])
    extend(kda, *tensors, initial_state=pool, initial_state_indices=index(2), cu_seqlens=bounds([20]))
    close(whole[2, 1], expected[0])
    whole[2, 1] = before[2, 1]
    assert torch.equal(whole, before)


@both
def test_a_pool_with_strided_heads_and_rows(kda: bool) -> None:
    whole = draw(2, 16, 2, 32, seed=6)
    pool = whole.permute(0, 2, 1, 3)[..., :16]  # [2, 2, 16, 16]
    before = whole.clone()
    tensors = inputs(kda, 20)
    _, expected, _ = truth(tensors, [20], pool[1:].clone())
    extend(kda, *tensors, initial_state=pool, initial_state_indices=index(1), cu_seqlens=bounds([20]))
    close(pool[1], expected[0])
    assert torch.equal(whole[..., 16:], before[..., 16:])
    assert torch.equal(whole[0], before[0])


@both
def test_kv_layout_is_the_same_states_transposed(kda: bool) -> None:
    tensors, lens = inputs(kda, 40, K=20, V=24), [33, 7]
    pool = draw(3, 2, 24, 20, seed=6)
    kv = pool.transpose(2, 3).contiguous()
    options: dict[str, Any] = {"initial_state_indices": index(2, 0), "cu_seqlens": bounds(lens)}
    o, final, h = extend(kda, *tensors, initial_state=pool, **options)
    o_kv, final_kv, h_kv = extend(kda, *tensors, initial_state=kv, layout="kv", **options)
    assert torch.equal(o, o_kv)
    for vk, other in ((pool, kv), (final, final_kv), (h, h_kv)):
        assert torch.equal(vk, other.transpose(-1, -2))


@both
def test_boundary_states_are_the_states_before_each_chunk(kda: bool) -> None:
    """For 130 tokens at chunk 64 there are three, at 0, 64 and 128; for other sequences they follow."""
    tensors = inputs(kda, 134, HV=1)
    pool = draw(2, 1, 16, 16, seed=6)
    start = pool.clone()
    _, _, h = extend(
        kda,
        *tensors,
        initial_state=pool,
        initial_state_indices=index(0, 1),
        cu_seqlens=bounds([130, 4]),
        chunk_size=64,
    )
    _, before, last = walk(start[0], *(x[0, :130] for x in tensors))
    assert h.shape == (1, 4, 1, 16, 16)
    close(h[0, :3], torch.stack([before[0], before[64], before[128]]))
    close(h[0, 3], start[1].double())
    assert (h[0, 2] - last).abs().max() > 0.01


def test_what_is_returned() -> None:
    """As SGLang's functions return it, and what is asked for beyond that."""
    gdn, kda = inputs(False, 5), inputs(True, 5)
    o, final, h = chunk_gated_delta_rule(*gdn)
    assert (o.shape, final, h.shape) == ((1, 5, 2, 16), None, (1, 1, 2, 16, 16))
    assert chunk_gated_delta_rule(*gdn, output_boundary_states=False)[1:] == (None, None)
    assert chunk_kda(*kda).shape == (1, 5, 2, 16)
    assert [x.shape for x in chunk_kda(*kda, output_final_state=True)] == [(1, 5, 2, 16), (1, 2, 16, 16)]
    assert [x.shape for x in chunk_kda(*kda, output_intermediate_states=True)] == [
        (1, 5, 2, 16),
        (1, 1, 2, 16, 16),
    ]
    assert len(chunk_kda(*kda, output_intermediate_states=True, output_final_state=True)) == 3


@both
def test_without_boundary_states_the_rest_is_the_same(kda: bool) -> None:
    tensors, lens = inputs(kda, 25), [0, 18, 7]
    o, final, _ = extend(kda, *tensors, cu_seqlens=bounds(lens))
    again, final_again, h = extend(kda, *tensors, cu_seqlens=bounds(lens), boundary=False)
    assert h is None
    assert torch.equal(o, again)
    assert torch.equal(final, final_again)


# -- memory ------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("heads", [(1, 1), (2, 2), (2, 4)], ids=str)
def test_strided_views_of_one_projection(kda: bool, heads: tuple[int, int]) -> None:
    H, HV = heads
    K, V, T = 16, 24, 20
    row = torch.full((1, T, 2 * H * K + HV * V + 40), float("nan"), device=DEVICE)
    gates = torch.full((1, T, 3 * HV), float("nan"), device=DEVICE)
    q, k, v, g, beta = inputs(kda, T, H=H, HV=HV, K=K, V=V)
    q_view, k_view, v_view = (
        row[..., 8 : 8 + H * K].unflatten(-1, (H, K)),
        row[..., 16 + H * K : 16 + 2 * H * K].unflatten(-1, (H, K)),
        row[..., 24 + 2 * H * K : 24 + 2 * H * K + HV * V].unflatten(-1, (HV, V)),
    )
    for view, x in zip((q_view, k_view, v_view), (q, k, v), strict=True):
        view.copy_(x)
    if kda:
        wide = torch.full((1, T, HV + 1, 2 * K), float("nan"), device=DEVICE)
        wide[:, :, :HV, :K] = g
        g_view = wide[:, :, :HV, :K]
    else:
        gates[..., :HV] = g
        g_view = gates[..., :HV]
    gates[..., HV : 2 * HV] = beta
    o, final, _ = extend(kda, q_view, k_view, v_view, g_view, gates[..., HV : 2 * HV])
    expected_o, expected_final, _ = extend(kda, q, k, v, g, beta)
    assert torch.equal(o, expected_o)
    assert torch.equal(final, expected_final)


@both
def test_a_dense_batch_whose_rows_lie_apart(kda: bool) -> None:
    tensors = inputs(kda, 20, B=4, HV=1)
    views = [x[::2, :18] for x in tensors]
    o, final, h = extend(kda, *views)
    expected = extend(kda, *(x.contiguous() for x in views))
    for actual, wanted in zip((o, final, h), expected, strict=True):
        assert torch.equal(actual, wanted)


@both
def test_inputs_are_read_only(kda: bool) -> None:
    tensors = [*inputs(kda, 20), index(1, 0), bounds([8, 12])]
    copies = [x.clone() for x in tensors]
    extend(
        kda, *tensors[:5], initial_state=draw(2, 2, 16, 16, seed=6), initial_state_indices=tensors[5],
        cu_seqlens=tensors[6],
        use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    for x, copy in zip(tensors, copies, strict=True):
        assert torch.equal(x, copy)


@both
def test_indices_may_be_strided(kda: bool) -> None:
    tensors, pool = inputs(kda, 12), draw(3, 2, 16, 16, seed=6)
    start = pool.clone()
    every_other = index(2, 9, 0, 9)[::2]
    _, final, _ = extend(
        kda, *tensors, initial_state=pool, initial_state_indices=every_other, cu_seqlens=bounds([5, 7])
    )
    close(final, truth(tensors, [5, 7], start[[2, 0]])[1])


# -- repetition --------------------------------------------------------------------------------------------


@both
def test_the_same_call_twice_gives_the_same_bits(kda: bool) -> None:
    tensors = inputs(kda, 40, dtype=BF16)
    for first, second in zip(extend(kda, *tensors), extend(kda, *tensors), strict=True):
        assert torch.equal(first, second)


@both
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_a_sequence_does_not_depend_on_its_batch(kda: bool, batch_invariant: bool) -> None:
    """Not in one bit: alone, or between others."""
    tensors = inputs(kda, 40, dtype=BF16)
    o, final, _ = extend(kda, *tensors, cu_seqlens=bounds([9, 20, 11]), batch_invariant=batch_invariant)
    alone, final_alone, _ = extend(kda, *(x[:, 9:29] for x in tensors), batch_invariant=batch_invariant)
    assert torch.equal(o[:, 9:29], alone)
    assert torch.equal(final[1], final_alone[0])


@both
def test_two_halves_through_the_pool_are_one_whole(kda: bool) -> None:
    tensors = inputs(kda, 40)
    pool = torch.zeros(1, 2, 16, 16, device=DEVICE)
    whole, final, _ = extend(kda, *tensors)
    for cut in (slice(0, 21), slice(21, 40)):
        o, _, _ = extend(
            kda, *(x[:, cut] for x in tensors), initial_state=pool, initial_state_indices=index(0)
        )
        close(o, whole[:, cut].double())
    close(pool, final.double())
