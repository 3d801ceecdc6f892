"""Compiles the recurrent kernel for a GPU, without one: a variant with every tensor, and the plainest; the
fold, too.

Prints, for each, the widest load of the code. Run by test_kernels_recurrent.py in a process that does not
interpret.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton._utils import find_paths_if, get_iterable_path
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource
from triton.runtime.jit import create_function_from_signature

from diffgdn.kernels.fold import launch_fold
from diffgdn.kernels.recurrent import recurrent_kernel
from diffgdn.kernels.recurrent_launch import launch
from diffgdn.kernels.step_changes import change_numbers

TARGET = GPUTarget("cuda", 90, 32)
N, T, HV = 2, 3, 2


def compiled(self: Any, *args: Any, grid: Any, warmup: Any, **options: Any) -> None:
    """What Triton makes of a launch, up to the launch itself."""
    backend = CUDABackend(TARGET)
    bind = create_function_from_signature(self.signature, self.params, backend)
    bound, specialised, options = bind(*args, **options)
    kinds = [kind for kind, _ in specialised]
    keys = [key for _, key in specialised]
    source = ASTSource(
        self,
        dict(zip([parameter.name for parameter in self.params], kinds, strict=True)),
        {
            path: get_iterable_path(list(bound.values()), path)
            for path in find_paths_if(kinds, lambda _, kind: kind == "constexpr")
        },
        {
            path: backend.parse_attr(get_iterable_path(keys, path))
            for path in find_paths_if(keys, lambda _, key: isinstance(key, str))
        },
    )
    code = triton.compile(source, target=TARGET, options=options).asm["ptx"]
    print(max(int(width or 1) for width in re.findall(r"ld\.global(?:\.v(\d))?\.b32", code)))


def everything(K: int) -> None:
    """Verify of kda with a tree, raw gates and all else; K: rows start on 16-byte boundaries, or not."""
    V, kept, indices = 16, torch.zeros(N, T, HV, 16, K), torch.zeros(N, dtype=torch.int32)
    q, v = torch.zeros(1, N * T, 1, K), torch.zeros(1, N * T, HV, V)
    launch(
        q, q, v, torch.zeros(1, N * T, HV, K), v[..., 0], v.clone(), kda=True, h0=kept[:, 0], ht=kept[:, 0],
        h_indices=indices, cu_seqlens=torch.zeros(N + 1), cache=kept, cache_indices=indices, cache_steps=T,
        parents=torch.zeros(N, T, dtype=torch.int32), scale=0.5, l2norm=True, raw_beta=True,
        A_log=torch.zeros(HV), dt_bias=torch.zeros(HV * K),
    )  # fmt: skip


def plainest() -> None:
    """One token, gates given, no beta, no state and no output but the final state."""
    k = torch.zeros(1, 1, 1, 16)
    launch(k, k, k, k[..., 0], None, None, kda=False, ht=torch.zeros(1, 1, 16, 16), scale=0.5)


def fold() -> None:
    """Commit accepted paths of trees, kda."""
    changes, row = torch.zeros(N, T, change_numbers(1, HV, 16, 16, True)), torch.zeros(N, dtype=torch.int32)
    path = torch.zeros(N, T, dtype=torch.int32)
    launch_fold(
        torch.zeros(N, HV, 16, 16), row, changes, row, row, path, H=1, kda=True, kv=False,
        batch_invariant=False,
    )  # fmt: skip


if __name__ == "__main__":
    type(recurrent_kernel).run = compiled
    calls: list[Callable[[], None]] = [lambda: everything(16), lambda: everything(17), fold, plainest]
    for call in calls:
        call()
