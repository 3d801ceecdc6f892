"""Calls kernels as a peer's test does, and what it compares them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from diffgdn.mutants.peers import peer_test
from diffgdn.mutants.peers.peer_inputs import Inputs, log_decay
from diffgdn.mutants.peers.peer_test import PeerTest
from diffgdn.reference.oracle import Exact, recurrence
from diffgdn.reference.oracle.lanes import Lanes

Results = dict[str, Tensor]


def call(kernels: ModuleType, test: PeerTest, x: Inputs, layout: str = "vk") -> Results:
    """Run a test's operation.

    kernels: a module with the functions of diffgdn.kernels. layout: of the states, for the kernels alone.

    Returns o [tokens, HV, V]; state [N, HV, V, K]; with a pool others and pool, slots that no sequence names
    and all; of verify steps [N, T, HV, V, K]. Raises what the kernels raise.
    """
    kind = test.operation.partition(".")[2]
    x = x.fresh(test.source.copies)
    if layout == "kv":
        x = replace(x, state=x.state.mT.contiguous())
    results = _CALLS[kind](kernels, test, x, layout)
    if x.indices is not None:
        named = x.indices[x.indices >= 0].long()
        rest = torch.ones(len(x.state), dtype=torch.bool, device=x.state.device)
        rest[named] = False
        results |= {"state": x.state[named], "others": x.state[rest], "pool": x.state}
    if layout == "kv":
        results["state"] = results["state"].mT
    return {**results, "o": results["o"].reshape(-1, test.HV, test.V)}


def expected(kernels: ModuleType, test: PeerTest, x: Inputs) -> Results:
    """Return what a test compares the results with; others and pool as they were before."""
    wanted = _EXPECTED[test.against](kernels, test, x)
    if x.indices is None:
        return wanted
    rest = torch.ones(len(x.state), dtype=torch.bool, device=x.state.device)
    rest[x.indices[x.indices >= 0].long()] = False
    return {"others": x.state[rest], "pool": x.state, **wanted}


def _extend(kernels: ModuleType, test: PeerTest, x: Inputs, layout: str) -> Results:
    options: dict[str, Any] = dict(
        scale=test.scale, initial_state=x.state, initial_state_indices=x.indices, cu_seqlens=x.cu_seqlens,
        use_qk_l2norm_in_kernel=test.l2norm, A_log=x.A_log, dt_bias=x.dt_bias, beta_is_raw=test.raw_beta,
        allow_neg_eigval=test.doubled, chunk_size=test.chunk_size, layout=layout, output_final_state=True,
        inplace_update=x.indices is not None,
    )  # fmt: skip
    if test.operation == "kda.extend":
        options["lower_bound"] = test.gate.lower_bound if x.A_log is not None else None
        o, final = kernels.chunk_kda(x.q, x.k, x.v, x.g, x.beta, **options)
    else:
        o, final, _ = kernels.chunk_gated_delta_rule(x.q, x.k, x.v, x.g, x.beta, **options)
    return {"o": o, "state": final}


def _recurrent(kernels: ModuleType, test: PeerTest, x: Inputs, layout: str = "vk") -> Results:
    options: dict[str, Any] = dict(
        scale=test.scale, initial_state=x.state, cu_seqlens=x.cu_seqlens, A_log=x.A_log, dt_bias=x.dt_bias,
        use_qk_l2norm_in_kernel=test.l2norm, beta_is_raw=test.raw_beta, allow_neg_eigval=test.doubled,
        output_final_state=True,
    )  # fmt: skip
    if test.operation.startswith("kda."):
        options["lower_bound"] = test.gate.lower_bound if x.A_log is not None else None
        o, final = kernels.fused_recurrent_kda(
            x.q, x.k, x.v, x.g, x.beta, inplace_final_state=False, **options
        )
    else:
        o, final = kernels.fused_recurrent_gated_delta_rule(x.q, x.k, x.v, x.g, x.beta, **options)
    return {"o": o, "state": final}


def _update(kernels: ModuleType, test: PeerTest, x: Inputs, layout: str = "vk") -> Results:
    o = kernels.fused_recurrent_gated_delta_rule_update(
        x.q, x.k, x.v, x.g, x.beta, test.scale, x.state, x.indices, x.cu_seqlens, test.l2norm
    )
    return {"o": o}


def _decode(kernels: ModuleType, test: PeerTest, x: Inputs, layout: str = "vk", **verify: Any) -> Results:
    o = kernels.fused_sigmoid_gating_delta_rule_update(
        x.A_log, x.g, x.dt_bias, 1.0, 20.0, x.q, x.k, x.v, x.beta, x.state, x.indices, scale=test.scale,
        use_qk_l2norm_in_kernel=test.l2norm, cu_seqlens=x.cu_seqlens,
        is_kda=test.operation.startswith("kda."), lower_bound=test.gate.lower_bound, **verify,
    )  # fmt: skip
    return {"o": o}


def _verify(kernels: ModuleType, test: PeerTest, x: Inputs, layout: str = "vk") -> Results:
    N, T = len(test.lens), test.lens[0]
    buffer = x.state.new_zeros(N, T + test.spare, *x.state.shape[1:])
    rows = torch.arange(N, dtype=torch.int32, device=x.state.device)
    options: dict[str, Any] = dict(
        disable_state_update=True, intermediate_states_buffer=buffer, cache_steps=T
    )
    o = _decode(kernels, test, x, intermediate_state_indices=rows, **options)["o"]
    return {"o": o, "steps": buffer[:, :T]}


def _packed_decode(kernels: ModuleType, test: PeerTest, x: Inputs, layout: str = "vk") -> Results:
    kda = test.operation.startswith("kda.")
    run = (
        kernels.fused_recurrent_kda_packed_decode
        if kda
        else kernels.fused_recurrent_gated_delta_rule_packed_decode
    )
    tokens = len(test.lens)
    out = x.v.new_empty(tokens, 1, test.HV, test.V)
    scale = test.K**-0.5 if test.scale is None else test.scale
    run(
        _mixed(x), x.g.reshape(tokens, -1), x.beta.reshape(tokens, -1), x.A_log, x.dt_bias, scale, x.state,
        out, x.indices, test.l2norm,
    )  # fmt: skip
    return {"o": out}


def _mixed(x: Inputs) -> Tensor:
    """Lay q, k and v of each token side by side, [tokens, 2 H K + HV V]."""
    return torch.cat([part.flatten(0, 1).flatten(1) for part in (x.q, x.k, x.v)], dim=-1)


_CALLS: dict[str, Callable[..., Results]] = {
    "extend": _extend,
    "recurrent": _recurrent,
    "update": _update,
    "decode": _decode,
    "verify": _verify,
    "packed_decode": _packed_decode,
}


def _outside(kernels: ModuleType, test: PeerTest, x: Inputs) -> Results:
    """The same call, its gates and beta activated by torch."""
    return call(kernels, replace(test, raw_beta=False, doubled=False), activated(test, x))


def activated(test: PeerTest, x: Inputs, dtype: torch.dtype = torch.float32) -> Inputs:
    """Return inputs with the log decay for the gate, beta for what it is the sigmoid of."""
    if x.A_log is not None:
        x = replace(x, g=log_decay(test.gate, x.g, x.A_log, x.dt_bias, dtype), A_log=None, dt_bias=None)
    if test.raw_beta:
        x = replace(x, beta=torch.sigmoid(x.beta.to(dtype)) * (2 if test.doubled else 1))
    return x


def _by_the_recurrent_kernel(kernels: ModuleType, test: PeerTest, x: Inputs) -> Results:
    """The sequences one by one through the fused recurrent kernel."""
    ends = [0, *torch.tensor(test.lens).cumsum(0).tolist()]
    x, first = activated(test, x), x.first
    plain = replace(test, raw_beta=False, doubled=False)
    results = []
    for n, (start, end) in enumerate(pairwise(ends)):
        own = {name: getattr(x, name)[:, start:end] for name in ("q", "k", "v", "g", "beta")}
        state = first[n : n + 1].clone()
        results.append(_recurrent(kernels, plain, replace(x, state=state, cu_seqlens=None, **own)))
    o = torch.cat([result["o"].reshape(-1, test.HV, test.V) for result in results])
    return {"o": o, "state": torch.cat([result["state"] for result in results])}


def _by_decode(kernels: ModuleType, test: PeerTest, x: Inputs) -> Results:
    """The unpacked decode, of views of the packed tokens."""
    sizes = [part.shape[2] * part.shape[3] for part in (x.q, x.k, x.v)]
    parts = zip(("q", "k", "v"), _mixed(x).split(sizes, dim=-1), strict=True)
    views = {name: part.unflatten(-1, getattr(x, name).shape[2:])[None] for name, part in parts}
    return call(kernels, replace(test, operation=test.operation.replace("packed_", "")), replace(x, **views))


def _compact(kernels: ModuleType, test: PeerTest, x: Inputs) -> Results:
    return call(kernels, test, replace(x, g=x.g.contiguous(), beta=x.beta.contiguous()))


def _plain(kernels: ModuleType, test: PeerTest, x: Inputs) -> Results:
    """The recurrence, in float64. Everything is padded to the longest sequence, and cut again."""
    x = activated(test, x, torch.float64)
    T, lens, heads = max(test.lens), test.lens, test.HV // test.H

    def lanes(tensor: Tensor, repeat: int = 1) -> Tensor:
        tensor = tensor.double().flatten(0, 1).repeat_interleave(repeat, dim=1)
        padded = torch.nn.utils.rnn.pad_sequence(list(tensor.split(list(lens))))  # [T, N, HV, ...]
        return padded.flatten(1, 2)

    q, k, v, g = (lanes(part, repeat) for part, repeat in ((x.q, heads), (x.k, heads), (x.v, 1), (x.g, 1)))
    if test.l2norm:
        q, k = (part / torch.sqrt((part * part).sum(-1, keepdim=True) + 1e-6) for part in (q, k))
    live = torch.arange(T, device=q.device)[:, None] < torch.tensor(lens, device=q.device).repeat_interleave(
        test.HV
    )
    scale = test.K**-0.5 if test.scale is None else float(test.scale)
    g = g if g.ndim == 3 else g[..., None]
    batch = Lanes(q, k, v, g, lanes(x.beta), x.first.double().flatten(0, 1), live, scale)
    o, state, kept, _ = recurrence.run(batch, Exact(), keep="steps" in test.criteria)
    o = o.unflatten(1, (len(lens), test.HV))
    results = {"o": torch.cat([o[:length, n] for n, length in enumerate(lens)])}
    results["state"] = state.unflatten(0, (len(lens), test.HV))
    if kept is not None:
        results["steps"] = kept.unflatten(1, (len(lens), test.HV)).transpose(0, 1)
    return results


_EXPECTED: dict[str, Callable[[ModuleType, PeerTest, Inputs], Results]] = {
    peer_test.PLAIN: _plain,
    peer_test.OUTSIDE: _outside,
    peer_test.RECURRENT: _by_the_recurrent_kernel,
    peer_test.COMPACT: _compact,
    peer_test.LAYOUT: lambda kernels, test, x: call(kernels, test, x, "kv"),
    peer_test.DECODE: _by_decode,
    peer_test.NOTHING: lambda kernels, test, x: {},
}
