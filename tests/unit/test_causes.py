"""Findings of one cause: what a failure needs, by replays, and which findings hang on the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffgdn.campaign import causes
from diffgdn.campaign.causes import ALONE, CONFIRMED, LIKELY, Cause, by_case, by_replays, grouped
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.lay import Lay
from diffgdn.cases.promises import Promises
from diffgdn.cli import run
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.search.one_feature import FAILS, PASSES, UNTOLD, exchanged, features, needed, without

PITCHED = Case("gdn.decode", pool=Pool(pitch=5), values=Values(law="normal"))
BUSY = replace(
    PITCHED,
    lens=(1, 1, 1),
    K=33,
    V=17,
    H=2,
    HV=4,
    dtype="bfloat16",
    l2norm=True,
    pool=Pool(slots=5, indices=(3, 0, -1), pitch=64, dtype="float16"),
    gates=Gates(law="uniform", beta="uniform"),
)
Fails = Callable[[Case], bool]


def finding(case: Case = PITCHED, **fields: Any) -> Finding:
    given: dict[str, Any] = {"kind": "beyond_bound", "message": "it is wrong", "tensor": "o", **fields}
    return Finding(case, given.pop("target", "mine.py:k"), "interpret", **given)


def asking(fails: Fails) -> Callable[[Case], str]:
    return lambda case: FAILS if fails(case) else PASSES


def found(*some: Finding, fails: Fails) -> list[Cause]:
    """The causes of findings of which a case fails if it is to."""

    def ask(one: Finding, case: Case) -> str:
        return asking(fails)(case)

    members = [by_replays(one, ask) for one in some]
    return grouped([one for one in members if one is not None], ask)


@pytest.mark.parametrize("word", sorted(features(BUSY)))
def test_a_case_without_a_feature_keeps_most_of_the_others(word: str) -> None:
    plainer = without(BUSY, word)
    assert plainer is not None
    left = features(plainer)
    assert word not in left
    assert len(set(left) & set(features(BUSY))) >= len(features(BUSY)) - 3


def test_what_is_promised_is_never_left() -> None:
    own = Promises(pitch=(5,))
    assert without(PITCHED, "pitch", own) is None
    assert exchanged(PITCHED, ("pitch",), BUSY, own) is None
    wide = replace(PITCHED, K=64, V=64, HV=2, lens=(1, 1), pool=Pool(slots=2, indices=(0, 1)))
    made_for = Promises(K=(64, 128), V=(64, 128), length=(1,))
    narrower = without(replace(wide, K=128, V=128), "K", made_for)
    assert narrower is not None
    assert (narrower.K, narrower.V) in ((64, 64), (64, 128))
    for word in ("ratio", "sequences", "values.law"):
        plainer = without(wide, word, made_for)
        assert plainer is not None
        assert made_for.broken_by(plainer) is None


def test_another_case_lends_what_it_has_for_a_word() -> None:
    lent = exchanged(PITCHED, ("pitch",), BUSY)
    assert lent is not None
    assert lent.pool == replace(PITCHED.pool, pitch=64)
    assert exchanged(PITCHED, ("pitch",), PITCHED) is None


def test_a_failure_needs_what_it_passes_without() -> None:
    told = needed(BUSY, asking(lambda case: case.pool.pitch > 0 and case.K > 16))
    assert set(told.features) == {"pitch", "K"}
    assert told.shown == {"pitch": True, "K": True}
    assert set(told.core) == {"pitch"}  # not how large it is
    assert told.case.lens == (1,)


def test_of_several_tensors_that_lie_apart_the_one_that_matters_is_named() -> None:
    gaps = Lay("state", gaps=(0, 16, 0, 0)), Lay("indices", gaps=(64,)), Lay("cu_seqlens", gaps=(1,))
    case = replace(PITCHED, HV=2, pool=Pool(), lay=gaps)
    told = needed(case, asking(lambda case: case.HV == 2 and any(lay.tensor == "state" for lay in case.lay)))
    assert told.case.lay == gaps[:1]
    assert told.core == {"strides": "gapped states"}


def test_sizes_name_a_cause_where_nothing_else_does() -> None:
    told = needed(BUSY, asking(lambda case: case.HV > case.H))
    assert set(told.core) == {"ratio"}
    told = needed(BUSY, asking(lambda case: case.gates.law != "zero"))
    assert set(told.core) == {"gates.law"}


def test_what_cannot_be_run_shows_nothing() -> None:
    told = needed(PITCHED, lambda case: UNTOLD)
    assert told.case == PITCHED
    assert set(told.shown.values()) == {False}


def test_findings_that_hang_on_the_same_feature_are_of_one_cause() -> None:
    same = found(
        finding(), finding(BUSY, kind="poison_leaked", tensor="state"), fails=lambda case: case.pool.pitch > 0
    )
    (cause,) = same
    assert (cause.status, len(cause.members)) == (CONFIRMED, 2)


def test_findings_that_hang_on_different_features_are_of_two() -> None:
    padded = finding(replace(PITCHED, lens=(1, 1), pool=Pool(indices=(0, -1))))
    apart = found(finding(), padded, fails=lambda case: case.pool.pitch > 0 or -1 in case.pool.indices)
    assert [cause.status for cause in apart] == [ALONE, ALONE]
    assert [cause.likely for cause in apart] == [{}, {}]


def test_a_number_that_does_not_do_for_the_other_is_another_cause() -> None:
    some = finding(), finding(BUSY)
    alone = found(*some, fails=lambda case: case in (PITCHED, BUSY))
    assert [cause.likely for cause in alone] == [{}, {}]
    first, second = found(*some, fails=lambda case: case.pool.pitch == 64 or case.pool == PITCHED.pool)
    (said,) = second.likely.values()
    assert said[0].endswith("passes with pitch of the other")
    assert first.likely == {}


def test_tokens_that_lie_in_two_ways_are_likely_of_one_cause() -> None:
    gapped = finding(replace(PITCHED, pool=Pool(), view="gapped"))
    laid = finding(replace(PITCHED, pool=Pool(), HV=2, lay=(Lay("v", (0, 0, 5, 0)),)))
    some = found(gapped, laid, fails=lambda case: case.view != "contiguous" or bool(case.lay))
    assert [cause.status for cause in some] == [ALONE, ALONE]
    assert list(some[1].likely.values()) == [["their tokens lie in different ways"]]


def test_another_function_target_or_exception_is_another_cause() -> None:
    ran = {"function": "a.f", "kernels": "one, two"}
    one = finding(provenance=ran)
    assert len(found(one, finding(BUSY, provenance={**ran, "function": "a.g"}), fails=lambda case: True)) == 1
    other = {"function": "a.g", "kernels": "three"}
    assert len(found(one, finding(BUSY, provenance=other), fails=lambda case: True)) == 2
    assert len(found(one, finding(BUSY, target="yours.py:k"), fails=lambda case: True)) == 2
    raised = finding(BUSY, kind="raised", message="ValueError: no", tensor=None)
    other_raised = finding(kind="raised", message="KeyError: no", tensor=None)
    some = found(one, raised, other_raised, fails=lambda case: True)
    assert [len(cause.members) for cause in some] == [1, 1, 1]


def test_an_exception_and_a_wrong_number_that_hang_on_the_same_are_likely_of_one_cause() -> None:
    raised = finding(BUSY, kind="raised", message="ValueError: no", tensor=None)
    first, second = found(finding(), raised, fails=lambda case: case.pool.pitch == 64 or case == PITCHED)
    assert (first.likely, second.likely) == ({}, {})  # not the same number
    same = replace(raised, case=replace(PITCHED, l2norm=True))
    first, second = found(finding(), same, fails=lambda case: case.pool.pitch > 0)
    (said,) = [*first.likely.values(), *second.likely.values()]
    assert said[0] in ("one is beyond_bound, the other raised", "one is raised, the other beyond_bound")


def test_what_passes_now_is_of_no_cause_and_without_replays_all_is_likely() -> None:
    assert by_replays(finding(), lambda one, case: PASSES) is None
    (cause,) = grouped([by_case(finding()), by_case(finding(replace(PITCHED, values=Values(seed=2))))], None)
    assert cause.status == LIKELY
    assert cause.doubts == ["nothing was run"]


KERNEL = """
import diffgdn
from diffgdn.kernels import fused_sigmoid_gating_delta_rule_update

@diffgdn.target("gdn.decode", "kda.decode")
def decode(initial_state_source, use_qk_l2norm_in_kernel, **given):
    if use_qk_l2norm_in_kernel:
        raise RuntimeError("no norm here")
    o = fused_sigmoid_gating_delta_rule_update(initial_state_source=initial_state_source, **given)
    pool = initial_state_source
    return o * 1.5 if pool.stride(0) > pool[0].numel() else o
"""


def test_causes_of_a_folder_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(KERNEL)
    target = "mine.py:decode"
    plain = Case("gdn.decode", values=Values(law="normal"))
    some = [
        finding(target=target),
        finding(replace(BUSY, l2norm=False), target=target, shrink="none"),
        finding(
            replace(plain, l2norm=True),
            target=target,
            kind="raised",
            message="RuntimeError: no norm here",
            tensor=None,
        ),
        finding(plain, target=target),
    ]
    paths = [Corpus(tmp_path / "findings").save(one) for one in some]
    assert run(["corpus", "causes", "--workers", "1"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    one, two, three = (part.splitlines() for part in re.split(r"^(?=[123]  )", out, flags=re.MULTILINE)[1:])
    heads = {part[0]: {line.split()[0] for line in part[1:]} for part in (one, two)}
    names = [path.stem for path in paths]
    assert heads == {
        "1  same cause, confirmed  hangs on pitch at least 64": {names[0], names[1], "not"},
        "2  alone  hangs on l2norm true": {names[2]},
    }
    assert three[0] == "3  does not fail here"
    assert names[3] in three[1]
    assert three[2] == "4 findings of 2 causes"


def test_causes_of_code_from_elsewhere_are_not_looked_for_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Corpus(tmp_path / "findings").save(finding(target="/elsewhere/mine.py:k"))
    assert run(["corpus", "causes"]) == 2
    assert "--trust-targets runs it" in capsys.readouterr().err
    assert run(["corpus", "causes", "--no-run"]) == 0
    assert "alone  hangs on pitch at least 5" in capsys.readouterr().out


def test_two_versions_are_not_asked_for_at_once() -> None:
    some = [finding(target="sglang@a"), finding(target="sglang@b")]
    assert causes.clash(some) in ("sglang@a", "sglang@b")
    assert causes.clash(some[:1]) is None
