"""Kernels that know nothing of this project get true verdicts: none on the correct ones, and each slip found.

A slip is one line of a kernel's source put as a released kernel once had it.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings

from diffgdn import strategies, targets
from diffgdn.cases.case import Case, Pool, Values
from diffgdn.search import hypothesis_search
from diffgdn.strategies import Menu
from diffgdn.verdict import execute
from diffgdn.verdict.failures import Verdict

pytestmark = pytest.mark.explores

HERE = Path(__file__).parent
CASES = 40  # an operation; `diffgdn fuzz --target` asks for more
SEED = 10
MOST_CASES = 2000  # until a slip shows; most take a few dozen, a sum without atomics 3 to 488 by seed
KERNELS = {
    "forty_lines.py:decode_fp32": ("gdn.decode",),
    "forty_lines.py:decode_fp16": ("gdn.decode",),
    "forty_lines.py:decode_bf16": ("gdn.decode",),
    "fla_style.py:recurrent": ("gdn.recurrent",),
    "sglang_style.py:sigmoid_gating": ("gdn.decode", "kda.decode", "gdn.verify", "kda.verify"),
    "vllm_style.py:packed_decode": ("gdn.packed_decode",),
    "split_style.py:split_decode": ("gdn.packed_decode",),
    "tutorial_style.py:extend": ("gdn.extend",),
}


@pytest.mark.parametrize(("target", "op"), [(name, op) for name, ops in KERNELS.items() for op in ops])
def test_a_correct_kernel_passes(
    target: str, op: str, diffgdn_backend: str, diffgdn_check: Callable[..., Verdict]
) -> None:
    promises = targets.promises(str(HERE / target))
    gpu = diffgdn_backend == "gpu"
    menu = Menu.draw(SEED, [op], backend=diffgdn_backend, promises=promises) if gpu else None

    @seed(SEED)
    @settings(max_examples=CASES, database=None)
    @given(case=strategies.cases(op, backend=diffgdn_backend, menu=menu, promises=promises))
    def test(case: Case) -> None:
        diffgdn_check(case, str(HERE / target))

    test()


@dataclass(frozen=True)
class Slip:
    """One line of a kernel, as it is and as it was elsewhere, and what a case must have to show it.

    also: other lines that go with it, each as it is and as it was.
    """

    id: str
    target: str
    op: str
    line: str
    slipped: str
    shows: Callable[[Case], bool]
    also: tuple[tuple[str, str], ...] = ()


# The smallest cases in which the order of programs matters, in a chunked extend and in a split decode.
TWO_SEQUENCES = Case("gdn.extend", lens=(1, 1), pool=Pool(2, (0, 1)), chunk_size=16, order="descending")
FOUR_BLOCKS = Case("gdn.packed_decode", order="descending")

SLIPS = (
    Slip(
        "pad-slot-off-by-one",
        "forty_lines.py:decode_fp32",
        "gdn.decode",
        "in_v[:, None] & in_k[None, :] & (slot >= 0)",
        "in_v[:, None] & in_k[None, :] & (slot > 0)",
        lambda case: case.lens == (1,) and case.pool.indices == (0,),
    ),
    Slip(
        "state-in-input-dtype",
        "forty_lines.py:decode_fp16",
        "gdn.decode",
        "S = S + d[:, None] * k[None, :]",
        "S = (S + d[:, None] * k[None, :]).to(q_ptr.dtype.element_ty).to(tl.float32)",
        lambda case: case.lens == (1,) and case.dtype == "float16",
    ),
    Slip(
        "heads-interleaved",
        "forty_lines.py:decode_bf16",
        "gdn.decode",
        "h = hv // (HV // H)",
        "h = hv % H",
        lambda case: case.lens == (1,) and 1 < case.H < case.HV <= 6 and case.dtype == "bfloat16",
    ),
    Slip(
        "k-mask-missing",
        "fla_style.py:recurrent",
        "gdn.recurrent",
        "b_k = tl.load(p_k, mask=mask_k, other=0).to(tl.float32)",
        "b_k = tl.load(p_k).to(tl.float32)",
        lambda case: len(case.lens) == 1 and case.total <= 4 and case.K & (case.K - 1) != 0,
    ),
    Slip(
        "ab-token-stride",
        "sglang_style.py:sigmoid_gating",
        "gdn.decode",
        "p_a += stride_a",
        "p_a += HV",
        lambda case: len(case.lens) == 1 and case.total == 2 and case.view != "contiguous",
    ),
    Slip(
        "kda-gate-per-head",
        "sglang_style.py:sigmoid_gating",
        "kda.verify",
        "b_a = tl.load(p_a, mask=mask_k, other=0).to(tl.float32)",
        "b_a = tl.load(p_a - o_k, mask=mask_k, other=0).to(tl.float32)",
        lambda case: case.lens == (1,) and case.K > 1,
    ),
    Slip(
        "qkv-assumed-compact",
        "vllm_style.py:packed_decode",
        "gdn.packed_decode",
        "p_mixed = mixed_qkv + i_n * stride_mixed_qkv_tok",
        "p_mixed = mixed_qkv + i_n * (2 * H * K + HV * V)",
        lambda case: case.lens == (1, 1) and case.view != "contiguous",
    ),
    Slip(
        "glast-wrong-row",
        "tutorial_style.py:extend",
        "gdn.extend",
        "last = tl.minimum(t0 + BT, end) - 1",
        "last = tl.maximum(tl.minimum(t0 + BT, end) - 2, t0)",
        lambda case: len(case.lens) == 1 and case.total == 2,
    ),
    # What no program order but another than ascending can show.
    Slip(
        "tail-over-next-sequence",
        "tutorial_style.py:extend",
        "gdn.extend",
        "(scale * o).to(o_ptr.dtype.element_ty), mask=exists[:, None] & in_v[None, :])",
        "(scale * o).to(o_ptr.dtype.element_ty), mask=(t < T)[:, None] & in_v[None, :])",
        lambda case: replace(case, values=Values(), only=()) == TWO_SEQUENCES,
        also=(
            ("h_ptr, o_ptr, table_ptr, cu_ptr, scale,", "h_ptr, o_ptr, table_ptr, cu_ptr, scale, T,"),
            (
                "K**-0.5 if scale is None else scale,\n            BK",
                "K**-0.5 if scale is None else scale, B * T,\n            BK",
            ),
        ),
    ),
    Slip(
        "first-program-initialises",
        "split_style.py:split_decode",
        "gdn.packed_decode",
        "tl.store(p_part + block * V, part, mask=in_v)",
        "tl.store(p_part, part if block == 0 else part + tl.load(p_part, mask=in_v), mask=in_v)",
        lambda case: replace(case, values=Values(), only=()) == FOUR_BLOCKS,
        also=(("parts.sum(2)", "parts[:, :, 0]"),),
    ),
    Slip(
        "sum-without-atomics",
        "split_style.py:split_decode",
        "gdn.packed_decode",
        "tl.store(p_part + block * V, part, mask=in_v)",
        "tl.store(p_part, part + tl.load(p_part, mask=in_v), mask=in_v)",
        lambda case: replace(case, values=Values(), only=()) == FOUR_BLOCKS,
        also=(("parts = torch.empty", "parts = torch.zeros"), ("parts.sum(2)", "parts[:, :, 0]")),
    ),
)


def _parameter(slip: Slip) -> Any:
    """A slip, at night alone if it takes minutes."""
    slow = slip.id == "sum-without-atomics" and not os.environ.get("DIFFGDN_NIGHTLY")
    marks = [pytest.mark.skip(reason="looked for at night: DIFFGDN_NIGHTLY=1")] if slow else []
    return pytest.param(slip, id=slip.id, marks=marks)


@pytest.mark.parametrize("slip", [_parameter(slip) for slip in SLIPS])
def test_a_slip_is_found_and_shrinks_to_a_handful_of_tokens(
    slip: Slip, diffgdn_backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if diffgdn_backend == "gpu":
        pytest.skip("each step of a shrink would be compiled")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    target = targets.get(slipped(slip, tmp_path))
    found: list[hypothesis_search.Found] = []
    hypothesis_search.find(
        strategies.cases(slip.op, promises=targets.promises_of(target)),
        lambda case: execute.run(case, target, "interpret"),
        max_examples=MOST_CASES,
        seed=SEED,
        max_shrink_seconds=1e9,  # a shrink ends by itself; the machine's speed must not matter
        deadline=math.inf,
        clock=lambda: math.inf if found else 0.0,  # the first kind of failure is enough
        on_shrunk=found.append,
        by_field=True,
        promises=targets.promises_of(target),
    )
    assert slip.shows(found[0].case), found[0].case


def slipped(slip: Slip, folder: Path) -> str:
    """The name of a target that is a copy of a kernel with one line of it changed."""
    for path in HERE.glob("*.py"):
        shutil.copy(path, folder)
    file, _, name = slip.target.partition(":")
    source = (folder / file).read_text()
    for line, slipped in ((slip.line, slip.slipped), *slip.also):
        assert source.count(line) == 1
        source = source.replace(line, slipped)
    (folder / file).write_text(source)
    return f"{folder / file}:{name}"
