"""The tests of flash-linear-attention of these operations: facts of its files, in the order of the files.

Left out: backward passes; tests of single stages (tests/ops/test_gdn_kernels.py, test_gate), for the stages
here are cut differently; test_fused_recurrent_state_v_first, for the recurrent kernel here has one layout;
backends that are not in Triton (FlashQLA, FlashKDA), and shapes (test_chunk_return_intermediate_states).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from diffgdn.mutants.peers.peer_test import (
    LAYOUT,
    OUTSIDE,
    RANDN,
    Criterion,
    Draw,
    Gate,
    PeerTest,
    Ratio,
    Slots,
    Source,
)

REPOSITORY, REVISION = "fla-org/flash-linear-attention", "bc3b101dcb713ddc5bd8924b66754eb68b5ccf89"
GDN = Source("FLA", REPOSITORY, REVISION, "tests/ops/test_gdn.py", copies=True)
KDA = Source("FLA", REPOSITORY, REVISION, "tests/ops/test_kda.py", copies=True)

HALF, BF16, SINGLE = "float16", "bfloat16", "float32"
FP32_NORMAL = Draw("randn", dtype=SINGLE)
SIGMOID = Draw("rand", then="sigmoid")  # of rand: 0.5 to 0.73
SIGMOID_FP32 = replace(SIGMOID, dtype=SINGLE)
NORMAL_SIGMOID = Draw("randn", then="sigmoid")
RATE = Draw("rate", dtype=SINGLE)
CU_1: tuple[int, ...] = (0, 15)
CU_3: tuple[int, ...] = (0, 256, 500, 1000)
CU_5: tuple[int, ...] = (0, 15, 100, 300, 1200, 2000)


def both(most: float) -> dict[str, Any]:
    """Hold outputs and final states to one ratio, as `assert_close` of fla/utils/_testing.py does."""
    return {"o": Ratio(most), "state": Ratio(most)}


def batch(B: int, T: int) -> dict[str, Any]:
    return {"lens": (T,) * B}


def packed(cu_seqlens: tuple[int, ...]) -> dict[str, Any]:
    return {"lens": tuple(b - a for a, b in pairwise(cu_seqlens)), "packed": True}


def log_sigmoid(law: str, over: float = 1.0, dtype: str = SINGLE, **more: Any) -> Gate:
    return Gate(Draw(law, then="logsigmoid", over=over, dtype=dtype), **more)


def dims(H: int, HV: int, D: int, dtype: str) -> dict[str, Any]:
    return {"H": H, "HV": HV, "K": D, "V": D, "dtype": dtype}


def normed(by_kernel: bool) -> dict[str, Any]:
    """Say who divides q and k by their norms."""
    return {"l2norm": True} if by_kernel else {"unit": "qk"}


def gdn() -> Iterator[PeerTest]:
    """Yield the tests of the gated delta rule."""
    for B, T, H, HV, D, scale, over, dtype in (
        (1, 63, 1, 1, 64, 1, 1, SINGLE),
        (2, 500, 4, 4, 60, 1, 1, SINGLE),
        (2, 1000, 2, 8, 128, 1, 0.1, SINGLE),
        (3, 1024, 2, 2, 128, 0.1, 1, SINGLE),
        (4, 1024, 3, 3, 128, 1, 10, SINGLE),
        (4, 2048, 4, 4, 64, 0.1, 1, SINGLE),
        (2, 1024, 4, 4, 128, 1, 0.1, HALF),
        (2, 1024, 4, 8, 128, 1, 10, HALF),
    ):
        yield PeerTest(
            "test_fused_recurrent", "gdn.recurrent", **batch(B, T), **dims(H, HV, D, dtype), scale=scale,
            q=FP32_NORMAL, k=FP32_NORMAL, v=RANDN, gate=log_sigmoid("rand", over), beta=SIGMOID, l2norm=True,
            state=FP32_NORMAL, criteria=both(0.002),
        )  # fmt: skip
    for B, T, H, HV, D, scale, over, zeros, by_kernel in (
        (4, 1024, 4, 4, 128, 0.1, 1, 1.0, False),
        (2, 75, 4, 4, 64, 1, 0.01, 0, False),
        (2, 500, 3, 3, 60, 1, 1, 0, False),
        (2, 1000, 3, 3, 64, 0.1, 1, 0.5, False),
        (3, 1024, 4, 4, 100, 1, 0.1, 0, False),
        (4, 1024, 4, 4, 128, 0.1, 1, 0, True),
        (2, 1500, 4, 4, 128, 0.1, 10, 0, False),
        (4, 2048, 8, 8, 64, 0.1, 1, 0, False),
        (2, 256, 2, 4, 64, 1, 1, 0, False),
        (2, 512, 2, 8, 64, 1, 0.1, 0, True),
        (2, 1024, 4, 8, 128, 0.1, 1, 0, False),
    ):
        yield PeerTest(
            "test_chunk", "gdn.extend", **batch(B, T), **dims(H, HV, D, HALF), scale=scale,
            gate=log_sigmoid("rand", over, zeros=zeros), beta=SIGMOID_FP32, **normed(by_kernel),
            criteria=both(0.005),
        )  # fmt: skip
    for chunk_size in (16, 32, 64):
        yield PeerTest(
            "test_chunk_with_chunk_size", "gdn.extend", **batch(1, 64), **dims(2, 4, 32, SINGLE), scale=0.1,
            gate=log_sigmoid("rand"), beta=SIGMOID_FP32, unit="qk", chunk_size=chunk_size,
            criteria=both(0.005),
        )  # fmt: skip
    for B, T, H, HV, D, scale, by_kernel, doubled in (
        (2, 500, 4, 4, 64, 1, False, False),
        (3, 1024, 4, 4, 128, 0.1, True, True),
        (2, 1024, 4, 8, 128, 0.1, False, True),
        (4, 2048, 8, 8, 64, 0.1, True, False),
    ):
        yield PeerTest(
            "test_chunk_beta_sigmoid_in_kernel", "gdn.extend", **batch(B, T), **dims(H, HV, D, HALF),
            scale=scale, gate=log_sigmoid("rand"), beta=FP32_NORMAL, raw_beta=True, doubled=doubled,
            **normed(by_kernel), criteria=both(0.005), against=OUTSIDE,
        )  # fmt: skip
    for B, T, H, D, scale in V_FIRST:
        yield PeerTest(
            "test_chunk_state_v_first", "gdn.extend", **batch(B, T), **dims(H, H, D, HALF), scale=scale,
            gate=log_sigmoid("rand"), beta=SIGMOID, unit="qk", state=FP32_NORMAL, criteria=both(1e-4),
            against=LAYOUT,
        )  # fmt: skip
    for B, T, H, HV, D, scale, biased, dtype in (
        (1, 64, 1, 1, 64, 1, False, SINGLE),
        (2, 256, 2, 2, 64, 1, True, SINGLE),
        (2, 512, 2, 4, 64, 0.1, True, HALF),
        (3, 1000, 2, 8, 128, 1, False, HALF),
        (4, 1024, 4, 4, 128, 0.1, True, HALF),
    ):
        yield PeerTest(
            "test_fused_recurrent_gate_in_kernel", "gdn.recurrent", **batch(B, T), **dims(H, HV, D, dtype),
            scale=scale, q=RANDN, k=RANDN, v=RANDN, gate=raw(FP32_NORMAL, RATE, biased), beta=SIGMOID,
            l2norm=True, state=FP32_NORMAL, criteria=both(0.002), against=OUTSIDE,
        )  # fmt: skip
    for B, T, H, HV, D, scale, doubled, dtype in (
        (1, 64, 1, 1, 64, 1, False, SINGLE),
        (2, 512, 2, 4, 64, 0.1, True, HALF),
        (3, 1000, 2, 8, 128, 1, True, HALF),
        (4, 1024, 4, 4, 128, 0.1, False, HALF),
    ):
        yield PeerTest(
            "test_fused_recurrent_beta_sigmoid_in_kernel", "gdn.recurrent", **batch(B, T),
            **dims(H, HV, D, dtype), scale=scale, q=RANDN, k=RANDN, v=RANDN, gate=log_sigmoid("rand"),
            beta=RANDN, raw_beta=True, doubled=doubled, l2norm=True, state=FP32_NORMAL, criteria=both(0.005),
            against=OUTSIDE,
        )  # fmt: skip
    for H, HV, D, biased, bounds in (
        (2, 2, 64, True, (0, 15, 100, 300)),
        (2, 4, 64, False, CU_3),
        (4, 4, 128, True, CU_5),
    ):
        yield PeerTest(
            "test_fused_recurrent_gate_in_kernel_varlen", "gdn.recurrent", **packed(bounds),
            **dims(H, HV, D, HALF), q=RANDN, k=RANDN, v=RANDN, gate=raw(FP32_NORMAL, RATE, biased),
            beta=SIGMOID, l2norm=True, state=FP32_NORMAL, criteria=both(0.002), against=OUTSIDE,
        )  # fmt: skip
    varlen: dict[str, Any] = dict(
        q=RANDN, k=FP32_NORMAL, v=RANDN, unit="k", state=RANDN, criteria=both(0.005)
    )
    for H, HV, D, zeros, bounds in (
        (4, 4, 60, 0, CU_1),
        (4, 4, 64, 0, CU_3),
        (4, 4, 64, 0.5, CU_3),
        (4, 4, 100, 0, CU_5),
        (2, 4, 64, 0, CU_3),
        (2, 8, 64, 0, CU_3),
    ):
        yield PeerTest(
            "test_chunk_varlen", "gdn.extend", **packed(bounds), **dims(H, HV, D, HALF),
            gate=log_sigmoid("rand", dtype=HALF, zeros=zeros), beta=SIGMOID_FP32, **varlen,
        )  # fmt: skip
    for D, zeros, bounds in (
        (60, 0, (0, 8192)),
        (60, 0, CU_1),
        (64, 0, CU_3),
        (64, 0.5, CU_3),
        (100, 0, CU_5),
    ):
        yield PeerTest(
            "test_chunk_varlen_prefill", "gdn.extend", **packed(bounds), **dims(4, 4, D, HALF),
            gate=log_sigmoid("rand", dtype=HALF, zeros=zeros), beta=SIGMOID, **varlen,
        )  # fmt: skip
    for B, T, H, HV, D, scale, biased, by_kernel in (
        (2, 75, 4, 4, 64, 1, True, True),
        (2, 500, 3, 3, 60, 1, False, False),
        (2, 1000, 3, 3, 64, 0.1, True, False),
        (3, 1024, 4, 4, 100, 1, True, True),
        (4, 1024, 4, 4, 128, 0.1, False, True),
        (4, 2048, 8, 8, 64, 0.1, True, False),
        # From here on test_chunk_gate_in_kernel_gqa.
        (2, 256, 2, 4, 64, 1, True, True),
        (2, 512, 1, 4, 64, 0.1, False, True),
        (2, 512, 2, 8, 64, 1, True, True),
        (2, 1024, 4, 8, 128, 0.1, True, True),
    ):
        yield PeerTest(
            "test_chunk_gate_in_kernel", "gdn.extend", **batch(B, T), **dims(H, HV, D, HALF), scale=scale,
            gate=raw(FP32_NORMAL, FP32_NORMAL, biased), beta=SIGMOID_FP32, **normed(by_kernel),
            criteria=both(0.005), against=OUTSIDE,
        )  # fmt: skip
    for D, biased, bounds in ((60, True, CU_1), (64, False, CU_3), (64, True, CU_3), (100, True, CU_5)):
        yield PeerTest(
            "test_chunk_gate_in_kernel_varlen", "gdn.extend", **packed(bounds), **dims(4, 4, D, HALF),
            q=RANDN, k=RANDN, v=RANDN, gate=raw(FP32_NORMAL, FP32_NORMAL, biased), beta=SIGMOID_FP32,
            l2norm=True, state=FP32_NORMAL, criteria=both(0.005), against=OUTSIDE,
        )  # fmt: skip


V_FIRST = ((1, 63, 1, 64, 1), (2, 500, 3, 60, 1), (3, 1024, 4, 128, 0.1), (4, 2048, 8, 64, 0.1))


def raw(draw: Draw, rate: Draw | None, biased: bool, bounded: bool = False) -> Gate:
    """Return a gate that the kernel activates; bounded: within -5 to 0."""
    return Gate(draw, rate=rate, bias=FP32_NORMAL if biased else None, lower_bound=-5.0 if bounded else None)


def kda() -> Iterator[PeerTest]:
    """Yield the tests of Kimi delta attention; not those of gates without A_log, which kernels here need."""
    for B, T, H, HV, D, scale, by_kernel in (
        (1, 64, 1, 1, 64, 1, False),
        (2, 512, 3, 3, 60, 1, False),
        (3, 1000, 4, 4, 100, 0.1, True),
        (4, 1024, 4, 4, 128, 0.1, False),
        (2, 512, 2, 4, 60, 1, False),
        (2, 1024, 2, 8, 128, 0.1, True),
    ):
        yield PeerTest(
            "test_fused_recurrent", "kda.recurrent", **batch(B, T), **dims(H, HV, D, SINGLE), scale=scale,
            gate=log_sigmoid("randn"), beta=NORMAL_SIGMOID, **normed(by_kernel), state=FP32_NORMAL,
            criteria=both(0.005),
        )  # fmt: skip
    for B, T, H, D, doubled in ((2, 256, 4, 64, False), (2, 256, 4, 64, True), (1, 512, 3, 60, True)):
        yield PeerTest(
            "test_fused_recurrent_use_beta_sigmoid_in_kernel", "kda.recurrent", **batch(B, T),
            **dims(H, H, D, SINGLE), gate=log_sigmoid("randn"), beta=RANDN, raw_beta=True, doubled=doubled,
            unit="qk", state=FP32_NORMAL, criteria=both(0.005), against=OUTSIDE,
        )  # fmt: skip
    for B, T, H, HV, D, scale, biased, bounded, dtype in (
        (1, 64, 1, 1, 64, 1, False, False, SINGLE),
        (2, 256, 2, 2, 64, 1, True, False, SINGLE),
        (2, 512, 2, 4, 64, 0.1, True, True, HALF),
        (3, 1000, 2, 8, 128, 1, False, False, HALF),
        (4, 1024, 4, 4, 128, 0.1, True, True, HALF),
    ):
        yield PeerTest(
            "test_fused_recurrent_gate_in_kernel", "kda.recurrent", **batch(B, T), **dims(H, HV, D, dtype),
            scale=scale, gate=raw(FP32_NORMAL, RATE, biased, bounded), beta=SIGMOID, l2norm=True,
            state=FP32_NORMAL, criteria=both(0.002), against=OUTSIDE,
        )  # fmt: skip
    pool: dict[str, Criterion] = {"o": Ratio(0.005), "state": Ratio(0.005), "others": Ratio(0.0)}
    for B, H, D, scale, over, by_kernel, activated, bounded, dtype in (
        (16, 16, 128, 0.1, 1.0, True, False, False, BF16),
        (32, 8, 64, 1.0, 1.0, False, False, False, HALF),
        (7, 32, 128, 0.5, 0.5, True, False, False, BF16),
        (16, 16, 128, 0.1, 1.0, True, True, False, BF16),
        (32, 8, 64, 1.0, 1.0, False, True, False, HALF),
        (7, 32, 128, 0.5, 0.5, True, True, True, BF16),
    ):
        # Where the kernel activates the gate, the decode here takes beta before its sigmoid as well.
        gate = raw(RANDN, RATE, True, bounded) if activated else log_sigmoid("randn", over)
        yield PeerTest(
            "test_fused_recurrent_vllm_decode", "kda.decode" if activated else "kda.update",
            lens=(1,) * B, packed=True, **dims(H, H, D, dtype), scale=scale, gate=gate,
            beta=RANDN if activated else NORMAL_SIGMOID, raw_beta=activated, **normed(by_kernel),
            state=FP32_NORMAL, slots=Slots(3 * B, "shuffled", 1e30), criteria=pool,
        )  # fmt: skip
    for B, T, H, HV, D, scale, over, zeros, by_kernel, activated, dtype, safe, chunk_size in (
        (1, 63, 1, 1, 64, 1, 1, 0, False, False, HALF, True, 64),
        (2, 500, 3, 3, 60, 1, 1, 0, False, False, HALF, True, 64),
        (2, 1000, 3, 3, 64, 0.1, 1, 0.5, False, False, HALF, False, 64),
        (3, 1024, 4, 4, 100, 1, 0.1, 0, False, False, HALF, False, 64),
        (4, 1024, 4, 4, 128, 0.1, 1, 0, False, False, HALF, True, 64),
        (4, 1024, 4, 4, 128, 0.1, 1, 0, True, False, HALF, True, 64),
        (2, 1500, 4, 4, 128, 0.1, 10, 0, False, True, HALF, False, 64),
        (4, 2048, 8, 8, 64, 0.1, 1, 0, False, True, HALF, True, 64),
        (2, 1024, 2, 4, 64, 0.1, 1, 0, False, False, HALF, False, 64),
        (2, 1024, 2, 8, 64, 0.1, 1, 0, False, True, HALF, False, 64),
        (2, 1024, 4, 8, 128, 0.1, 1, 0, True, True, HALF, False, 64),
        (2, 160, 2, 4, 64, 0.1, 1, 0, False, True, HALF, True, 32),
        (2, 1024, 2, 4, 64, 0.1, 1, 0, True, True, BF16, True, 64),
        (2, 1024, 2, 4, 64, 0.1, 1, 0, False, True, BF16, False, 64),
        (2, 160, 2, 4, 64, 0.1, 1, 0, False, True, BF16, True, 32),
        (2, 1024, 2, 8, 128, 0.1, 1, 0, True, True, BF16, False, 64),
    ):
        gate = (
            raw(RANDN, FP32_NORMAL, True, safe)
            if activated
            else log_sigmoid("randn", over, zeros=zeros, clamp=safe)
        )
        yield PeerTest(
            "test_chunk", "kda.extend", **batch(B, T), **dims(H, HV, D, dtype), scale=scale, gate=gate,
            beta=NORMAL_SIGMOID, **normed(by_kernel), state=FP32_NORMAL, chunk_size=chunk_size,
            criteria=both(0.005),
        )  # fmt: skip
    for B, T, H, D, scale in V_FIRST:
        yield PeerTest(
            "test_chunk_state_v_first", "kda.extend", **batch(B, T), **dims(H, H, D, HALF), scale=scale,
            gate=log_sigmoid("randn"), beta=NORMAL_SIGMOID, unit="qk", state=FP32_NORMAL, criteria=both(1e-4),
            against=LAYOUT,
        )  # fmt: skip
    for B, T, H, D, doubled, dtype in (
        (1, 8192, 96, 128, False, BF16),
        (1, 8192, 96, 128, True, BF16),
        (2, 96, 2, 64, True, HALF),
    ):
        yield PeerTest(
            "test_chunk_use_beta_sigmoid_in_kernel", "kda.extend", **batch(B, T), **dims(H, H, D, dtype),
            gate=log_sigmoid("randn"), beta=RANDN, raw_beta=True, doubled=doubled, unit="qk",
            state=FP32_NORMAL, criteria=both(1e-4), against=OUTSIDE,
        )  # fmt: skip
    for name, D, zeros, bounds, activated, safe, chunk_size in (
        ("test_chunk_varlen", 60, 0.1, CU_1, True, False, 64),
        ("test_chunk_varlen", 64, 0.9, CU_3, True, False, 64),
        ("test_chunk_varlen", 128, 0.5, CU_3, False, False, 64),
        ("test_chunk_varlen", 100, 0, CU_5, True, False, 64),
        ("test_chunk_varlen", 256, 0, (0, 100, 300, 1200, 3000, 4096), False, True, 64),
        ("test_chunk_varlen", 60, 0.1, (0, 31, 96, 160), True, False, 32),
        ("test_chunk_varlen_prefill", 60, 0.1, (0, 8192), True, False, 64),
        ("test_chunk_varlen_prefill", 64, 0.9, CU_3, True, False, 64),
        ("test_chunk_varlen_prefill", 128, 0.5, CU_3, False, False, 64),
        ("test_chunk_varlen_prefill", 100, 0, CU_5, True, False, 64),
        ("test_chunk_varlen_prefill", 256, 0, (0, 100, 300, 1200, 3000, 4096), False, True, 64),
    ):
        # The mask sets entries to -1000: of the raw gate no decay, of a log decay all of it.
        gate = (
            replace(raw(RANDN, RATE, True), deep=zeros)
            if activated
            else log_sigmoid("randn", zeros=zeros, deep=zeros, clamp=safe)
        )
        yield PeerTest(
            name, "kda.extend", **packed(bounds), **dims(4, 4, D, HALF), q=RANDN, k=FP32_NORMAL, v=RANDN,
            gate=gate, beta=SIGMOID, unit="qk", state=FP32_NORMAL, chunk_size=chunk_size,
            criteria=both(0.005),
        )  # fmt: skip


TESTS = (
    *(replace(test, source=GDN) for test in gdn()),
    *(replace(test, source=KDA) for test in kda()),
)
