"""Calls of the public functions with one argument far apart along one axis, compared with the plain call.

    python far_calls.py CALL [ARGUMENT ...]

prints, as JSON, what came of every argument and axis: "same", or how it went wrong. A far view has a handful
of elements and strides past 2^30; on a CPU the memory between them is mapped and never touched, and each call
is made in a process forked for it, for a wrong address kills it.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from diffgdn.backend import interpreter, selection

BACKEND = selection.detect()
selection.enter(BACKEND)

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from diffgdn import kernels  # noqa: E402

DEVICE = "cuda" if BACKEND == "gpu" else "cpu"

# Two steps of the first pass 2^31 elements. The second is for strides counted in units of 16 bytes, as the
# chunk kernels take them where all allow it: two steps pass 2^31 units of bf16, one step 2^31 elements.
STRIDES = (2**30 + 1, 2**33 + 64)
MAP_NORESERVE = 0x4000  # Linux; in Python's mmap from 3.13 on

N, T, H, HV, K, V = 3, 5, 3, 3, 8, 8  # an axis needs three elements to be two strides long
BF16, FP32 = torch.bfloat16, torch.float32

# Every argument's last dimension is contiguous, save those of these.
VECTORS: tuple[str, ...] = (
    "A_log",
    "dt_bias",
    "initial_state_indices",
    "ssm_state_indices",
    "intermediate_state_indices",
    "step_change_indices",
    "num_accepted_steps",
    "cu_seqlens",
)
VECTORS += ("retrieve_parent_token", "accepted_path")


def draw(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return (torch.randn(*shape) / 2).to(dtype)


def tokens(kda: bool, B: int, length: int) -> dict[str, Any]:
    g = draw(B, length, HV, *([K] if kda else []), dtype=FP32)
    return {
        "q": draw(B, length, H, K),
        "k": draw(B, length, H, K),
        "v": draw(B, length, HV, V),
        "g": -g.abs(),
        "beta": draw(B, length, HV).sigmoid(),
    }


def raw_gates(kda: bool) -> dict[str, Any]:
    return {"A_log": draw(HV, dtype=FP32), "dt_bias": draw(HV, *([K] if kda else []), dtype=FP32)}


def shape_of_batch(packed: bool) -> tuple[int, int]:
    return (1, N * T) if packed else (N, T)


def bounds(packed: bool) -> dict[str, Any]:
    return {"cu_seqlens": torch.arange(N + 1, dtype=torch.int32) * T} if packed else {}


def slots(name: str) -> dict[str, Any]:
    return {name: torch.tensor([2, 0, 1])}


def extend(kda: bool, packed: bool = False, layout: str = "vk") -> dict[str, Any]:
    out = {
        **tokens(kda, *shape_of_batch(packed)),
        **bounds(packed),
        "initial_state": draw(3, HV, V, K),
        **slots("initial_state_indices"),
        "use_qk_l2norm_in_kernel": packed,  # both ways of reading q and k
        "output_final_state": True,
        "chunk_size": 16,
        "layout": layout,
    }
    if not kda:
        return out
    A_log = {"A_log": draw(1, HV, 1, dtype=FP32)}
    return {**out, **raw_gates(True), **A_log, "beta_is_raw": True, "output_intermediate_states": True}


def recurrent(kda: bool, packed: bool = False) -> dict[str, Any]:
    out = {**tokens(kda, *shape_of_batch(packed)), **bounds(packed), "initial_state": draw(N, HV, V, K)}
    return out if kda else {**out, "output_final_state": True}


def update(kda: bool, packed: bool = False, layout: str = "vk") -> dict[str, Any]:
    return {
        **tokens(kda, *shape_of_batch(packed)),
        **bounds(packed),
        "initial_state_source": draw(3, HV, V, K),
        **slots("initial_state_indices"),
        "layout": layout,
    }


def verify(kda: bool, packed: bool = False, layout: str = "vk") -> dict[str, Any]:
    out = update(kda, packed, layout)
    B, length = shape_of_batch(packed)
    out |= raw_gates(kda) | {"a": draw(B, length, HV, *([K] if kda else [])), "b": out.pop("beta")}
    del out["g"]
    tree = torch.tensor([[-1, 0, 1, 2, 2], [-1, 0, 0, 1, 3], [-1, 0, 1, 1, 2]], dtype=torch.int32)
    return {
        **out,
        **slots("intermediate_state_indices"),
        "softplus_beta": 1.0,
        "softplus_threshold": 20.0,
        "is_kda": kda,
        "intermediate_states_buffer": draw(3, T, HV, V, K),
        "retrieve_parent_token": tree,
    }


def keeping(kda: bool, packed: bool = False, layout: str = "vk") -> dict[str, Any]:
    """Verify that keeps changes."""
    out = verify(kda, packed, layout)
    del out["intermediate_states_buffer"], out["intermediate_state_indices"]
    changes = draw(3, T, kernels.change_numbers(H, HV, K, V, kda), dtype=FP32)
    return {**out, "step_changes": changes, **slots("step_change_indices")}


def commit(kda: bool, path: bool = False, layout: str = "vk") -> dict[str, Any]:
    out: dict[str, Any] = {
        "initial_state_source": draw(3, HV, V, K),
        **slots("initial_state_indices"),
        "step_changes": draw(3, T, kernels.change_numbers(H, HV, K, V, kda), dtype=FP32),
        **slots("step_change_indices"),
        "num_accepted_steps": torch.tensor([3, 1, 2], dtype=torch.int32),
        "is_kda": kda,
        "layout": layout,
    }
    if path:
        out["accepted_path"] = torch.tensor([[0, 1, 4], [1, 2, 3], [0, 2, 3]], dtype=torch.int32)
    return out


def packed_decode(kda: bool) -> dict[str, Any]:
    return {
        "mixed_qkv": draw(N, 2 * H * K + HV * V),
        "a": draw(N, HV, *([K] if kda else [])),
        "b": draw(N, HV),
        **raw_gates(kda),
        "scale": None,
        "initial_state": draw(3, HV, V, K),
        "out": draw(N, 1, HV, V),
        **slots("ssm_state_indices"),
    }


Make = Callable[[], dict[str, Any]]
Found = dict[str, Tensor]
# The arguments that a variant of a call reads in another way than the call before it.
EVERY: tuple[str, ...] = ()
NORMALISED = ("q", "k", "cu_seqlens")
STATES = ("initial_state", "initial_state_source", "intermediate_states_buffer")
CHANGES = ("step_changes", "step_change_indices")
CALLS: dict[str, tuple[str, list[tuple[Make, tuple[str, ...]]]]] = {
    "chunk_gdn": (
        "chunk_gated_delta_rule",
        [
            (lambda: extend(False), EVERY),
            (lambda: extend(False, packed=True), NORMALISED),
            (lambda: extend(False, layout="kv"), STATES),
        ],
    ),
    "chunk_kda": (
        "chunk_kda",
        [
            (lambda: extend(True), EVERY),
            (lambda: extend(True, packed=True), NORMALISED),
            (lambda: extend(True, layout="kv"), STATES),
        ],
    ),
    "recurrent_gdn": (
        "fused_recurrent_gated_delta_rule",
        [(lambda: recurrent(False), EVERY), (lambda: recurrent(False, packed=True), EVERY)],
    ),
    "recurrent_kda": (
        "fused_recurrent_kda",
        [(lambda: recurrent(True), EVERY), (lambda: recurrent(True, packed=True), EVERY)],
    ),
    "update": (
        "fused_recurrent_gated_delta_rule_update",
        [
            (lambda: update(False), EVERY),
            (lambda: update(True, packed=True), EVERY),
            (lambda: update(False, layout="kv"), STATES),
        ],
    ),
    "verify": (
        "fused_sigmoid_gating_delta_rule_update",
        [
            (lambda: verify(False), EVERY),
            (lambda: verify(True, packed=True), EVERY),
            (lambda: verify(True, layout="kv"), STATES),
        ],
    ),
    "keeping": (
        "fused_sigmoid_gating_delta_rule_verify",
        [(lambda: keeping(False), EVERY), (lambda: keeping(True, packed=True), CHANGES)],
    ),
    "commit": (
        "commit_accepted_steps",
        [
            (lambda: commit(False), EVERY),
            (lambda: commit(True, path=True), EVERY),
            (lambda: commit(False, layout="kv"), STATES),
        ],
    ),
    "both": (
        "fused_sigmoid_gating_delta_rule_verify_commit",
        [(lambda: keeping(True) | {"num_accepted_steps": torch.tensor([3, 1, 2])}, CHANGES)],
    ),
    "packed_decode_gdn": (
        "fused_recurrent_gated_delta_rule_packed_decode",
        [(lambda: packed_decode(False), EVERY)],
    ),
    "packed_decode_kda": ("fused_recurrent_kda_packed_decode", [(lambda: packed_decode(True), EVERY)]),
}


def far(x: Tensor, axis: int, stride: int) -> Tensor:
    """A view equal to x, along one axis with this stride."""
    strides = [stride if dim == axis else own for dim, own in enumerate(x.stride())]
    extent = 1 + sum((size - 1) * step for size, step in zip(x.shape, strides, strict=True))
    if DEVICE == "cuda":
        memory = torch.empty(extent, dtype=x.dtype, device=DEVICE)
    else:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        memory = torch.frombuffer(mmap.mmap(-1, extent * x.element_size(), flags=flags), dtype=x.dtype)
    view = memory.as_strided(x.shape, strides)
    view.copy_(x)
    return view


def axes(given: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Arguments and axes that may be far."""
    for name, x in given.items():
        if isinstance(x, Tensor):
            last = x.ndim if name in VECTORS else x.ndim - 1
            yield from ((name, axis) for axis in range(last) if x.shape[axis] > 2)


def run(function: Callable[..., Any], given: dict[str, Any]) -> Found:
    """What a call returns, and its arguments afterwards: those written, and those that must stay."""
    returned = function(**given)
    results = returned if isinstance(returned, tuple) else (returned,)
    out = {f"result {i}": x for i, x in enumerate(results) if x is not None}
    return out | {name: x for name, x in given.items() if isinstance(x, Tensor)}


def called(function: Callable[..., Any], make: Make, name: str = "", axis: int = 0, stride: int = 0) -> Found:
    """The call with one argument far apart, or, without a stride, as it is."""
    torch.manual_seed(0)
    given = {key: x.to(DEVICE) if isinstance(x, Tensor) else x for key, x in make().items()}
    if stride:
        given[name] = far(given[name], axis, stride)
    return run(function, given)


def outcome(expected: Found, *call: Any) -> str:
    try:
        actual = called(*call)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    wrong = [key for key, x in expected.items() if not torch.equal(actual[key], x)]
    return f"other bits in {', '.join(wrong)}" if wrong else "same"


def forked(*args: Any) -> str:
    """The outcome in a process of its own, and how that died if it did."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, outcome(*args).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return text if status == 0 else f"died of {signal.Signals(-status).name}"


def main(call: str, asked: list[str]) -> dict[str, str]:
    name, variants = CALLS[call]
    function = getattr(kernels, name)
    found = {}
    for i, (make, read) in enumerate(variants):
        plain = called(function, make)
        for name, axis in axes(make()):
            if any(names and name not in names for names in (asked, read)):
                continue
            in_units = DEVICE == "cpu" and call.startswith("chunk") and name in ("q", "k", "v", "g")
            for stride in STRIDES if in_units else STRIDES[:1]:
                one = function, make, name, axis
                key = f"{name}, axis {axis}, stride {stride}, variant {i}"
                if DEVICE == "cuda":  # compared with a stride of the same low bits: the same compiled kernel
                    found[key] = outcome(called(*one, stride % 64 + 4096), *one, stride)
                else:
                    found[key] = forked(plain, *one, stride)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    if DEVICE == "cpu":
        interpreter.repair()
    print(json.dumps(main(sys.argv[1], sys.argv[2:])))
