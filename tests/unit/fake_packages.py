"""Tiny packages with the layout of released ones, over this project's kernels: in folders and in wheels."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

FLA = "sglang/kernels/ops/attention/fla"
BEFORE = "sglang/srt/layers/attention/fla"
SIGMOID = "sglang/kernels/ops/attention/linear/fused_sigmoid_gating_recurrent.py"
# As SGLang's functions are declared, and nothing of what only this project's take.
GATING = """
from diffgdn import kernels
from sglang.srt.utils import is_hip

def fused_sigmoid_gating_delta_rule_update(
    A_log, a, dt_bias: "torch.Tensor", softplus_beta, softplus_threshold, q, k, v, b, initial_state_source,
    initial_state_indices, scale=None, use_qk_l2norm_in_kernel=False, cu_seqlens=None, is_kda=False,
    {bound} disable_state_update=False, intermediate_states_buffer=None, intermediate_state_indices=None,
    cache_steps=None, retrieve_parent_token=None,
):
    given = dict(locals())
    assert not is_hip()
    o = kernels.fused_sigmoid_gating_delta_rule_update(**given)
    return o {fault}
"""
CHUNK = '''
from diffgdn import kernels

def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, initial_state_indices=None, cu_seqlens=None,
    head_first=False, use_qk_l2norm_in_kernel=False, inplace_update=True,
):
    """initial_state: `[N, H, V, K]`."""
    o, _, h = kernels.chunk_gated_delta_rule(**locals(), output_boundary_states=True)
    # Theirs are padded to a batch: [1, chunks, HV, V, K] where sequences are packed.
    return o, None, h.unflatten(0, (q.shape[0], -1)) if h.numel() else h.unsqueeze(0)
'''
RECURRENT = '''
from diffgdn import kernels

def fused_recurrent_gated_delta_rule(
    q, k, v, g, beta=None, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None,
    use_qk_l2norm_in_kernel=False,
):
    """initial_state: `[N, HV, {states}]`."""
    return kernels.fused_recurrent_gated_delta_rule(**locals())

def fused_recurrent_gated_delta_rule_update(
    q, k, v, g, beta=None, scale=None, initial_state_source=None, initial_state_indices=None, cu_seqlens=None,
    use_qk_l2norm_in_kernel=False, disable_state_update=False, disable_output_calculation=False,
    intermediate_states_buffer=None, intermediate_state_indices=None, cache_steps=None,
    retrieve_parent_token=None,
):
    return kernels.fused_recurrent_gated_delta_rule_update(**locals())

def fused_recurrent_gated_delta_rule_packed_decode(
    mixed_qkv, a, b, A_log, dt_bias: "torch.Tensor", scale, initial_state, out, ssm_state_indices,
    use_qk_l2norm_in_kernel=False,
):
    assert dt_bias.ndim == A_log.ndim == 1 and A_log.stride(0) == dt_bias.stride(0) == 1
    assert out.is_contiguous()
    return kernels.fused_recurrent_gated_delta_rule_packed_decode(**locals())

def fused_recurrent_kda_packed_decode(
    mixed_qkv, a, b, A_log, dt_bias: "torch.Tensor", scale, initial_state, out, ssm_state_indices,
    use_qk_l2norm_in_kernel=False, lower_bound=None,
):
    assert a.ndim == 2 and dt_bias.ndim == A_log.ndim == 1 and A_log.stride(0) == 1 and out.is_contiguous()
    return kernels.fused_recurrent_kda_packed_decode(**locals())
'''
KDA = """
from diffgdn import kernels

def fused_recurrent_kda(
    q, k, v, g, beta=None, scale=None, initial_state=None, inplace_final_state=True,
    use_qk_l2norm_in_kernel=True, cu_seqlens=None, **kwargs,
):
    assert not kwargs
    return kernels.fused_recurrent_kda(
        q, k, v, g, beta, scale, initial_state, inplace_final_state, use_qk_l2norm_in_kernel, cu_seqlens
    )

def chunk_kda(
    q, k, v, g, beta, scale=None, initial_state=None, initial_state_indices=None,
    use_qk_l2norm_in_kernel=False, cu_seqlens=None, A_log=None, dt_bias=None, lower_bound=None,
    output_intermediate_states=False,
    track_state=None, track_chunk_idx=None, beta_is_raw=False, **kwargs,
):
    assert not kwargs
    given = dict(locals())
    del given["kwargs"]
    found = kernels.chunk_kda(**given)
    o, *h = found if isinstance(found, tuple) else (found,)
    if not output_intermediate_states:
        return o
    return o, h[0].unflatten(0, (q.shape[0], -1)) if h[0].numel() else h[0].unsqueeze(0)
"""


TRANSFORMERS = "transformers/models/qwen3_next/modeling_qwen3_next.py"
PLAIN_TORCH = """
import functools
import torch
import torch.nn.functional as F
from transformers.hub import elsewhere

def l2norm(x, dim=-1, eps=1e-6):
    return x * torch.rsqrt((x * x).sum(dim=dim, keepdim=True) + eps)

@elsewhere
def torch_recurrent_gated_delta_rule(
    query, key, value, g, beta, initial_state=None, output_final_state=False,
    use_qk_l2norm_in_kernel=False, **kwargs,
):
    num_k_heads = key.shape[2]
    group = value.shape[2] // num_k_heads
    q, k, v, g, beta = (x.float() for x in (query, key, value, g, beta))
    if use_qk_l2norm_in_kernel:
        q, k = l2norm(q), l2norm(k)
    q, k = (x.repeat_interleave(group, 2) for x in (q * q.shape[-1] ** -0.5, k))
    S, o = initial_state.float(), torch.zeros_like(v)  # [B, HV, K, V]
    for t in range(v.shape[1]):
        S = S * g[:, t].exp()[..., None, None]
        d = (v[:, t] - (S * k[:, t, :, :, None]).sum(-2)) * beta[:, t, :, None]
        S = S + k[:, t, :, :, None] * d[:, :, None]
        o[:, t] = (S * q[:, t, :, :, None]).sum(-2)
    return o.to(query.dtype), S if output_final_state else None

@elsewhere
def torch_chunk_gated_delta_rule(
    query, key, value, g, beta, chunk_size=64, initial_state=None, output_final_state=False,
    use_qk_l2norm_in_kernel=False, **kwargs,
):
    num_k_heads = key.shape[2]
    step = getattr(torch_recurrent_gated_delta_rule, "__wrapped__", torch_recurrent_gated_delta_rule)
    return step(query, key, value, g, beta, initial_state, output_final_state, use_qk_l2norm_in_kernel)
"""
# A decorator that takes another implementation, as one that finds fla installed.
HUB = """
import functools

def elsewhere(function):
    @functools.wraps(function)
    def wrong(*args, **given):
        raise RuntimeError("not the function of plain torch")
    return wrong
"""


def transformers(init: str = "") -> dict[str, str]:
    """The files of a package as transformers 5."""
    folders = ("transformers/models", "transformers/models/qwen3_next")
    return {
        "transformers/__init__.py": init,
        "transformers/hub.py": HUB,
        **{f"{folder}/__init__.py": "" for folder in folders},
        TRANSFORMERS: PLAIN_TORCH,
    }


def sglang(fault: str = "", states: str = "V, K") -> dict[str, str]:
    """The files of a package as SGLang 0.5.23. fault: put behind the output of decode and verify."""
    return {
        "sglang/__init__.py": "raise OSError('no server here')",
        SIGMOID: GATING.format(fault=fault, bound="lower_bound=None,"),
        f"{FLA}/chunk.py": CHUNK,
        f"{FLA}/fused_recurrent.py": RECURRENT.format(states=states),
        f"{FLA}/kda.py": KDA,
    }


def older_sglang() -> dict[str, str]:
    """The files of a package as SGLang 0.5.10: another place, no lower bound."""
    gating = GATING.format(fault="", bound="")
    return {"sglang/__init__.py": "", f"{BEFORE}/fused_sigmoid_gating_recurrent.py": gating}


FLASH_KDA = """
import torch
from diffgdn import kernels

def fwd(
    q, k, v, g, beta, scale, out, A_log, dt_bias, lower_bound, initial_state=None, final_state=None,
    cu_seqlens=None,
):
    assert all(one.is_contiguous() and one.dtype == torch.bfloat16 for one in (q, k, v, g, beta, out))
    assert A_log.dtype == dt_bias.dtype == torch.float32 and A_log.is_contiguous() and dt_bias.is_contiguous()
    assert q.shape == v.shape == g.shape and q.shape[-1] == 128 and -5.0 <= lower_bound <= 0.0
    assert cu_seqlens is None or (cu_seqlens.dtype == torch.int64 and cu_seqlens[-1] == q.shape[1])
    states = initial_state
    if states is None:
        N = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        states = torch.zeros(N, *v.shape[2:], 128)
    final_state.copy_(states)
    o = kernels.chunk_kda(
        q, k, v, g, beta, scale, final_state, None, True, cu_seqlens, A_log=A_log, dt_bias=dt_bias,
        lower_bound=lower_bound, beta_is_raw=True,
    )
    out.copy_(o[0] if isinstance(o, tuple) else o)
    if cu_seqlens is not None:
        final_state[cu_seqlens.diff() == 0] = float("nan")  # nothing is said of sequences without tokens
"""
FLASH_QLA = """
import torch
from diffgdn import kernels

def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False,
    cu_seqlens=None, head_first=False, state_v_first=False, auto_cp=True, enable_fwd_cp_cache=True,
    cp_context=None, force_intra_cp=False,
):
    assert state_v_first and q.dtype == k.dtype == v.dtype != torch.float32
    assert q.shape[-1] == v.shape[-1] == 128
    assert cu_seqlens is None or (cu_seqlens.dtype == torch.int64 and cu_seqlens[-1] == q.shape[1])
    o, final, _ = kernels.chunk_gated_delta_rule(
        q, k, v, g, beta, scale, initial_state, None, cu_seqlens, False, use_qk_l2norm_in_kernel, False,
        output_final_state=True, output_boundary_states=False,
    )
    if cu_seqlens is not None:
        final[cu_seqlens.diff() == 0] = float("nan")
    return o, final if output_final_state else None
"""
FLASH = {"flash_kda": {"flash_kda/__init__.py": FLASH_KDA}, "flash_qla": {"flash_qla/__init__.py": FLASH_QLA}}


def oldest_sglang() -> dict[str, str]:
    """The files of a package as SGLang 0.5.8: decode alone, which always writes the state; states [K, V]."""
    start, end = GATING.index("    {bound}"), GATING.index("):")
    gating = (GATING[:start] + GATING[end:]).format(fault="")
    gating = gating.replace("given = dict(locals())", "given = dict(locals(), layout='kv')")
    recurrent = 'def fused_recurrent_gated_delta_rule(q):\n    """initial_state: `[N, HV, K, V]`."""\n'
    return {
        f"{BEFORE}/fused_sigmoid_gating_recurrent.py": gating,
        f"{BEFORE}/fused_recurrent.py": recurrent,
    }


def folder(root: Path, files: Mapping[str, str], version: str = "", name: str = "sglang") -> Path:
    """Lay files out in a folder."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    if version:
        (root / f"{name}-{version}.dist-info").mkdir(exist_ok=True)
    return root


def wheel(root: Path, files: Mapping[str, str], version: str = "1.2.3", name: str = "sglang") -> Path:
    """Pack files into a wheel."""
    path = root / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for inside, text in files.items():
            file.writestr(inside, text)
        file.writestr(f"{name}-{version}.dist-info/METADATA", f"Name: {name}\nVersion: {version}\n")
    return path


@contextmanager
def forgotten(*packages: str) -> Iterator[None]:
    """As if packages had never been imported, before and after."""

    def take() -> dict[str, object]:
        names = [name for name in sys.modules if name.partition(".")[0] in packages]
        return {name: sys.modules.pop(name) for name in names}

    before, path = take(), list(sys.path)
    try:
        yield
    finally:
        take()
        sys.modules.update(before)  # type: ignore[arg-type]
        sys.path[:] = path
