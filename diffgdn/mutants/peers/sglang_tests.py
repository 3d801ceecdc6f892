"""SGLang's tests of these operations: facts of its files, in the order of the files.

Tests of kernels that are not in Triton are here too where their shapes and tolerances are those of an
operation here (FlashInfer's of KDA and the gated delta rule, both for Blackwell GPUs, the first of them
switched off; the CPU's): a mutant stands in the place of the kernel that is tested, the recurrence in that of
the other one.

Left out: tests of single stages (test_solve_fwd_sub, the cumulative gates of test_kda_kernels); of what no
operation here does (replayed and fused projections, context parallelism, accepted rows, rounding at random);
and test_cutedsl_gdn, which is skipped. No test holds gdn.packed_decode or the updates with gates given to
numbers; the only one of a draft with a tree asks whether it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from diffgdn.mutants.peers.peer_test import (
    COMPACT,
    DECODE,
    NOTHING,
    RANDN,
    RECURRENT,
    SAME,
    Below,
    Close,
    Draw,
    Finite,
    Gate,
    PeerTest,
    Ratio,
    Slots,
    Source,
)

REPOSITORY, FOLDER = "sgl-project/sglang", "test/registered/attention"
CHUNK = Source(
    "SGLang",
    REPOSITORY,
    "06ab04abc53fef1bd3b3dbdae760c2f3a18d13b8",
    f"{FOLDER}/test_chunk_gated_delta_rule.py",
)
KDA = Source(
    "SGLang", REPOSITORY, "05f70dc503324fcbc7cb999e78ab990f27a9597e", f"{FOLDER}/test_kda_kernels.py"
)
STRIDE = Source(
    "SGLang",
    REPOSITORY,
    "228d4c850657e1fd969dfe3bf195887160f3e594",
    f"{FOLDER}/test_gdn_noncontiguous_stride.py",
)
FLASHINFER = Source(
    "SGLang",
    REPOSITORY,
    "045e94b2940a64061a505de0c50ea472aa8d6a10",
    f"{FOLDER}/test_kda_decode_flashinfer.py",
)
CAKE = Source(
    "SGLang",
    REPOSITORY,
    "319dfa35fcc0570d01907cca8651165ecbd49237",
    "test/registered/kernels/ops/attention/test_cake_gdn_decode.py",
)
CPU = Source("SGLang", REPOSITORY, "057015f8b07146973b2c4d6a103381cac0f15fd4", "test/srt/cpu/test_mamba.py")

BF16, SINGLE = "bfloat16", "float32"
FP32_NORMAL = Draw("randn", dtype=SINGLE)
NORMALS: dict[str, Any] = dict(q=RANDN, k=RANDN, v=RANDN)
NORMAL_SIGMOID = Draw("randn", then="sigmoid")
LOG_SIGMOID = Gate(Draw("randn", then="logsigmoid"))
LOOSE = Close(2e-2, 1e-2)


def normal(times: float, plus: float = 0.0, dtype: str | None = None) -> Draw:
    return Draw("randn", times, plus, dtype=dtype)


def extend(B: int, T: int, H: int, K: int, V: int, slots: Slots, name: str, **changes: Any) -> PeerTest:
    test = PeerTest(
        name, "gdn.extend", (T,) * B, H, H, K, V, BF16, LOG_SIGMOID, NORMAL_SIGMOID,
        {"o": LOOSE, "state": LOOSE}, packed=True, **NORMALS, l2norm=True, state=normal(0.1, dtype=SINGLE),
        slots=slots, against=RECURRENT,
    )  # fmt: skip
    return replace(test, **changes)


def chunk() -> Iterator[PeerTest]:
    """Yield those of prefill of the gated delta rule; only slots that are named are compared."""
    for B, T, H, K, V, count in (
        (4, 64, 16, 128, 128, 32),
        (4, 128, 16, 128, 128, 32),
        (4, 256, 16, 128, 128, 32),
        (1, 128, 16, 128, 128, 32),
        (2, 128, 16, 128, 128, 32),
        (8, 128, 16, 128, 128, 64),
        (16, 64, 16, 128, 128, 128),
        (32, 32, 16, 128, 128, 256),
        (4, 128, 4, 128, 128, 32),
        (4, 128, 8, 128, 128, 32),
        (4, 128, 32, 128, 128, 32),
        (4, 128, 64, 128, 128, 32),
        (4, 128, 16, 64, 64, 32),
        (4, 128, 16, 64, 128, 32),
        (4, 128, 16, 128, 64, 32),
        (4, 128, 16, 256, 256, 32),
        (4, 1, 16, 128, 128, 32),
        (4, 7, 16, 128, 128, 32),
        (4, 16, 16, 128, 128, 32),
        (4, 32, 16, 128, 128, 32),
        (4, 512, 16, 128, 128, 32),
        (4, 128, 16, 128, 128, 512),
        (1, 1024, 16, 128, 128, 32),
        (1, 1536, 16, 128, 128, 32),
        (1, 2048, 16, 128, 128, 32),
        (2, 1024, 16, 128, 128, 32),
        (32, 128, 32, 128, 128, 256),
    ):
        yield extend(B, T, H, K, V, Slots(count, "shuffled"), "_check_shape")
    for B, H in ((4, 16), (8, 16), (4, 32), (4, 64), (32, 32)):
        yield extend(B, 128, H, 128, 128, Slots(B), "test_seq_idx")
    for order in ((0, -1, 2, -1), (-1, -1, -1, -1)):
        yield extend(
            4, 64, 4, 128, 128, Slots(8, order), "test_padded_state_index_is_skipped", against=NOTHING,
            criteria={"o": Finite(), "others": SAME},
        )  # fmt: skip


def kda() -> Iterator[PeerTest]:
    """Yield those of Kimi delta attention: decode, prefill, packed decode."""
    yield PeerTest(
        "test_kda_fused_sigmoid_gating_recurrent", "kda.decode", (1,) * 4, 8, 8, 128, 128, BF16,
        Gate(RANDN, rate=FP32_NORMAL, bias=RANDN), RANDN,
        {"o": Close(1e-4, 1e-3), "state": Close(1e-8, 1e-5)}, packed=True, **NORMALS, l2norm=True,
        slots=Slots(64, (0, 2, 5, 8)), raw_beta=True, against=RECURRENT,
    )  # fmt: skip
    for lens, packed, activated in (
        ((129,), False, False),
        ((15, 16, 17, 63, 65), True, True),
        ((2,) * 129, True, False),
    ):
        gate = Gate(normal(0.5, -2.0), rate=normal(0.1, dtype=SINGLE), bias=normal(0.1, dtype=SINGLE))
        test = PeerTest(
            "test_chunk_prefill_matches_natural_exp_recurrence", "kda.extend", lens, 2, 2, 64, 64, BF16,
            gate, Draw("rand", then="sigmoid"), {"o": Ratio(1e-2, 0.0), "state": Ratio(1e-2, 0.0)},
            packed=packed, q=FP32_NORMAL, k=FP32_NORMAL, v=normal(0.1), unit="qk",
            state=normal(0.05, dtype=SINGLE), slots=Slots(len(lens)),
        )  # fmt: skip
        yield test if activated else replace(test, gate=replace(gate, outside=True))
    packed_decode = PeerTest(
        "_check", "kda.packed_decode", (1,), 16, 16, 128, 128, BF16,
        Gate(normal(0.5, -1.0), rate=normal(0.2, dtype=SINGLE), bias=normal(0.1, dtype=SINGLE)), normal(0.5),
        {"o": LOOSE, "state": LOOSE}, packed=True, q=normal(0.1), k=normal(0.1), v=normal(0.1), l2norm=True,
        state=normal(0.01), raw_beta=True, against=DECODE,
    )  # fmt: skip
    for B, H in ((1, 16), (4, 16), (32, 16), (128, 16), (8, 8)):
        yield replace(packed_decode, lens=(1,) * B, H=H, slots=Slots(B + 4))
    yield replace(
        packed_decode, name="test_pad_slot", lens=(1,) * 8, criteria={"o": LOOSE},
        slots=Slots(12, (-1, 1, -1, 3, -1, 5, -1, 7)),
    )  # fmt: skip


def stride() -> Iterator[PeerTest]:
    """Yield those of decode with a and b split from one tensor, against the same apart, bit for bit."""
    for B, T, H, K, V in ((4, 1, 8, 64, 32), (8, 1, 48, 128, 128), (4, 4, 8, 64, 32)):
        yield PeerTest(
            "TestFusedSigmoidGatingDeltaRuleUpdateNonContiguous", "gdn.decode", (T,) * B, H, H, K, V, BF16,
            Gate(RANDN, rate=FP32_NORMAL, bias=RANDN), RANDN, {"o": SAME, "state": SAME, "others": SAME},
            packed=True, **NORMALS, slots=Slots(B + 4), raw_beta=True, split=True, against=COMPACT,
        )  # fmt: skip
    yield PeerTest(
        "TestFusedSigmoidGatingKDAStride", "kda.decode", (1,) * 4, 8, 8, 128, 128, BF16,
        Gate(RANDN, rate=FP32_NORMAL, bias=RANDN), RANDN, {"o": SAME, "state": SAME, "others": SAME},
        packed=True, **NORMALS, l2norm=True, slots=Slots(64, (0, 2, 5, 8)), raw_beta=True, split=True,
        against=COMPACT,
    )  # fmt: skip


def flashinfer() -> Iterator[PeerTest]:
    """Yield those of decode and verify of Kimi delta attention, whose reference is SGLang's Triton kernel."""
    o, states = Below(1e-2, 1e-3), Below(1e-1, 1e-2)
    decode = PeerTest(
        "test_kda_decode_flashinfer_matches_triton", "kda.decode", (1,), 16, 16, 128, 128, BF16,
        Gate(normal(0.5, -1.0), rate=normal(0.2, dtype=SINGLE), bias=normal(0.1, dtype=SINGLE)), normal(0.5),
        {"o": o, "state": states}, packed=True, q=normal(0.5), k=normal(0.5), v=normal(0.5), l2norm=True,
        state=normal(0.01), raw_beta=True,
    )  # fmt: skip
    for B in (1, 8, 64, 128):
        yield replace(decode, lens=(1,) * B, slots=Slots(B + 16))
    for B, drafts, spare in ((1, 7, 0), (8, 7, 0), (32, 3, 0), (32, 3, 2)):
        yield replace(
            decode, name="test_kda_target_verify_flashinfer", operation="kda.verify",
            lens=(1 + drafts,) * B, slots=Slots(B + 16), spare=spare, criteria={"o": o, "steps": states},
        )  # fmt: skip


def cake() -> Iterator[PeerTest]:
    """Yield those of decode and verify of the gated delta rule, held to the recurrence in fp32."""
    near = Close(1e-2, 1e-2)
    decode = PeerTest(
        "test_tp4_decode_row_matches_flashinfer_reference_and_graph_replay", "gdn.decode", (1,) * 4, 4, 8,
        128, 128, BF16,
        Gate(normal(0.1), rate=normal(0.1, dtype=SINGLE), bias=normal(1.0, -2.0, SINGLE)), RANDN,
        {"o": near, "state": near}, **NORMALS, l2norm=True, state=normal(0.1), slots=Slots(7, "shuffled"),
        raw_beta=True,
    )  # fmt: skip
    yield decode
    for B, T, H, HV in ((2, 4, 4, 8), (3, 7, 8, 16)):
        yield replace(
            decode, name="test_verify_rows_match_flashinfer_and_reference", operation="gdn.verify",
            lens=(T,) * B, H=H, HV=HV, slots=Slots(B + 3, "shuffled"),
            criteria={"o": near, "steps": near, "pool": SAME},
        )  # fmt: skip
    for B in (1, 4):
        yield replace(
            decode, name="test_kmajor_fp32_decode_matches_flashinfer_and_reference", lens=(1,) * B, H=16,
            HV=32, state=normal(0.1, dtype=SINGLE), slots=Slots(B),
            criteria={"o": near, "state": Close(1e-3, 1e-3)},
        )  # fmt: skip


def cpu() -> Iterator[PeerTest]:
    """Yield that of prefill on a CPU, whose decay is above one."""
    small = Draw("rand", 0.05)
    yield PeerTest(
        "test_chunk_gated_delta_rule", "gdn.extend", (128, 128), 3, 6, 64, 64, BF16,
        Gate(Draw("rand", 0.05, dtype=SINGLE)), small, {"o": Close(1e-2, 1e-2), "state": Close(1e-2, 1e-2)},
        packed=True, q=small, k=small, v=small, l2norm=True, state=Draw("rand", 0.05, dtype=SINGLE),
    )  # fmt: skip


TESTS = tuple(
    replace(test, source=source)
    for source, tests in (
        (CHUNK, chunk),
        (KDA, kda),
        (STRIDE, stride),
        (FLASHINFER, flashinfer),
        (CAKE, cake),
        (CPU, cpu),
    )
    for test in tests()
)
