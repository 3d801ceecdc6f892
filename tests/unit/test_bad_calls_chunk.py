"""Wrong calls of the chunk functions raise what they should, naming the argument, and write nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from diffgdn.backend import selection

selection.enter(selection.detect())

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from diffgdn.kernels import chunk_gated_delta_rule, chunk_kda  # noqa: E402
from diffgdn.kernels.device import INTERPRETED  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
FUNCTIONS: dict[str, Callable[..., Any]] = {"gdn": chunk_gated_delta_rule, "kda": chunk_kda}


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.ones(*shape, dtype=dtype, device=DEVICE)


def integers(*values: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(values, device=DEVICE, dtype=dtype)


def good_call(which: str) -> dict[str, Any]:
    """Two sequences of 4 and 6 tokens, H = 2, HV = 4, K = 8, V = 6, five slots."""
    return {
        "q": tensor(1, 10, 2, 8),
        "k": tensor(1, 10, 2, 8),
        "v": tensor(1, 10, 4, 6),
        "g": -tensor(1, 10, 4, *([8] if which == "kda" else []), dtype=torch.float32),
        "beta": tensor(1, 10, 4),
        "initial_state": tensor(5, 4, 6, 8, dtype=torch.float32),
        "initial_state_indices": integers(3, 1),
        "cu_seqlens": integers(0, 4, 10),
        "chunk_size": 16,
    }


BOTH = [
    ({"q": [1.0]}, TypeError, "q: expected a torch.Tensor, got list"),
    ({"k": None}, TypeError, "k: expected a torch.Tensor, got None"),
    (
        {"q": tensor(1, 10, 2, 8, dtype=torch.float64)},
        TypeError,
        "q: expected dtype torch.float32 or torch.bfloat16",
    ),
    (
        {"v": tensor(1, 10, 4, 6, dtype=torch.float64)},
        TypeError,
        "v: expected dtype torch.float32 or torch.bfloat16 or torch.float16, got torch.float64",
    ),
    ({"q": tensor(10, 2, 8)}, ValueError, "q: expected 4 dimensions, got 3"),
    ({"k": tensor(1, 10, 2, 9)}, ValueError, "k: expected shape [B, T, H, K]"),
    ({"v": tensor(1, 9, 4, 6)}, ValueError, "v: expected shape [B, T, HV, V]"),
    ({"v": tensor(1, 10, 3, 6)}, ValueError, "v: expected a number of value heads HV that is a multiple of"),
    ({"v": tensor(1, 10, 4, 257)}, ValueError, "v: expected a head dimension V from 1 to 256, got V = 257"),
    ({"q": tensor(1, 10, 8, 2).transpose(2, 3)}, ValueError, "q: expected its last dimension contiguous"),
    ({"g": tensor(1, 10, 5)}, ValueError, "g: expected shape [B, T, HV"),
    (
        {"g": tensor(1, 10, 4, dtype=torch.float64)},
        TypeError,
        "g: expected dtype torch.float32 or torch.bfloat16",
    ),
    ({"beta": tensor(1, 10, 2)}, ValueError, "beta: expected shape [B, T, HV] = (1, 10, 4), got (1, 10, 2)"),
    ({"beta": None}, TypeError, "beta: expected a torch.Tensor, got None"),
    ({"scale": "1"}, TypeError, "scale: expected a number, got str"),
    ({"scale": float("nan")}, ValueError, "scale: expected a finite number, got nan"),
    ({"chunk_size": 48}, ValueError, "chunk_size: expected 16 or 32 or 64, got 48"),
    ({"layout": "KV"}, ValueError, "layout: expected 'vk' or 'kv', got 'KV'"),
    ({"inplace_update": 1}, TypeError, "inplace_update: expected True or False, got 1"),
    (
        {"use_qk_l2norm_in_kernel": None},
        TypeError,
        "use_qk_l2norm_in_kernel: expected True or False, got None",
    ),
    ({"output_final_state": "yes"}, TypeError, "output_final_state: expected True or False, got 'yes'"),
    ({"batch_invariant": 0}, TypeError, "batch_invariant: expected True or False, got 0"),
    ({"validate": "no"}, TypeError, "validate: expected True, False or None, got 'no'"),
    (
        {"initial_state": tensor(5, 4, 8, 6)},
        ValueError,
        "initial_state: expected shape [rows, HV, V, K] = (5, 4, 6, 8)",
    ),
    ({"layout": "kv"}, ValueError, "initial_state: expected shape [rows, HV, K, V] = (5, 4, 8, 6)"),
    (
        {"initial_state": tensor(5, 4, 6, 8, dtype=torch.int32)},
        TypeError,
        "initial_state: expected dtype torch.float32",
    ),
    (
        {"initial_state": tensor(5, 4, 8, 6).transpose(2, 3)},
        ValueError,
        "initial_state: expected its last dimension contiguous",
    ),
    (
        {"initial_state": tensor(1, 4, 6, 8).expand(5, 4, 6, 8)},
        ValueError,
        "initial_state: expected elements that do not overlap",
    ),
    (
        {"initial_state_indices": None},
        ValueError,
        "initial_state: expected shape [rows, HV, V, K] = (2, 4, 6, 8)",
    ),
    (
        {"initial_state_indices": integers(1, 2, 3)},
        ValueError,
        "initial_state_indices: expected shape [N] = (2,), got (3,)",
    ),
    (
        {"initial_state_indices": tensor(2)},
        TypeError,
        "initial_state_indices: expected dtype torch.int32 or torch.int64",
    ),
    (
        {"initial_state_indices": integers(1, 5)},
        ValueError,
        "initial_state_indices: expected indices below 5",
    ),
    (
        {"initial_state_indices": integers(3, 3)},
        ValueError,
        "initial_state_indices: expected distinct live indices",
    ),
    (
        {"has_initial_state": integers(0, 1)},
        TypeError,
        "has_initial_state: expected dtype torch.bool, got torch.int64",
    ),
    (
        {"has_initial_state": tensor(3, dtype=torch.bool)},
        ValueError,
        "has_initial_state: expected shape [N] = (2,), got (3,)",
    ),
    ({"cu_seqlens": [0, 4, 10]}, TypeError, "cu_seqlens: expected a torch.Tensor, got list"),
    (
        {"cu_seqlens": integers(0, 4, 10, dtype=torch.int16)},
        TypeError,
        "cu_seqlens: expected dtype torch.int32 or torch.int64",
    ),
    ({"cu_seqlens": integers(1, 4, 10)}, ValueError, "cu_seqlens: expected cu_seqlens[0] = 0, got 1"),
    ({"cu_seqlens": integers(0, 4, 11)}, ValueError, "cu_seqlens: expected a last value of at most 10"),
    (
        {"cu_seqlens": integers(0, 4, 3)},
        ValueError,
        "cu_seqlens: expected non-decreasing values, got 4 then 3",
    ),
    (
        {"q": tensor(2, 5, 2, 8), "k": tensor(2, 5, 2, 8), "v": tensor(2, 5, 4, 6), "g": None, "beta": None},
        TypeError,
        "g: expected",
    ),
    ({"beta": torch.ones(1, 10, 4, device="meta")}, ValueError, "beta: expected device"),
    ({"beta_is_raw": 1}, TypeError, "beta_is_raw: expected True or False, got 1"),
    ({"allow_neg_eigval": True}, ValueError, "allow_neg_eigval: expected False unless beta_is_raw"),
    ({"A_log": tensor(3, dtype=torch.float32)}, ValueError, "A_log: expected 4 elements, [HV], got 3"),
    ({"A_log": tensor(4, dtype=torch.float64)}, TypeError, "A_log: expected dtype torch.float32 or"),
    ({"A_log": tensor(4), "dt_bias": integers(0)}, TypeError, "dt_bias: expected dtype torch.float32 or"),
    ({"dt_bias": tensor(32)}, ValueError, "dt_bias: expected None without A_log"),
]
GDN = [
    ({"head_first": True}, ValueError, "head_first: expected False: tensors are [B, T, H, ...], got True"),
    ({"output_boundary_states": 1}, TypeError, "output_boundary_states: expected True or False, got 1"),
    ({"g": tensor(1, 10, 4, 8)}, ValueError, "g: expected shape [B, T, HV] = (1, 10, 4), got (1, 10, 4, 8)"),
]
KDA = [
    ({"g": tensor(1, 10, 4)}, ValueError, "g: expected shape [B, T, HV, K] = (1, 10, 4, 8), got (1, 10, 4)"),
    (
        {"A_log": tensor(4, dtype=torch.float32), "dt_bias": tensor(4)},
        ValueError,
        "dt_bias: expected 32 elements, [HV, K], got 4",
    ),
    (
        {"A_log": tensor(4, dtype=torch.float32), "lower_bound": "-5"},
        TypeError,
        "lower_bound: expected a number, got str",
    ),
    ({"lower_bound": -5.0}, ValueError, "lower_bound: expected None without A_log"),
    (
        {"track_state": tensor(2, 4, 6, 8)},
        TypeError,
        "track_chunk_idx: expected a torch.Tensor, as track_state is given, got None",
    ),
    (
        {"track_chunk_idx": integers(0, 0)},
        TypeError,
        "track_state: expected a torch.Tensor, as track_chunk_idx is given, got None",
    ),
    (
        {"track_state": tensor(2, 4, 6, 8, dtype=torch.bfloat16), "track_chunk_idx": integers(0, 0)},
        TypeError,
        "track_state: expected dtype torch.float32, got torch.bfloat16",
    ),
    (
        {"track_state": tensor(2, 4, 6, 7, dtype=torch.float32), "track_chunk_idx": integers(0, 0)},
        ValueError,
        "track_state: expected shape [rows, HV, V, K] = (2, 4, 6, 8), got (2, 4, 6, 7)",
    ),
    (
        {"track_state": tensor(2, 4, 6, 8, dtype=torch.float32), "track_chunk_idx": integers(0)},
        ValueError,
        "track_chunk_idx: expected shape [N] = (2,), got (1,)",
    ),
    ({"beta_is_raw": 1}, TypeError, "beta_is_raw: expected True or False, got 1"),
    (
        {"output_intermediate_states": 1},
        TypeError,
        "output_intermediate_states: expected True or False, got 1",
    ),
    ({"head_first": False}, TypeError, "unexpected keyword argument 'head_first'"),
]
CALLS = [(which, *call) for which in FUNCTIONS for call in BOTH]
CALLS += [("gdn", *call) for call in GDN] + [("kda", *call) for call in KDA]


@pytest.mark.parametrize(
    ("which", "wrong", "error", "message"), CALLS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_wrong_call(which: str, wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    call = good_call(which) | wrong
    before = {name: x.clone() for name, x in call.items() if isinstance(x, torch.Tensor)}
    with pytest.raises(error, match=re.escape(message)):
        FUNCTIONS[which](**call)
    for name, copy in before.items():
        if not copy.is_meta:
            assert torch.equal(call[name], copy)


@pytest.mark.parametrize("which", FUNCTIONS)
def test_batches_cannot_be_packed_as_well(which: str) -> None:
    call = good_call(which)
    for name in ("q", "k", "v", "g", "beta"):
        call[name] = call[name].unflatten(1, (2, 5)).squeeze(0)
    with pytest.raises(ValueError, match=re.escape("q: expected batch size B = 1 with cu_seqlens")):
        FUNCTIONS[which](**call)


@pytest.mark.parametrize("which", FUNCTIONS)
def test_more_tokens_than_an_int32_counts_are_refused(which: str) -> None:
    call = good_call(which)
    for name in ("q", "k", "v", "g", "beta"):
        call[name] = call[name][:, :1].expand(1, 2**31 - 63, *call[name].shape[2:])
    message = "q: expected at most 2147483584 tokens B * T, got 2147483585"
    with pytest.raises(ValueError, match=re.escape(message)):
        FUNCTIONS[which](**call)


@pytest.mark.parametrize("which", FUNCTIONS)
def test_the_call_that_all_of_these_spoil_is_a_good_one(which: str) -> None:
    call = good_call(which)
    before = call["initial_state"].clone()
    FUNCTIONS[which](**call)
    assert not torch.equal(call["initial_state"][[1, 3]], before[[1, 3]])


@pytest.mark.parametrize("which", FUNCTIONS)
def test_values_are_taken_on_trust_if_so_asked(which: str) -> None:
    """Nothing is raised for shared slots that are written. (Which of the two wins is not promised.)"""
    call = good_call(which) | {"initial_state_indices": integers(3, 3), "validate": False}
    FUNCTIONS[which](**call)
    assert torch.isfinite(call["initial_state"]).all()
