"""What of strides and devices only a GPU can show: offsets of compiled kernels, and a second device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgdn.cases.case import Case, Pool
from diffgdn.kernels import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule_update
from diffgdn.runner.in_process import InProcess
from diffgdn.verdict.failures import KernelRaised

pytestmark = pytest.mark.gpu

SCRIPT = Path(__file__).parents[1] / "unit" / "far_calls.py"
HANGS = 900  # seconds, most of them of compilation
FREE_BYTES = 24 << 30  # a far view takes up to 16 GiB of real memory here


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("chunk_gdn", ("q", "k", "v", "initial_state", "initial_state_indices")),
        ("chunk_kda", ("k", "g", "A_log", "initial_state")),
        ("update", ("q", "initial_state_source", "initial_state_indices")),
        ("verify", ("k", "a", "intermediate_states_buffer", "retrieve_parent_token")),
        ("packed_decode_gdn", ("mixed_qkv", "out", "A_log")),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_far_view_gives_the_bits_of_a_near_one(call: str, arguments: tuple[str, ...]) -> None:
    if torch.cuda.mem_get_info()[0] < FREE_BYTES:
        pytest.skip(f"less than {FREE_BYTES >> 30} GiB of GPU memory is free")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), call, *arguments],
        env={**os.environ, "DIFFGDN_BACKEND": "gpu"},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name for key in found for name in key.split(", ")[:1]} == set(arguments)
    assert {axis: what for axis, what in found.items() if what != "same"} == {}


def tokens(device: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    x = {name: torch.randn(1, 20, 2, 16) for name in "qkv"}
    gates = {"g": -torch.rand(1, 20, 2), "beta": torch.rand(1, 20, 2)}
    return {name: tensor.to(device) for name, tensor in (x | gates).items()}


@pytest.mark.parametrize("function", [chunk_gated_delta_rule, fused_recurrent_gated_delta_rule_update])
def test_tensors_on_a_device_that_is_not_current(function: Callable[..., Any]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs in one process")
    returned = {}
    for device in ("cuda:0", "cuda:1"):
        with torch.cuda.device(0):
            o = function(**tokens(device))
            returned[device] = (o[0] if isinstance(o, tuple) else o).cpu()
            assert torch.cuda.current_device() == 0
    assert torch.equal(returned["cuda:1"], returned["cuda:0"])


def test_a_far_case_that_fails_leaves_the_memory_of_its_gpu_free() -> None:
    if torch.cuda.mem_get_info()[0] < FREE_BYTES:
        pytest.skip(f"less than {FREE_BYTES >> 30} GiB of GPU memory is free")
    far = Case(op="gdn.decode", pool=Pool(slots=3, pitch=1 << 30), scale=2.0)
    verdict = InProcess("gpu").run(far, f"{SCRIPT.with_name('probed.py')}:faulty")
    assert isinstance(verdict.failure, KernelRaised)
    assert torch.cuda.memory_reserved() < 1 << 30
