# ruff: noqa: E501 - a wrong call is one row of a table, message and all
"""Wrong calls of the recurrent functions: refused by name, with what was expected and what came; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diffgdn.backend import selection

selection.enter(selection.detect())

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from diffgdn import kernels  # noqa: E402
from diffgdn.kernels.device import INTERPRETED  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
B, T, H, HV, K, V, SLOTS, STEPS = 2, 3, 2, 4, 8, 6, 5, 4


def ints(*values: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype, device=DEVICE)


def whole() -> dict[str, Any]:
    return dict(
        q=floats(B, T, H, K), k=floats(B, T, H, K), v=floats(B, T, HV, V), g=floats(B, T, HV),
        beta=floats(B, T, HV), initial_state=floats(B, HV, V, K), output_final_state=True, validate=True,
    )  # fmt: skip


def whole_kda() -> dict[str, Any]:
    call = whole() | dict(g=floats(B, T, HV, K), inplace_final_state=True)
    return call


def update() -> dict[str, Any]:
    return dict(
        q=floats(B, T, H, K), k=floats(B, T, H, K), v=floats(B, T, HV, V), g=floats(B, T, HV),
        beta=floats(B, T, HV), initial_state_source=floats(SLOTS, HV, V, K), initial_state_indices=ints(3, 0),
        validate=True,
    )  # fmt: skip


def verify() -> dict[str, Any]:
    return update() | dict(
        disable_state_update=True, intermediate_states_buffer=floats(3, STEPS, HV, V, K),
        intermediate_state_indices=ints(2, -1), cache_steps=STEPS,
        retrieve_parent_token=ints(*[0, 0, 1, 0] * B).view(B, STEPS),
    )  # fmt: skip


def decode() -> dict[str, Any]:
    return dict(
        A_log=floats(HV), a=floats(B * T, HV), dt_bias=floats(HV), softplus_beta=1.0, softplus_threshold=20.0,
        q=floats(B, T, H, K), k=floats(B, T, H, K), v=floats(B, T, HV, V), b=floats(B, T, HV),
        initial_state_source=floats(SLOTS, HV, V, K), initial_state_indices=ints(3, 0), validate=True,
    )  # fmt: skip


def decode_kda() -> dict[str, Any]:
    return decode() | dict(a=floats(B, T, HV, K), dt_bias=floats(HV, K), is_kda=True, lower_bound=-5.0)


def packed() -> dict[str, Any]:
    return dict(
        mixed_qkv=floats(B, 2 * H * K + HV * V), a=floats(B, HV), b=floats(B, HV), A_log=floats(HV),
        dt_bias=floats(HV), scale=1.0, initial_state=floats(SLOTS, HV, V, K), out=floats(B, 1, HV, V),
        ssm_state_indices=ints(3, 0), validate=True,
    )  # fmt: skip


def packed_kda() -> dict[str, Any]:
    return packed() | dict(a=floats(B, HV * K), dt_bias=floats(HV * K))


def token_slots() -> dict[str, Any]:
    table = ints(0, 1, 2, 3, 4, 5).view(B, T)
    pool = floats(B * T, HV, V, K)
    return update() | dict(
        initial_state_source=pool, initial_state_indices=table, num_accepted_tokens=ints(1, T)
    )


def keeping() -> dict[str, Any]:
    return decode() | dict(
        step_changes=floats(3, STEPS, HV * V + H * K + HV), step_change_indices=ints(2, -1),
        retrieve_parent_token=ints(*[0, 0, 1, 0] * B).view(B, STEPS),
    )  # fmt: skip


def commit() -> dict[str, Any]:
    return dict(
        initial_state_source=floats(SLOTS, HV, V, K), initial_state_indices=ints(3, 0),
        step_changes=floats(3, STEPS, HV * V + H * K + HV), num_accepted_steps=ints(2, 0),
        step_change_indices=ints(2, -1), accepted_path=ints(0, 2, 9, 9, 9, 9).view(B, 3), validate=True,
    )  # fmt: skip


FUNCTIONS = {
    whole: "fused_recurrent_gated_delta_rule",
    whole_kda: "fused_recurrent_kda",
    update: "fused_recurrent_gated_delta_rule_update",
    verify: "fused_recurrent_gated_delta_rule_update",
    token_slots: "fused_recurrent_gated_delta_rule_update",
    decode: "fused_sigmoid_gating_delta_rule_update",
    decode_kda: "fused_sigmoid_gating_delta_rule_update",
    packed: "fused_recurrent_gated_delta_rule_packed_decode",
    packed_kda: "fused_recurrent_kda_packed_decode",
    keeping: "fused_sigmoid_gating_delta_rule_verify",
    commit: "commit_accepted_steps",
}
MISSING = object()
every_second = lambda x: torch.cat([x, x], -1)[..., ::2]
meta = lambda x: x.to("meta")

# (a good call, what is changed in it, the error, its message)
BAD: list[tuple[Callable[[], dict[str, Any]], dict[str, Any], type[Exception], str]] = [
    # types and dtypes
    (whole, dict(q=None), TypeError, "q: expected a torch.Tensor, got None"),
    (update, dict(k=[1.0]), TypeError, "k: expected a torch.Tensor, got list"),
    (update, dict(q=floats(B, T, H, K, dtype=torch.float64)), TypeError,
     "q: expected dtype torch.float32 or torch.bfloat16 or torch.float16, got torch.float64"),
    (decode, dict(v=floats(B, T, HV, V, dtype=torch.float64)), TypeError, "v: expected dtype torch.float32 or"),
    (whole, dict(g=floats(B, T, HV, dtype=torch.bfloat16)), TypeError, "g: expected dtype torch.float32, got torch.bfloat16"),
    (decode, dict(A_log=floats(HV, dtype=torch.float64)), TypeError, "A_log: expected dtype torch.float32 or"),
    (decode, dict(dt_bias=ints(0, 0, 0, 0)), TypeError, "dt_bias: expected dtype torch.float32 or"),
    (packed, dict(A_log=floats(HV, dtype=torch.float64)), TypeError, "A_log: expected dtype torch.float32 or"),
    (whole, dict(A_log=floats(H)), ValueError, "A_log: expected 4 elements, [HV], got 2 (shape (2,))"),
    (whole, dict(dt_bias=floats(HV)), ValueError, "dt_bias: expected None without A_log"),
    (whole, dict(A_log=floats(HV), dt_bias=floats(H)), ValueError, "dt_bias: expected 4 elements, [HV], got 2"),
    (whole, dict(beta_is_raw=1), TypeError, "beta_is_raw: expected True or False, got 1"),
    (whole, dict(beta_is_raw=True, beta=None), ValueError, "beta_is_raw: expected False without beta"),
    (whole, dict(allow_neg_eigval=True), ValueError, "allow_neg_eigval: expected False unless beta_is_raw"),
    (update, dict(initial_state_source=ints(1).view(1, 1, 1, 1)), TypeError, "initial_state_source: expected dtype torch.float32"),
    (update, dict(initial_state_indices=floats(B)), TypeError,
     "initial_state_indices: expected dtype torch.int32 or torch.int64, got torch.float32"),
    (update, dict(initial_state_indices=None), TypeError, "initial_state_indices: expected a torch.Tensor, got None"),
    (whole, dict(cu_seqlens=[0, 3]), TypeError, "cu_seqlens: expected a torch.Tensor, got list"),
    (packed, dict(out=floats(B, 1, HV, V, dtype=torch.bfloat16)), TypeError, "out: expected dtype torch.float32, got torch.bfloat16"),
    (packed, dict(scale="1"), TypeError, "scale: expected a number, got str"),
    (decode, dict(softplus_beta=None), TypeError, "softplus_beta: expected a number, got NoneType"),
    (decode, dict(is_kda=1), TypeError, "is_kda: expected True or False, got 1"),
    (verify, dict(cache_steps=2.0), TypeError, "cache_steps: expected an int or None, got float"),
    (update, dict(validate="yes"), TypeError, "validate: expected True, False or None, got 'yes'"),
    (verify, dict(initial_state_source=None, initial_state_indices=None, intermediate_state_indices=None), TypeError,
     "intermediate_state_indices: expected a torch.Tensor, without initial_state_indices to go by, got None"),
    # slots for each token
    (token_slots, dict(num_accepted_tokens=floats(B)), TypeError,
     "num_accepted_tokens: expected dtype torch.int32 or torch.int64, got torch.float32"),
    (token_slots, dict(num_accepted_tokens=ints(1)), ValueError, "num_accepted_tokens: expected shape [N] = (2,), got (1,)"),
    (token_slots, dict(num_accepted_tokens=ints(1, T + 1)), ValueError, "num_accepted_tokens: expected entry 1 from 1 to 3, got 4"),
    (token_slots, dict(num_accepted_tokens=ints(0, 1)), ValueError, "num_accepted_tokens: expected entry 0 from 1 to 3, got 0"),
    (update, dict(num_accepted_tokens=ints(1, 1)), ValueError,
     "num_accepted_tokens: expected None without initial_state_indices of two dimensions, got a tensor"),
    (token_slots, dict(initial_state_indices=ints(0, 1, 2, 3).view(B, 2)), ValueError,
     "initial_state_indices: expected shape [N, steps] with N = 2 and 3 steps or more, got (2, 2)"),
    (token_slots, dict(initial_state_indices=floats(B, T)), TypeError, "initial_state_indices: expected dtype torch.int32"),
    (token_slots, dict(initial_state_indices=ints(0, 1, 2, 3, 4, 6).view(B, T)), ValueError,
     "initial_state_indices: expected indices below 6, the number of rows of initial_state_source, got 6"),
    (token_slots, dict(initial_state_indices=ints(0, 1, 2, 3, 2, 5).view(B, T)), ValueError,
     "initial_state_indices: expected distinct live indices, because initial_state_source is written, got one twice"),
    (token_slots, dict(initial_state_indices=ints(0, 1, 1, 3, 4, 5).view(B, T)), ValueError,
     "initial_state_indices: expected distinct live indices"),
    (token_slots, dict(cu_seqlens=ints(0, 2, 6), q=floats(1, 6, H, K), k=floats(1, 6, H, K), v=floats(1, 6, HV, V),
     g=floats(1, 6, HV), beta=floats(1, 6, HV)), ValueError, "initial_state_indices: expected at least 4 steps"),
    (token_slots, dict(initial_state_source=None), ValueError,
     "initial_state_source: expected a pool with initial_state_indices of two dimensions, got None"),
    (token_slots, dict(disable_state_update=True), ValueError,
     "disable_state_update: expected False with initial_state_indices of two dimensions, got True"),
    (token_slots, dict(intermediate_states_buffer=floats(3, STEPS, HV, V, K)), ValueError,
     "intermediate_states_buffer: expected None with initial_state_indices of two dimensions, got a tensor"),
    (token_slots, dict(retrieve_parent_token=ints(*[0, 0, 1, 0] * B).view(B, STEPS)), ValueError,
     "retrieve_parent_token: expected None with initial_state_indices of two dimensions, got a tensor"),
    # missing and unknown arguments
    (whole, dict(g=MISSING), TypeError, "g"),
    (decode, dict(initial_state_indices=MISSING), TypeError, "initial_state_indices"),
    (whole_kda, dict(ssm_state_indices=ints(0)), TypeError, "ssm_state_indices"),
    # shapes
    (whole, dict(q=floats(T, H, K)), ValueError, "q: expected 4 dimensions, got 3 (shape (3, 2, 8))"),
    (whole, dict(k=floats(B, T, H, K + 1)), ValueError, "k: expected shape [B, T, H, K], that of q, = (2, 3, 2, 8), got (2, 3, 2, 9)"),
    (update, dict(v=floats(B, T + 1, HV, V)), ValueError,
     "v: expected shape [B, T, HV, V] with B, T = (2, 3), those of q, got (2, 4, 4, 6)"),
    (update, dict(v=floats(B, T, 3, V)), ValueError,
     "v: expected a number of value heads HV that is a multiple of q's H = 2, got HV = 3"),
    (whole, dict(q=floats(B, T, H, 257), k=floats(B, T, H, 257)), ValueError,
     "k: expected a head dimension K from 1 to 256, got K = 257"),
    (decode, dict(v=floats(B, T, HV, 300)), ValueError, "v: expected a head dimension V from 1 to 256, got V = 300"),
    (whole, dict(g=floats(B, T, H)), ValueError, "g: expected shape [B, T, HV] = (2, 3, 4), got (2, 3, 2)"),
    (whole_kda, dict(g=floats(B, T, HV)), ValueError, "g: expected shape [B, T, HV, K] = (2, 3, 4, 8), got (2, 3, 4)"),
    (update, dict(g=floats(B, T, H, K)), ValueError, "g: expected shape [B, T, HV, K] = (2, 3, 4, 8), got (2, 3, 2, 8)"),
    (update, dict(beta=floats(B, T, HV, V)), ValueError, "beta: expected shape [B, T, HV] = (2, 3, 4), got (2, 3, 4, 6)"),
    (whole, dict(initial_state=floats(B + 1, HV, V, K)), ValueError,
     "initial_state: expected shape [rows, HV, V, K] = (2, 4, 6, 8), got (3, 4, 6, 8)"),
    (update, dict(initial_state_source=floats(SLOTS, HV, K, V)), ValueError,
     "initial_state_source: expected shape [rows, HV, V, K] = (5, 4, 6, 8), got (5, 4, 8, 6)"),
    (update, dict(layout="kv"), ValueError,
     "initial_state_source: expected shape [rows, HV, K, V] = (5, 4, 8, 6), got (5, 4, 6, 8)"),
    (update, dict(layout="VK"), ValueError, "layout: expected 'vk' or 'kv', got 'VK'"),
    (update, dict(initial_state_indices=ints(0, 1, 2)), ValueError, "initial_state_indices: expected shape [N] = (2,), got (3,)"),
    (update, dict(cu_seqlens=ints(0, 2, 4, 6)), ValueError, "initial_state_indices: expected shape [N] = (3,), got (2,)"),
    (whole, dict(cu_seqlens=ints(0, 3)), ValueError, "q: expected batch size B = 1 with cu_seqlens (sequences end to end), got B = 2"),
    (update, dict(cu_seqlens=ints()), ValueError, "cu_seqlens: expected N + 1 >= 1 elements, got 0"),
    (decode, dict(a=floats(B, HV)), ValueError, "a: expected shape (6, 4) or (2, 3, 4), got (2, 4)"),
    (decode_kda, dict(a=floats(B, T, HV)), ValueError,
     "a: expected shape (6, 4, 8) or (2, 3, 4, 8) or (6, 32) or (2, 3, 32), got (2, 3, 4)"),
    (decode, dict(b=floats(B * T, H)), ValueError, "b: expected shape (6, 4) or (2, 3, 4), got (6, 2)"),
    (decode_kda, dict(dt_bias=floats(HV)), ValueError, "dt_bias: expected 32 elements, [HV, K], got 4 (shape (4,))"),
    (decode, dict(A_log=floats(H)), ValueError, "A_log: expected 4 elements, [HV], got 2 (shape (2,))"),
    (packed, dict(mixed_qkv=floats(B, 2 * H * K + HV * V + 1)), ValueError,
     "mixed_qkv: expected shape [B, 2 H K + HV V] with HV, V, K = (4, 6, 8) of initial_state and HV a multiple of H, got (2, 57)"),
    (packed, dict(mixed_qkv=floats(B, 2 * 3 * K + HV * V)), ValueError, "HV a multiple of H, got (2, 72)"),
    (packed, dict(initial_state=floats(1, 1, 1, 257)), ValueError,
     "initial_state: expected a head dimension K from 1 to 256, got K = 257"),
    (packed, dict(out=floats(B, HV, V)), ValueError, "out: expected 4 dimensions, got 3 (shape (2, 4, 6))"),
    (packed, dict(out=floats(B + 1, 1, HV, V)), ValueError, "out: expected shape [B, 1, HV, V] = (2, 1, 4, 6), got (3, 1, 4, 6)"),
    (packed_kda, dict(a=floats(B, HV)), ValueError, "a: expected shape [B, HV * K] = (2, 32), got (2, 4)"),
    (verify, dict(intermediate_states_buffer=floats(3, STEPS, HV, K, V)), ValueError,
     "intermediate_states_buffer: expected shape [rows, steps, HV, V, K] = (3, 4, 4, 6, 8), got (3, 4, 4, 8, 6)"),
    (verify, dict(intermediate_states_buffer=floats(3, 2, HV, V, K), cache_steps=None), ValueError,
     "intermediate_states_buffer: expected at least 3 steps, one for each token, got 2"),
    (verify, dict(cache_steps=5), ValueError, "cache_steps: expected 1 to 4, the steps of intermediate_states_buffer, got 5"),
    (verify, dict(retrieve_parent_token=ints(0, 0).view(B, 1)), ValueError,
     "retrieve_parent_token: expected shape [N, steps] with N = 2 and steps from 3 to 64, got (2, 1)"),
    (verify, dict(retrieve_parent_token=torch.zeros(B, 65, dtype=torch.int32, device=DEVICE)), ValueError,
     "retrieve_parent_token: expected shape [N, steps] with N = 2 and steps from 3 to 64, got (2, 65)"),
    # numbers
    (update, dict(scale=float("nan")), ValueError, "scale: expected a finite number, got nan"),
    (decode, dict(softplus_beta=0.0), ValueError, "softplus_beta: expected a number above 0, got 0.0"),
    (decode, dict(lower_bound=-5.0), ValueError, "lower_bound: expected None unless is_kda, got -5.0"),
    # strides
    (whole, dict(q=every_second(floats(B, T, H, K))), ValueError,
     "q: expected its last dimension contiguous (stride 1), got stride 2"),
    (decode, dict(b=every_second(floats(B, T, HV))), ValueError, "b: expected its last dimension contiguous (stride 1), got stride 2"),
    (update, dict(initial_state_source=floats(SLOTS, HV, K, V).transpose(-1, -2)), ValueError,
     "initial_state_source: expected its last dimension contiguous (stride 1), got stride 6"),
    (update, dict(initial_state_source=floats(1, HV, V, K).expand(SLOTS, -1, -1, -1)), ValueError,
     "initial_state_source: expected elements that do not overlap, as it is written, got strides (0, 48, 8, 1)"),
    (packed, dict(mixed_qkv=every_second(floats(B, 2 * H * K + HV * V))), ValueError,
     "mixed_qkv: expected its last dimension contiguous (stride 1), got stride 2"),
    # devices
    (whole, dict(k=meta(floats(B, T, H, K))), ValueError, f"k: expected device {floats(1).device}, that of q, got meta"),
    (decode, dict(initial_state_source=meta(floats(SLOTS, HV, V, K))), ValueError, "initial_state_source: expected device"),
    (packed, dict(ssm_state_indices=meta(ints(3, 0))), ValueError, "ssm_state_indices: expected device"),
    (update, {name: meta(x) for name, x in update().items() if isinstance(x, torch.Tensor)}, ValueError,
     "q: expected a GPU tensor, or a CPU tensor under TRITON_INTERPRET=1, got device meta"),
    # values
    (update, dict(initial_state_indices=ints(SLOTS, 0)), ValueError,
     "initial_state_indices: expected indices below 5, the number of rows of initial_state_source, got 5"),
    (update, dict(initial_state_indices=ints(1, 1)), ValueError,
     "initial_state_indices: expected distinct live indices, because initial_state_source is written, got 1 2 times"),
    (decode, dict(initial_state_indices=ints(2**31, 0, dtype=torch.int64)), ValueError, "got 2147483648"),
    (packed, dict(ssm_state_indices=ints(0, 0)), ValueError,
     "ssm_state_indices: expected distinct live indices, because initial_state is written, got 0 2 times"),
    (packed_kda, dict(ssm_state_indices=ints(0, 9)), ValueError, "ssm_state_indices: expected indices below 5"),
    (verify, dict(intermediate_state_indices=ints(3, 0)), ValueError,
     "intermediate_state_indices: expected indices below 3, the number of rows of intermediate_states_buffer, got 3"),
    (verify, dict(intermediate_state_indices=ints(1, 1)), ValueError,
     "intermediate_state_indices: expected distinct live indices, because intermediate_states_buffer is written, got 1 2 times"),
    (verify, dict(intermediate_state_indices=None), ValueError, "initial_state_indices: expected indices below 3"),
    (verify, dict(retrieve_parent_token=ints(0, 0, 2, 0, 0, 0, 0, 0).view(B, STEPS)), ValueError,
     "retrieve_parent_token: expected entry [0, 2] from 0 to 1, got 2"),
    (verify, dict(retrieve_parent_token=ints(9, 0, 1, 0, 9, -1, 0, 0).view(B, STEPS)), ValueError,
     "retrieve_parent_token: expected entry [1, 1] from 0 to 0, got -1"),
    (verify, dict(cu_seqlens=ints(0, 5, 6)), ValueError,
     "intermediate_states_buffer: expected at least 5 steps, the length of the longest sequence, got 4"),
    (update, dict(cu_seqlens=ints(1, 2, 3)), ValueError, "cu_seqlens: expected cu_seqlens[0] = 0, got 1"),
    (update, dict(cu_seqlens=ints(0, 3, 2)), ValueError, "cu_seqlens: expected non-decreasing values, got 3 then 2 at position 2"),
    (decode, dict(cu_seqlens=ints(0, 3, 7)), ValueError,
     "cu_seqlens: expected a last value of at most 6, the number of tokens, got 7"),
    # verify that keeps changes, and commit
    (keeping, dict(q=None), TypeError, "q: expected a torch.Tensor, got None"),
    (keeping, dict(lower_bound=-5.0), ValueError, "lower_bound: expected None unless is_kda, got -5.0"),
    (keeping, dict(step_changes=None), TypeError, "step_changes: expected a torch.Tensor, got None"),
    (keeping, dict(step_changes=floats(3, STEPS, 44, dtype=torch.bfloat16)), TypeError,
     "step_changes: expected dtype torch.float32, got torch.bfloat16"),
    (keeping, dict(step_changes=floats(3, STEPS, 43)), ValueError,
     "step_changes: expected shape [rows, steps, numbers] = (3, 4, 44), got (3, 4, 43)"),
    (keeping, dict(step_changes=floats(1, STEPS, 44).expand(3, STEPS, 44)), ValueError,
     "step_changes: expected elements that do not overlap"),
    (keeping, dict(step_changes=every_second(floats(3, STEPS, 44))), ValueError,
     "step_changes: expected its last dimension contiguous (stride 1), got stride 2"),
    (keeping, dict(step_changes=floats(3, 2, 44)), ValueError,
     "step_changes: expected at least 3 steps, one for each token, got 2"),
    (keeping, dict(step_changes=meta(floats(3, STEPS, 44))), ValueError, "step_changes: expected device"),
    (keeping, dict(step_change_indices=ints(0)), ValueError, "step_change_indices: expected shape [N] = (2,), got (1,)"),
    (keeping, dict(step_change_indices=ints(3, 0)), ValueError,
     "step_change_indices: expected indices below 3, the number of rows of step_changes, got 3"),
    (keeping, dict(step_change_indices=ints(1, 1)), ValueError,
     "step_change_indices: expected distinct live indices, because step_changes is written, got 1 2 times"),
    (keeping, dict(step_change_indices=None), ValueError, "initial_state_indices: expected indices below 3"),
    (keeping, dict(step_change_indices=None, initial_state_source=None, initial_state_indices=None), TypeError,
     "step_change_indices: expected a torch.Tensor, without slots to go by, got None"),
    (keeping, dict(cu_seqlens=ints(0, 5, 6), retrieve_parent_token=None), ValueError,
     "step_changes: expected at least 5 steps, the length of the longest sequence, got 4"),
    (keeping, dict(retrieve_parent_token=ints(0, 0, 2, 0, 0, 0, 0, 0).view(B, STEPS)), ValueError,
     "retrieve_parent_token: expected entry [0, 2] from 0 to 1, got 2"),
    (keeping, dict(initial_state_indices=ints(*range(B * T)).view(B, T)), ValueError,
     "initial_state_indices: expected 1 dimensions, got 2"),
    (commit, dict(initial_state_source=None), TypeError, "initial_state_source: expected a torch.Tensor, got None"),
    (commit, dict(initial_state_source=floats(1, HV, V, K).expand(SLOTS, HV, V, K)), ValueError,
     "initial_state_source: expected elements that do not overlap"),
    (commit, dict(initial_state_source=floats(SLOTS, HV, V, 257)), ValueError,
     "initial_state_source: expected a head dimension K from 1 to 256, got K = 257"),
    (commit, dict(initial_state_indices=floats(B)), TypeError,
     "initial_state_indices: expected dtype torch.int32 or torch.int64, got torch.float32"),
    (commit, dict(initial_state_indices=ints(5, 0)), ValueError,
     "initial_state_indices: expected indices below 5, the number of rows of initial_state_source, got 5"),
    (commit, dict(initial_state_indices=ints(3, 3)), ValueError,
     "initial_state_indices: expected distinct live indices, because initial_state_source is written, got 3 2 times"),
    (commit, dict(step_changes=floats(3, STEPS, 44, dtype=torch.float16)), TypeError,
     "step_changes: expected dtype torch.float32, got torch.float16"),
    (commit, dict(step_changes=floats(3, STEPS, 52)), ValueError,
     "step_changes: expected shape [rows, steps, change_numbers(H, HV, K, V, is_kda)] with HV a multiple of H "
     "and HV, K, V, is_kda = (4, 8, 6, False), got (3, 4, 52)"),
    (commit, dict(is_kda=True), ValueError, "step_changes: expected shape [rows, steps, change_numbers("),
    (commit, dict(is_kda=1), TypeError, "is_kda: expected True or False, got 1"),
    (commit, dict(layout="vkk"), ValueError, "layout: expected 'vk' or 'kv', got 'vkk'"),
    (commit, dict(batch_invariant=None), TypeError, "batch_invariant: expected True or False, got None"),
    (commit, dict(validate="yes"), TypeError, "validate: expected True, False or None, got 'yes'"),
    (commit, dict(step_change_indices=ints(3, -1)), ValueError,
     "step_change_indices: expected indices below 3, the number of rows of step_changes, got 3"),
    (commit, dict(step_change_indices=ints(0, 0, 0)), ValueError, "step_change_indices: expected shape [N] = (2,), got (3,)"),
    (commit, dict(num_accepted_steps=None), TypeError, "num_accepted_steps: expected a torch.Tensor, got None"),
    (commit, dict(num_accepted_steps=ints(2)), ValueError, "num_accepted_steps: expected shape [N] = (2,), got (1,)"),
    (commit, dict(num_accepted_steps=ints(2, 4)), ValueError, "num_accepted_steps: expected entry 1 from 0 to 3, got 4"),
    (commit, dict(num_accepted_steps=ints(-1, 0), accepted_path=None), ValueError,
     "num_accepted_steps: expected entry 0 from 0 to 4, got -1"),
    (commit, dict(accepted_path=floats(B, 3)), TypeError, "accepted_path: expected dtype torch.int32 or torch.int64"),
    (commit, dict(accepted_path=ints(0, 1)), ValueError, "accepted_path: expected 2 dimensions, got 1 (shape (2,))"),
    (commit, dict(accepted_path=ints(0, 1, 2).view(1, 3)), ValueError, "accepted_path: expected shape [N, P] = (2, 3), got (1, 3)"),
    (commit, dict(accepted_path=ints(1, 0, 2, 0, 1, 2).view(B, 3)), ValueError,
     "accepted_path: expected entry [0, 1] from 2 to 3, got 0"),
    (commit, dict(accepted_path=ints(0, 4, 2, 0, 1, 2).view(B, 3)), ValueError,
     "accepted_path: expected entry [0, 1] from 1 to 3, got 4"),
    (commit, dict(step_changes=meta(floats(3, STEPS, 44))), ValueError, "step_changes: expected device"),
]  # fmt: skip


def run(good: Callable[[], dict[str, Any]], changes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    call = {name: value for name, value in (good() | changes).items() if value is not MISSING}
    return getattr(kernels, FUNCTIONS[good])(**call), call


@pytest.mark.parametrize("good", FUNCTIONS, ids=lambda good: good.__name__)
def test_the_call_that_the_bad_ones_differ_from_is_accepted(good: Callable[[], dict[str, Any]]) -> None:
    result, _ = run(good, {})
    assert result is not None


@pytest.mark.parametrize(
    ("good", "changes", "error", "message"),
    BAD,
    ids=[f"{good.__name__}-{'-'.join(changes)}-{i}" for i, (good, changes, _, _) in enumerate(BAD)],
)
def test_a_bad_call_is_refused_by_name_and_writes_nothing(
    good: Callable[[], dict[str, Any]], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    call = {name: value for name, value in (good() | changes).items() if value is not MISSING}
    tensors = {name: x for name, x in call.items() if isinstance(x, torch.Tensor) and x.device.type != "meta"}
    before = {name: x.clone() for name, x in tensors.items()}
    with pytest.raises(error) as caught:
        getattr(kernels, FUNCTIONS[good])(**call)
    assert type(caught.value) is error
    assert message in str(caught.value)
    for name, x in tensors.items():
        assert torch.equal(x, before[name]), name


def test_values_are_left_unread_when_the_caller_says_so() -> None:
    harmless_twice = dict(initial_state_indices=ints(1, 1), cu_seqlens=ints(0, 3, 3))
    result, _ = run(update, harmless_twice | dict(validate=False))
    assert result.shape == (B, T, HV, V)
    with pytest.raises(ValueError, match="distinct"):
        run(update, harmless_twice)
