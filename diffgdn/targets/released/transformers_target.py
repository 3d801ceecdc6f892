"""The functions of plain torch that transformers falls back on for its Qwen3-Next and Qwen3.5 models.

They run anywhere, and are a second opinion on the oracle as much as a target. Their states are [K, V], in
batches that are not packed: the adapter calls them once for each sequence that has tokens, with its state of
the pool transposed (zeros for index -1), and stores what they return.

In transformers 5 a decorator looks for other implementations (the hub's, fla's); the adapter takes the
function of plain torch underneath. Where transformers cannot be imported, the functions alone are compiled
from their file: they need nothing of it but `l2norm`, which is there too.

Promises: K**-0.5 is the only scale, and all is computed in fp32 (modeling_qwen3_next.py: "always normalize
queries by the head dimension", `x.transpose(1, 2).to(torch.float32)`).
"""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffgdn.reference.noise import Contract
from diffgdn.targets import recording
from diffgdn.targets.base import TargetError
from diffgdn.targets.released import package
from diffgdn.targets.released.package import Found, Function, ReleasedTarget, Spec, declared, optional

CHUNK, STEPS = "torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"
MODELS = ("qwen3_5", "qwen3_next")  # newest first
NORM = "l2norm"


def _paths(function: str) -> tuple[str, ...]:
    return tuple(f"transformers.models.{model}.modeling_{model}:{function}" for model in MODELS)


SPEC = Spec(
    name="transformers",
    distribution="transformers",
    package="transformers",
    paths={"gdn.extend": _paths(CHUNK), "gdn.recurrent": _paths(STEPS)},
    backends=("interpret", "gpu"),
    wanted=tuple(f"transformers/models/{model}/modeling_" for model in MODELS),
)
# All in fp32, by chunks and by steps; products of fp32 tensors may be tf32 on a GPU if torch is told so.
CONTRACTS = {"gdn.extend": Contract(chunked=True), "gdn.recurrent": Contract()}


def make(name: str, place: str | None) -> ReleasedTarget:
    """Make the target of the installed package, or of a wheel or a folder. Raises TargetError."""
    try:
        found = package.load(SPEC, place)
    except TargetError:
        found = _compiled(Found(SPEC, SPEC.place(place)))
    plain = {op: inspect.unwrap(function) for op, function in found.functions.items()}
    found.functions = {op: recording.watched(function) for op, function in plain.items()}
    adapters = {op: _adapted(op, function) for op, function in found.functions.items()}
    promised = {op: _promised(op, function) for op, function in found.functions.items()}
    return ReleasedTarget(found, adapters, "vk", promised, CONTRACTS)


def _compiled(found: Found) -> Found:
    """Compile the functions of a file that cannot be imported. Raises TargetError."""
    found.missing = dict.fromkeys(SPEC.paths, package.NO_FUNCTION)
    for model in MODELS:
        file = found.place.root / "transformers" / "models" / model / f"modeling_{model}.py"
        if not file.is_file():
            continue
        namespace = _namespace(file)
        for op, name in (("gdn.extend", CHUNK), ("gdn.recurrent", STEPS)):
            if op in found.missing and name in namespace:
                found.functions[op] = namespace[name]
                found.paths[op] = f"transformers.models.{model}.modeling_{model}:{name}"
                del found.missing[op]
    if not found.functions:
        raise TargetError(f"transformers {found.place.version}: {package.NO_FUNCTION} of {', '.join(MODELS)}")
    found.stood_in = ("transformers (the functions alone are compiled from their file)",)
    return found


def _namespace(file: Path) -> dict[str, Any]:
    """Compile the functions of a model's file, without their decorators."""
    tree = ast.parse(file.read_text(), str(file))
    tree.body = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in (CHUNK, STEPS, NORM)
    ]
    for node in tree.body:
        assert isinstance(node, ast.FunctionDef)
        node.decorator_list = []
    namespace: dict[str, Any] = {"torch": torch, "F": F, "is_torchdynamo_exporting": lambda: False}
    exec(compile(tree, str(file), "exec", dont_inherit=True), namespace)
    return namespace


def _promised(op: str, function: Function) -> dict[str, Any]:
    """Say what one function promises."""
    out: dict[str, Any] = {
        "scale": ("default",),
        "execution": ("eager", "stream", "device"),  # the adapter reads indices on the CPU
        "boundary": (False,),
        "raw_gates": (False,),
        "raw_beta": (False,),
        "track": (False,),
        "no_beta": optional(function, "beta"),
    }
    if "num_k_heads" not in inspect.unwrap(function).__code__.co_varnames:
        out["ratio"] = (1,)  # before 5.13 the model repeated q and k itself
    return out


def _adapted(op: str, function: Function) -> Function:
    """Make the adapter of a function."""
    assert "initial_state" in declared(function)

    def extend(
        q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None,
        initial_state: Tensor | None, initial_state_indices: Tensor | None, cu_seqlens: Tensor | None,
        output_final_state: bool, chunk_size: int, inplace_update: bool, use_qk_l2norm_in_kernel: bool,
        has_initial_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, None]:  # fmt: skip
        slots = None if initial_state_indices is None else initial_state_indices.tolist()
        o, final = _by_sequence(
            function, (q, k, v, g, beta), cu_seqlens, initial_state, slots, has_initial_state,
            inplace_update and initial_state is not None, use_qk_l2norm_in_kernel, chunk_size=chunk_size,
        )  # fmt: skip
        return o, final if output_final_state else None, None

    def recurrent(
        q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None,
        initial_state: Tensor | None, cu_seqlens: Tensor | None, output_final_state: bool,
        use_qk_l2norm_in_kernel: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        o, final = _by_sequence(
            function, (q, k, v, g, beta), cu_seqlens, initial_state, None, None, False,
            use_qk_l2norm_in_kernel,
        )  # fmt: skip
        return o, final if output_final_state else None

    return extend if op == "gdn.extend" else recurrent


def _spans(tokens: Tensor, cu_seqlens: Tensor | None) -> Iterator[tuple[int, slice]]:
    """List the row of the batch and the tokens of each sequence."""
    if cu_seqlens is None:
        yield from ((row, slice(0, tokens.shape[1])) for row in range(tokens.shape[0]))
        return
    ends = cu_seqlens.tolist()
    yield from ((0, slice(first, last)) for first, last in itertools.pairwise(ends))


def _by_sequence(
    function: Function,
    tokens: tuple[Tensor, ...],
    cu_seqlens: Tensor | None,
    pool: Tensor | None,
    slots: list[int] | None,
    flags: Tensor | None,
    writes: bool,
    l2norm: bool,
    **given: Any,
) -> tuple[Tensor, Tensor]:
    """Call a function once for each sequence that has tokens.

    pool [slots, HV, V, K]: None for zero states. slots: of each sequence, None for its own number. writes:
    whether final states go to the pool. Returns o as v has it, and final states [N, HV, V, K] in fp32.
    """
    v = tokens[2]
    o, finals = torch.zeros_like(v, dtype=tokens[0].dtype), []
    for n, (row, span) in enumerate(_spans(v, cu_seqlens)):
        slot = n if slots is None else slots[n]
        state = v.new_zeros(*v.shape[2:], tokens[0].shape[-1], dtype=torch.float32)
        if pool is not None and slot >= 0 and (flags is None or bool(flags[n])):
            state = pool[slot].float()
        if span.stop > span.start:
            part = [one[row : row + 1, span] for one in tokens]
            out, final = function(
                *part,
                initial_state=state.mT[None].contiguous(),
                output_final_state=True,
                use_qk_l2norm_in_kernel=l2norm,
                **given,
            )
            o[row : row + 1, span] = out
            state = final[0].mT
            if writes and slot >= 0:
                assert pool is not None
                pool[slot] = state.to(pool.dtype)
        finals.append(state)
    return o, torch.stack(finals) if finals else v.new_zeros(0, *v.shape[2:], tokens[0].shape[-1])
