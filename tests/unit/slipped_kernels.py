"""The project's own kernels with one slip in how they address memory: a few characters of a copy of their
source are another.

Each slip is right for the memory of usual cases. Which one, the environment variable SLIP says, so that a
child and a replay meet the same one. Loaded as `tests/unit/slipped_kernels.py:slipped`.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import diffgdn.kernels
from diffgdn.cases.operations import OPERATIONS
from diffgdn.targets import FunctionTarget, calls


class Slip(NamedTuple):
    """In a file of kernels/, what stands there once and what is put in its place, several pairs in turn."""

    file: str
    pairs: tuple[tuple[str, str], ...]


LAUNCH, STEPS, RECURRENT = "recurrent_launch.py", "recurrent_steps.py", "recurrent.py"
DENSE = "k.shape[1] if cu_seqlens is None else 1"
SLIPS = {
    "batch stride is T token strides": Slip(
        LAUNCH, (("*strides(k, sequence)", f"k.stride(1) * ({DENSE}), *strides(k, (1, 2))"),)
    ),
    "batch stride is T token strides, in a chunk": Slip(
        "chunk/wy_gdn.py", (("p_v += (i_b * v_b", "p_v += (i_b * (v_t * T)"),)
    ),
    "slot indices lie side by side": Slip(LAUNCH, (("*strides(h_indices, (0,))", "1"),)),
    "slot indices lie side by side, in a chunk": Slip("chunk/state.py", (("i_n * i_s", "i_n"),)),
    "buffer rows lie side by side": Slip(LAUNCH, (("*strides(cache_indices, (0,))", "1"),)),
    "cu_seqlens lies side by side": Slip(LAUNCH, (("cu_seqlens = cu_seqlens.contiguous()", "pass"),)),
    "cu_seqlens lies side by side, in a chunk": Slip(
        "chunk/pipeline.py", (("cu_seqlens = cu_seqlens.contiguous()", "pass"),)
    ),
    "heads of the pool are compact": Slip(
        RECURRENT,
        (("stride_h0_slot + i_hv * stride_h0_head", "stride_h0_slot + i_hv * VARIANT.V * VARIANT.K"),),
    ),
    "rows of the pool are compact": Slip(
        LAUNCH, (("all(x.shape[-2] == 1 or x.stride(-2) == row for x in states)", "True"),)
    ),
    "heads of the pool are compact, in a chunk": Slip("chunk/state.py", (("i_hv * s_h", "i_hv * V * K"),)),
    "rows of the pool are compact, in a chunk": Slip(
        "chunk/state.py", (("o_v.to(tl.int64)[None, :] * s_r", "o_v[None, :] * K"),)
    ),
    "steps of the buffer are compact": Slip(
        RECURRENT, (("(p_cache, stride_cache_step,", "(p_cache, HV * VARIANT.V * VARIANT.K,"),)
    ),
    "heads of g are compact": Slip(
        RECURRENT, (("i_hv * stride_g_head", "i_hv * (VARIANT.K if VARIANT.KDA else 1)"),)
    ),
    "offset of a head in 32 bits": Slip(
        RECURRENT, (("i_h * stride_q_head", "(i_h * stride_q_head).to(tl.int32)"),)
    ),
    "offset of a sequence in 32 bits": Slip(
        RECURRENT, (("first * stride_v_seq", "(first * stride_v_seq).to(tl.int32)"),)
    ),
    "offset of a token in 32 bits, in a chunk": Slip(
        "chunk/state.py", (("k_t = k_t * UNIT", "k_t = (k_t * UNIT).to(tl.int32)"),)
    ),
    "offset of a row of the pool in 32 bits": Slip(
        STEPS,
        (("offsets = o_v64 * stride_row + o_k64", "offsets = (o_v64 * stride_row + o_k64).to(tl.int32)"),),
    ),
    "offset of a head of the pool in 32 bits": Slip(
        RECURRENT,
        (
            (
                "stride_h0_slot + i_hv * stride_h0_head",
                "stride_h0_slot + (i_hv * stride_h0_head).to(tl.int32)",
            ),
        ),
    ),
    "q starts on 16 bytes": Slip(
        LAUNCH,
        (
            (
                "    B, T, H, K = k.shape\n",
                "    B, T, H, K = k.shape\n"
                "    back = q.data_ptr() % 16 // q.element_size()\n"
                "    q = q.as_strided(q.shape, q.stride(), q.storage_offset() - back)\n",
            ),
        ),
    ),
    "the pool starts on 32 bytes": Slip(
        LAUNCH,
        (
            (
                "    states = [x for",
                "    if h0 is not None and h0.numel():\n"
                "        back = h0.data_ptr() % 32 // h0.element_size()\n"
                "        same, h0 = h0, h0.as_strided(h0.shape, h0.stride(), h0.storage_offset() - back)\n"
                "        ht = h0 if ht is same else ht\n"
                "    states = [x for",
            ),
        ),
    ),
    "A_log lies side by side": Slip(
        "arguments.py", (("return x.reshape(-1).contiguous()", "return x.as_strided((numel,), (1,))"),)
    ),
    "out is compact": Slip(
        LAUNCH, (("*strides(flat_o, sequence)", "*((1, 1, 1) if flat_o is None else (HV * V, HV * V, V))"),)
    ),
    "a batch of one has the stride of its tokens": Slip(
        LAUNCH,
        (
            (
                "*strides(v, sequence)",
                "*(strides(v, sequence) if B > 1 else [v.stride(0) // T] * 2 + [v.stride(2)])",
            ),
        ),
    ),
}


def _copy(slip: Slip) -> ModuleType:
    """Import a copy of the kernels that has the slip."""
    folder = Path(tempfile.mkdtemp(prefix="slipped_kernels_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package = folder / "slipped"
    shutil.copytree(Path(diffgdn.kernels.__file__).parent, package)
    text = (package / slip.file).read_text()
    for old, new in slip.pairs:
        assert text.count(old) == 1, f"{slip.file}: {old!r} stands there {text.count(old)} times"
        text = text.replace(old, new)
    (package / slip.file).write_text(text)
    name = package.name
    spec = importlib.util.spec_from_file_location(
        name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    for old in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[old]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def target_with(slip: str) -> FunctionTarget:
    """The target `slipped` with a slip of SLIPS."""
    kernels = _copy(SLIPS[slip])
    return FunctionTarget("slipped", {op: getattr(kernels, calls.FUNCTIONS[op]) for op in OPERATIONS})


def __getattr__(name: str) -> FunctionTarget:
    if name != "slipped":
        raise AttributeError(name)
    return target_with(os.environ["SLIP"])
