"""Which stage is wrong: told of mutants whose stage is known, of nobody else's kernels, of no right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffgdn import kernels, targets
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.sparsity import Only
from diffgdn.cases.state_options import StateOptions
from diffgdn.findings.finding import Finding
from diffgdn.kernels.chunk import pipeline
from diffgdn.mutants.catalogue import MUTANTS
from diffgdn.mutants.mutant_targets import name_of
from diffgdn.reference.noise import intermediates as noise_of_stages
from diffgdn.runner.in_process import InProcess
from diffgdn.targets.base import FunctionTarget
from diffgdn.verdict import execute, stages

GDN, KDA = "gdn.extend", "kda.extend"
TWO = Pool(slots=2, indices=(0, 1))
UNDERFLOW = Gates(law="underflow")
DENSE = Pool(indices=())
SMALL_KEYS = Case(KDA, l2norm=True, values=Values(law="normal", q_exponent=-11), chunk_size=16)
RAW_BF16 = Gates(law="checkpoint", beta="near_one", dtype="bfloat16", raw=True)
# A case that fails, and the stages that the bug is in: of several, those that it makes wrong at once.
EXPECTED: dict[str, tuple[Case, tuple[str, ...]]] = {
    "chunk-ids-wrong-source": (Case(GDN, (1, 1), pool=TWO, chunk_size=16), ("table",)),
    "eps-on-mean": (SMALL_KEYS, ("q", "k")),
    "max-not-sum": (SMALL_KEYS, ("q", "k")),
    "cumsum-ignores-chunks": (
        Case(GDN, (1, 1), pool=TWO, gates=Gates(law="constant", beta="two"), chunk_size=16),
        ("G",),
    ),
    "safe-gate-as-clamp": (
        Case(KDA, gates=Gates(law="constant", lower_bound=-1.0, raw=True), values=Values(law="normal")),
        ("G",),
    ),
    "dt-bias-per-head": (
        Case(KDA, dtype="bfloat16", gates=RAW_BF16, values=Values(law="normal"), chunk_size=16),
        ("G",),
    ),
    "softplus-no-linear-branch": (
        Case(
            KDA,
            (3, 3),
            HV=2,
            K=60,
            dtype="bfloat16",
            pool=Pool(indices=(-1, -1)),
            gates=Gates(law="extreme", strength=0.125, beta="uniform", dtype="bfloat16", raw=True),
            values=Values(law="normal", seed=65, q_exponent=7, state="none"),
            scale=1.0,
            chunk_size=16,
        ),
        ("G",),
    ),
    "tail-exp-unmasked": (Case(GDN, (3,), gates=Gates(law="exact"), chunk_size=16), ("A",)),
    "split-exponent": (Case(GDN, (3,), gates=Gates(law="exact"), chunk_size=16), ("A",)),
    "offdiag-rows-unmasked": (
        Case(
            KDA,
            (17,),
            gates=UNDERFLOW,
            values=Values(law="zero"),
            only=(Only(tensor="g", tokens=((13, 15),), K=(14,)),),
        ),
        ("A", "A_qk"),
    ),
    "mask-after-overflow": (
        Case(
            KDA,
            (3,),
            gates=UNDERFLOW,
            values=Values(law="zero"),
            chunk_size=16,
            only=(Only(tensor="g", tokens=((1, 2),), K=(1,)),),
        ),
        ("A", "A_qk"),
    ),
    "clamp-breaks-cancel": (
        Case(
            KDA,
            (3,),
            gates=UNDERFLOW,
            values=Values(seed=747, state="zero"),
            chunk_size=16,
            only=(
                Only(tensor="k", tokens=((1, 2),), K=(14,)),
                Only(tensor="v", tokens=(1,), V=(10,)),
                Only(tensor="g", K=(14,)),
            ),
        ),
        ("A", "A_qk"),
    ),
    "inf-times-zero-anchor": (
        Case(
            KDA,
            (3,),
            gates=UNDERFLOW,
            values=Values(law="zero"),
            chunk_size=16,
            only=(Only(tensor="g", tokens=((1, 2),), K=(1,)),),
        ),
        ("A", "A_qk"),
    ),
    "gva-gate-not-repeated": (
        Case(KDA, (3,), HV=2, gates=Gates(law="exact"), chunk_size=16),
        ("A", "A_qk", "q_decayed", "k_decayed", "w", "u"),
    ),
    "subst-past-end": (
        Case(KDA, (1, 2), K=2, V=2, pool=TWO, values=Values(law="exact", seed=93), chunk_size=16),
        ("A", "A_qk"),
    ),
    "neumann-fp16": (
        Case(
            GDN,
            (117,),
            V=12,
            pool=Pool(indices=(-1,)),
            gates=Gates(raw=True),
            values=Values(law="normal", seed=89, v_exponent=-2, state="zero"),
            chunk_size=16,
        ),
        ("A",),
    ),
    "neumann-slow-decay": (
        Case(
            KDA,
            (64,),
            K=48,
            V=48,
            dtype="bfloat16",
            pool=Pool(indices=(-1,)),
            gates=Gates(lower_bound=-1.0, raw=True),
            values=Values(law="parallel", seed=506, state="none"),
            scale=0.0625,
        ),
        ("A",),
    ),
    "newton-too-few": (
        Case(
            KDA,
            (9,),
            values=Values(state="zero"),
            chunk_size=16,
            only=(
                Only(tensor="q", tokens=()),
                Only(tensor="k", tokens=((7, 8),), K=(1,)),
                Only(tensor="v", tokens=(7,), V=(0,)),
            ),
        ),
        ("A",),
    ),
    "kkt-left-empty": (Case(KDA, values=Values(law="zero"), chunk_size=16), ("A_qk",)),
    "wy-row-unwritten": (Case(GDN, (16,), values=Values(law="normal"), chunk_size=16), ("u",)),
    "chunk-size-hardcoded": (Case(KDA, (17,), chunk_size=16), ("h", "v_new")),
    "glast-wrong-row": (Case(GDN, (2,), gates=Gates(law="constant"), chunk_size=16), ("h", "state", "final")),
    "log-linear-gate-mix": (Case(GDN, (17,), chunk_size=16), ("h", "state", "final")),
    "stale-slot-state": (
        Case(KDA, values=Values(law="normal"), state_options=StateOptions(initial=(False,)), chunk_size=16),
        ("h",),
    ),
    "empty-seq-epilogue": (Case(KDA, (0,), values=Values(law="exact"), chunk_size=16), ("state", "final")),
    "snapshot-precision": (
        Case(
            KDA,
            dtype="bfloat16",
            values=Values(law="normal"),
            state_options=StateOptions(track=(0,)),
            boundary=True,
        ),
        ("tracked",),
    ),
    "boundary-state-final": (Case(GDN, chunk_size=16, boundary=True), ("boundary",)),
    "h-read-as-kv": (Case(KDA, values=Values(law="exact"), chunk_size=16), ("o",)),
    "qk-scale-twice": (Case(GDN, chunk_size=16), ("o",)),
    "scale-loop-bound": (Case(GDN, K=2, chunk_size=16), ("o",)),
    "tail-rows-over-next": (
        Case(GDN, (1, 1), pool=TWO, values=Values(law="normal"), chunk_size=16, order="descending"),
        ("o",),
    ),
    "state-in-input-dtype": (
        Case("gdn.recurrent", dtype="bfloat16", pool=DENSE, values=Values(law="normal")),
        ("state", "final"),
    ),
    "kda-gate-per-head": (
        Case("kda.recurrent", pool=DENSE, gates=Gates(law="uniform")),
        ("state", "final"),
    ),
    "delta-inside-branch": (Case("kda.decode", gates=Gates(lower_bound=-5.0)), ("state", "final")),
    "tree-parent-chain": (
        Case(
            "gdn.verify",
            (3,),
            pool=Pool(steps=3, buffer=1, rows=(0,)),
            values=Values(law="parallel"),
            parents=((-1, 0, 0),),
        ),
        ("steps",),
    ),
}
QUICK = (
    "chunk-ids-wrong-source",
    "cumsum-ignores-chunks",
    "split-exponent",
    "kkt-left-empty",
    "wy-row-unwritten",
    "chunk-size-hardcoded",
    "h-read-as-kv",
    "kda-gate-per-head",
)


def told(name: str) -> stages.Stage | None:
    """The stage of a mutant's case, which fails."""
    case, target = EXPECTED[name][0], targets.get(name_of(name))
    failure = execute.run(case, target, "interpret").failure
    assert failure is not None, name
    assert execute.run(case, targets.get("vk"), "interpret").ok
    return stages.first_wrong(case, target, "interpret")


@pytest.mark.parametrize("name", QUICK)
def test_the_stage_of_a_bug_is_the_first_to_be_wrong(name: str) -> None:
    stage = told(name)
    assert stage is not None
    assert stage.name in EXPECTED[name][1]


@pytest.mark.nightly
def test_the_stage_is_told_of_all_bugs_in_one() -> None:
    wrong = [
        name for name in EXPECTED if (stage := told(name)) is None or stage.name not in EXPECTED[name][1]
    ]
    assert not wrong, f"{len(EXPECTED) - len(wrong)} of {len(EXPECTED)} right"


def test_every_bug_of_a_stage_of_extend_is_in_the_table_or_has_another_place() -> None:
    """What is not there: bugs of the launch, of memory, and of what is called when."""
    files = {edit.file for name in MUTANTS if name not in EXPECTED for edit in MUTANTS[name].edits}
    assert "chunk/inverse.py" not in files
    missing = {
        name
        for name in MUTANTS
        if name not in EXPECTED and any(edit.file.startswith("chunk/wy_") for edit in MUTANTS[name].edits)
    }
    assert missing == {"token-offset-int32"}  # it takes memory that is far away


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "chunk-size-hardcoded",
            "stage: chunk state h (sequence 0, chunk 1, head 0) is the first to leave its bound; "
            "what it is made of is within",
        ),
        (
            "cumsum-ignores-chunks",
            "stage: cumulative gate (sequence 1, chunk 0, token 0, head 0) is the first to leave its bound; "
            "it is made of the arguments",
        ),
        (
            "kda-gate-per-head",
            "stage: state (sequence 0, head 0) is the first to leave its bound; it is made of the arguments",
        ),
    ],
)
def test_it_is_said_in_words_where_a_finding_is_shown(name: str, words: str, tmp_path: Path) -> None:
    case, target = EXPECTED[name][0], name_of(name)
    picture = InProcess("interpret").run(case, target, picture=True).picture
    assert picture is not None
    assert words in picture.splitlines()
    finding = Finding(case, target, "interpret", "beyond_bound", "it is wrong", "o")
    _, image = InProcess("interpret").document(finding, tmp_path, picture=True)
    assert image.suffix == ".png" or words in image.read_text().splitlines()


TAILS = {
    "pad-rows-last-chunk-only": (
        Case(GDN, tail=17, chunk_size=16),
        ("chunk table (padding token 16)", "it is made of the arguments", "padding tokens: only 16 of 17"),
    ),
    "out-left-empty": (
        Case(KDA, tail=2, HV=2, chunk_size=16),
        ("output (padding token 0)", "the chunk table has it as padding", "padding tokens: every one"),
    ),
    "off-by-one@tile_table.chunk_table_kernel.4": (
        Case(GDN, tail=2, chunk_size=16),
        ("chunk table (padding token 0)", "it is made of the arguments", "padding tokens: every one"),
    ),
    "skip-last@recurrent_steps.zero_rows.1": (
        Case("gdn.recurrent", (1,), pool=Pool(slots=1, indices=()), tail=3),
        ("output (padding token 2)", "no state goes into it", "padding tokens: only 2 of 3"),
    ),
}


@pytest.mark.parametrize("name", TAILS)
def test_padding_that_is_not_zero_has_a_stage_and_a_picture(name: str, tmp_path: Path) -> None:
    (case, (place, made, rows)), target = TAILS[name], name_of(name)
    verdict = InProcess("interpret").run(case, target, picture=True)
    assert verdict.failure is not None
    assert verdict.failure.kind == "tail_not_zero"
    assert verdict.picture is not None
    lines = verdict.picture.splitlines()
    assert f"stage: {place} is the first to leave its bound; {made}" in lines
    assert rows in lines
    assert "padding tokens, head 0:" in lines
    assert "of o behind the last sequence are wrong" in lines[0]
    finding = Finding(case, target, "interpret", "tail_not_zero", "it is not zero", "o")
    assert len(InProcess("interpret").document(finding, tmp_path, picture=True)) == 2
    assert stages.first_wrong(case, targets.get("vk"), "interpret") is None


def test_an_output_is_blamed_where_the_state_that_it_is_read_from_came_back_right() -> None:
    def half(**given: Any) -> Any:
        o, final = kernels.fused_recurrent_gated_delta_rule(**given)
        return o * 0.5, final

    half.__module__ = kernels.fused_recurrent_gated_delta_rule.__module__
    target = FunctionTarget("half", {"gdn.recurrent": half})
    dense = Pool(slots=2, indices=())
    case = Case("gdn.recurrent", (1, 2), pool=dense, values=Values(law="normal"), final=True)
    assert str(stages.first_wrong(case, target, "interpret")) == (
        "stage: output (sequence 0, token 0, head 0) is the first to leave its bound; "
        "the state it is read from is within"
    )


@pytest.mark.parametrize("name", ["pad-slot-clamped", "pad-slot-unguarded-decode"])
def test_nothing_is_said_of_an_output_whose_state_did_not_come_back(name: str) -> None:
    """Sequences of slot -1 keep none."""
    case, target = Case("gdn.update", dtype="float16", pool=Pool(indices=(-1,))), targets.get(name_of(name))
    assert not execute.run(case, target, "interpret").ok
    assert stages.first_wrong(case, target, "interpret") is None


def test_nothing_is_said_of_other_kernels() -> None:
    planted = targets.get(f"{Path(__file__).with_name('planted_functions.py')}:planted")
    for target in (planted, targets.get("eager")):
        assert stages.first_wrong(Case(GDN), target, "interpret") is None
        assert stages._pipeline(target, GDN) is None
    assert stages._pipeline(targets.get("vk"), GDN) is pipeline
    assert stages._pipeline(targets.get("vk"), "kda.verify") is pipeline


def test_a_call_that_raises_has_no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **named: Any) -> Any:
        raise RuntimeError("no such kernel image")

    monkeypatch.setattr(pipeline, "output", fail)
    assert stages.first_wrong(Case(GDN, chunk_size=16), targets.get("vk"), "interpret") is None
    assert pipeline._observers == []


def test_nothing_is_said_of_a_case_that_is_too_large_to_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_of_stages, "MOST_NUMBERS", 0)
    assert told("split-exponent") is None


def test_where_there_are_no_tokens_results_alone_can_be_wrong() -> None:
    stage = told("empty-seq-epilogue")
    assert stage is not None
    assert stage.name in ("state", "final")
