"""`diffgdn report`: an issue whose script needs torch and a kernel's package alone, and fails as it says."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from string import Template
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from diffgdn import targets
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.lay import Lay
from diffgdn.cli import report_command, run
from diffgdn.findings import repro
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding
from diffgdn.findings.repro import call_script, call_source
from diffgdn.findings.repro.call_script import CallScript
from diffgdn.findings.repro.call_source import NotWritten
from diffgdn.mutants.mutant_targets import name_of
from diffgdn.report import issue_text
from diffgdn.report.issue_text import Issue
from diffgdn.runner import script_check
from diffgdn.runner.script_check import Ran
from diffgdn.targets import recording
from diffgdn.targets.recording import Recorded
from diffgdn.verdict.execute import run as run_case

WRONG = "* 1.5"
# As if diffgdn were not there, but for its kernels, of which the package under test is made.
WITHOUT = "import sys\nsys.modules.update({'diffgdn.backend': None, 'diffgdn.scripts': None})\n"
CASE = Case(
    "gdn.decode",
    lens=(1, 1),
    HV=2,
    K=8,
    V=4,
    pool=Pool(slots=3, indices=(2, 0), pitch=5),
    gates=Gates(law="uniform", beta="uniform"),
    values=Values(law="normal", seed=3),
    view="gapped",
)


Package = Callable[[Path, str], Path]


@pytest.fixture
def package(fake_packages: ModuleType) -> Package:
    """Lay out a package, with a fault, that can be imported as it is, without stand-ins."""

    def lay(root: Path, fault: str) -> Path:
        files = fake_packages.sglang(fault) | {
            "sglang/__init__.py": "",
            "sglang/srt/utils.py": "def is_hip():\n    return False\n",
        }
        laid: Path = fake_packages.folder(root, files, "1.2.3")
        return laid

    return lay


def finding(target: str, case: Case = CASE, **fields: Any) -> Finding:
    given: dict[str, Any] = {"kind": "beyond_bound", "message": "it is wrong", "tensor": "o", **fields}
    return Finding(case, target, "interpret", **given)


def execute(script: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh process that finds the package in a folder, without a GPU."""
    path = place / "script.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(place), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def source_of(issue: str) -> str:
    (source,) = re.findall(r"^```python\n(.*?)^```", issue, re.MULTILINE | re.DOTALL)
    return str(source)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_issue_is_complete_and_its_script_fails_alone_until_the_package_is_mended(
    here: Path, package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    place = package(here / "theirs", WRONG)
    told = finding("sglang@theirs", bisected={"first wrong": "1.2.3", "last right": "1.2.2"})
    path = Corpus(here / "findings").save(told)
    assert run(["report", path.stem]) == 0, capsys.readouterr().err
    issue = capsys.readouterr().out
    title, _, sentence, *_ = issue.splitlines()
    assert title.startswith("# fused_sigmoid_gating_delta_rule_update computes a wrong output (")
    assert sentence.startswith("`sglang.kernels.ops.attention.linear.fused_sigmoid_gating_recurrent.fused_")
    assert "needs torch and `sglang` alone" in issue
    assert "- package: sglang 1.2.3" in issue
    assert "- kernels: " in issue
    assert "of o are wrong\n" in issue  # the picture
    assert "## Since\n\nFirst wrong 1.2.3; last right 1.2.2\n" in issue
    assert repr(CASE) in issue
    assert str(here) not in issue  # places on this machine are nobody's business
    script = source_of(issue)
    done = execute(WITHOUT + script, place)
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r"AssertionError: got \S+, expected \S+ within \S+", said)
    assert said in issue
    package(place, "")
    done = execute(WITHOUT + script, place)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


def test_what_does_not_fail_is_not_reported(
    here: Path, package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    package(here / "theirs", "")
    path = Corpus(here / "findings").save(finding("sglang@theirs"))
    assert run(["report", path.stem, "--to", "issue.md"]) == 2
    assert "it does not fail here; there is nothing to report" in capsys.readouterr().err
    assert not (here / "issue.md").exists()


def test_code_from_elsewhere_is_not_run_unasked(
    here: Path,
    package: Package,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = package(tmp_path_factory.mktemp("elsewhere"), WRONG)
    path = Corpus(here / "findings").save(finding(f"sglang@{place}"))
    assert run(["report", path.stem]) == 2
    assert "--trust-targets runs it" in capsys.readouterr().err


RAISES = "is None or exec(\"raise RuntimeError('no such tile')\")"
WRITES = "+ v.zero_().sum()"
BESIDE = "+ q.as_strided((1,), (1,), q.storage_offset() - 1).fill_(3.0).sum() * 0"


def imported(script: str, place: Path, fake: ModuleType) -> str:
    """Run a script in this process with the package of a folder, and say what it raised."""
    path = place / "script.py"
    path.write_text(script)
    with fake.forgotten("sglang"):
        sys.path.insert(0, str(place))
        try:
            runpy.run_path(str(path), run_name="__main__")
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "right"


@pytest.mark.parametrize(
    ("fault", "kind", "tensor", "says"),
    [
        (WRONG, "beyond_bound", "o", "AssertionError: got "),
        (RAISES, "raised", None, "RuntimeError: no such tile"),
        (WRITES, "input_changed", "v", "AssertionError: Tensor-likes are not equal"),
        (BESIDE, "guard_written", "q", "AssertionError: Tensor-likes are not equal"),
        ("* float('nan')", "not_finite", "o", "AssertionError: got nan, expected "),
    ],
)
def test_each_kind_of_failure_has_its_assertion(
    here: Path,
    package: Package,
    fake_packages: ModuleType,
    fault: str,
    kind: str,
    tensor: str | None,
    says: str,
) -> None:
    place = package(here / "theirs", fault)
    told = finding("sglang@theirs", kind=kind, tensor=tensor, message="RuntimeError: it is wrong")
    with fake_packages.forgotten("sglang"):
        made = call_script.make(told, targets.get("sglang@theirs"), guarded=False)
    assert (made.fails, made.why_not) == (True, "")
    assert imported(made.text, place, fake_packages).startswith(says)
    package(place, "")
    assert imported(made.text, place, fake_packages) == "right"


def test_a_tail_that_is_not_zero_is_asserted_where_it_comes_out() -> None:
    case = Case("gdn.extend", tail=17, chunk_size=16)
    target = targets.get(name_of("pad-rows-last-chunk-only"))
    told = Finding(case, "vk", "interpret", "tail_not_zero", "it is not zero", "o")
    made = call_script.make(told, target, guarded=True)
    assert (made.fails, made.why_not) == (True, "")
    assert "    (returned[0][0, 17, 0, 0], 0.0, 0)," in made.text
    assert call_script.make(told, targets.get("vk"), guarded=True).why_not == "the result is right now"


FORMS = """\
import os

import diffgdn
from diffgdn.kernels import chunk_gated_delta_rule


def extend(q, k, v, g, beta, scale, initial_state, initial_state_indices, cu_seqlens, inplace_update,
           use_qk_l2norm_in_kernel, output_final_state, output_boundary_states, chunk_size):
    o, final, h = chunk_gated_delta_rule(**locals())
    spoiled = {
        "not_returned": (o, None, h), "wrong_dtype": (o, final.bfloat16(), h), "wrong_shape": (o, final[0], h)
    }
    return spoiled.get(os.environ.get("FORM"), (o, final, h))


target = diffgdn.target("gdn.extend")(extend)
"""
SAID = {
    "not_returned": "returned no final, which output_final_state=True asks for",
    "wrong_dtype": "expected float32 or float64, got bfloat16",
    "wrong_shape": "expected [1, 1, 16, 16], got [1, 16, 16]",
}


@pytest.mark.parametrize("kind", SAID)
def test_a_result_that_did_not_come_or_in_another_form_is_shown_by_both_scripts(
    kind: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "forms.py").write_text(FORMS)
    name, case = "forms.py:target", Case("gdn.extend", chunk_size=16)
    monkeypatch.setenv("FORM", kind)
    failure = run_case(case, targets.get(name), "interpret").failure
    assert failure is not None
    assert (failure.kind, failure.tensor, failure.message) == (kind, "final", SAID[kind])
    told = Finding(case, name, "interpret", kind, failure.message, "final")
    short = call_script.make(told, targets.get(name), guarded=False)
    assert (short.fails, short.why_not) == (True, "")
    long = repro.script(told)
    for script, says in ((short.text, "AssertionError"), (long, f"final: {SAID[kind]}")):
        done = execute(script, here)
        assert done.returncode == 1, done.stdout + done.stderr
        assert says in done.stdout + done.stderr
    path = Corpus(here / "findings").save(told)
    assert run(["show", str(path)]) == 0
    assert SAID[kind] in capsys.readouterr().out
    monkeypatch.setenv("FORM", "right")
    for script in (short.text, long):
        done = execute(script, here)
        assert done.returncode == 0, done.stdout + done.stderr
    assert call_script.make(told, targets.get(name), guarded=False).why_not == "the result is right now"


def test_what_no_one_call_shows_has_no_such_script() -> None:
    vk = targets.get("vk")

    def why(told: Finding) -> str:
        made = call_script.make(told, vk, guarded=False)
        assert not made.text
        return made.why_not

    large = replace(CASE, lens=(2000, 2000), K=256, V=256, HV=32)
    assert why(finding("vk", replace(CASE, before=("same",)))) == "it takes other calls before it"
    assert why(finding("vk", kind="not_repeatable")) == "not_repeatable is about two calls"
    assert why(finding("vk", kind="relation_broken.split")) == "it takes several calls"
    assert "too large to be written out" in why(finding("vk", large))
    assert why(finding("vk")) == "the result is right now"


# How a call is written.


def evaluated(lines: list[str]) -> dict[str, Any]:
    names: dict[str, Any] = {"torch": torch, "nan": float("nan"), "inf": float("inf"), "DEVICE": "cpu"}
    exec(Template(call_source.LAID).substitute(gap="nan"), names)
    exec("\n".join(lines), names)
    return names


def test_tensors_are_written_with_their_strides_and_bits() -> None:
    mixed = torch.arange(48.0).view(2, 24)
    bits = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    sparse = torch.full((5, 8), float("nan"))
    sparse[3, 2] = -2.5
    given = {
        "q": mixed[:, :8].view(2, 2, 4),
        "k": bits.T,
        "pool": sparse,
        "slots": torch.tensor([4, -1, 2], dtype=torch.int32),
        "flags": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
    }
    made = Recorded(dict(given), before={name: one.clone() for name, one in given.items()})
    for guarded in (False, True):
        names = evaluated(list(call_source.arguments(made, guarded, "DEVICE")))
        for name, one in given.items():
            got = names[name]
            assert (got.dtype, got.shape) == (one.dtype, one.shape)
            assert torch.equal(got.nan_to_num(nan=7.0), one.nan_to_num(nan=7.0)), name
            if one.numel() and not one.is_contiguous():
                assert got.stride() == one.stride(), name
    assert names["k"]._base.isnan().any()  # memory beside it


def test_a_tensor_that_is_one_value_but_for_a_few_is_set_in_a_few_places() -> None:
    values = torch.zeros(4, 16)
    values[2, 3] = 0.5
    made = Recorded({"x": values}, before={"x": values.clone()})
    assert list(call_source.arguments(made, False, "DEVICE")) == [
        "x = torch.zeros(4, 16)",
        "x[2, 3] = 0.5",
        "x = x.to(DEVICE)",
    ]


def test_slots_of_a_pool_are_written_by_themselves() -> None:
    pool = torch.full((5, 2, 8, 8), float("nan"))
    pool[1], pool[4] = 0.0, torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(2))
    pool[1, 0, 3, 3] = 0.5
    made = Recorded({"x": pool}, before={"x": pool.clone()})
    lines = list(call_source.arguments(made, False, "DEVICE"))
    starts = [line[:12] for line in "\n".join(lines).splitlines() if line.startswith("x")]
    assert starts == ["x = torch.fu", "x[1] = 0.0", "x[1, 0, 3, 3", "x[4] = torch", "x = x.to(DEV"]
    assert torch.equal(evaluated(lines)["x"].nan_to_num(nan=7.0), pool.nan_to_num(nan=7.0))


def test_a_large_tensor_of_all_kinds_of_values_is_not_written() -> None:
    values = torch.arange(5000.0)
    made = Recorded({"x": values}, before={"x": values})
    with pytest.raises(NotWritten, match="5000 elements"):
        list(call_source.arguments(made, False, "DEVICE"))


def test_a_call_is_written_without_its_defaults() -> None:
    made = Recorded({"0": torch.ones(2), "scale": 0.5, "g": float("inf"), "b": None}, {"b": None})
    assert call_source.call(made, "f", "") == 'f(\n    x0,\n    scale=0.5,\n    g=float("inf"),\n)'
    with pytest.raises(NotWritten, match="hook is function"):
        call_source.call(Recorded({"hook": evaluated}), "f", "")


@pytest.mark.parametrize("turned", [False, True])
def test_a_state_that_an_adapter_copied_is_found_in_what_came_back(turned: bool) -> None:
    """As of fla, whose final states the adapter puts into the pool."""
    states = torch.arange(2.0 * 2 * 3 * 4).view(2, 2, 3, 4)
    returned = (torch.zeros(2, 2, 3), states.mT.contiguous() if turned else states)
    told = SimpleNamespace(got=states[1:].double(), origins=[1], dtype=torch.float32, case=CASE)
    number = 1 * 12 + 2 * 4 + 3  # head 1, V 2, K 3
    place = call_script._in_final(Recorded({}, returned=returned), told, number)  # type: ignore[arg-type]
    assert place == f"returned[1][1, 1, {'3, 2' if turned else '2, 3'}]"
    alike = SimpleNamespace(got=torch.ones(1, 2, 3, 3), origins=[1], dtype=torch.float32, case=CASE)
    even = Recorded({}, returned=(torch.ones(2, 2, 3, 3),))
    assert call_script._in_final(even, alike, 1) == ""  # type: ignore[arg-type]
    assert call_script._in_final(even, alike, 4) == "returned[0][1, 0, 1, 1]"  # type: ignore[arg-type]


def test_a_watched_function_is_recorded_as_it_was_called() -> None:
    def double(x: torch.Tensor, by: int = 2) -> torch.Tensor:
        return x.mul_(by)

    watched = recording.watched(double)
    x = torch.ones(2)
    assert watched(x).tolist() == [2.0, 2.0]
    with recording.recorded() as calls:
        watched(x, by=3)
    (made,) = calls
    assert made.before["0"].tolist() == [2.0, 2.0]
    assert made.returned.tolist() == [6.0, 6.0]
    assert (made.given["by"], made.defaults) == (3, {"by": 2})
    assert call_source.places(made, {x.data_ptr() + 4: None}) == {x.data_ptr() + 4: "returned[1]"}
    with recording.recorded(only=True) as calls, pytest.raises(recording.NotMade):
        watched(x)
    assert x.tolist() == [6.0, 6.0]


def test_an_issue_without_such_a_script_says_why() -> None:
    issue = Issue("", "", "wrong", "ask(...)", alone=False, why_not="it takes a serving loop")
    text = issue_text.text(finding("vk"), issue)
    assert "through diffgdn (`pip install diffgdn`): it takes a serving loop." in text
    assert "```python\nask(...)\n```" in text


def test_an_issue_names_no_place_on_this_machine() -> None:
    issue = Issue("a.f", "a", "wrong", "f()", ran={"package": "a 1.0", "from": "folder /home/someone/fork"})
    text = issue_text.text(finding("vk"), issue)
    assert "/home" not in text
    assert "- from: fork\n" in text
    told = 'Traceback (most recent call last):\n  File "/home/x.py", line 1\n    f()\nValueError: no\n'
    assert script_check.last_words(told) == ["ValueError: no"]


@pytest.mark.parametrize(
    ("kind", "ran", "shows"),
    [
        ("beyond_bound", Ran(1, ("AssertionError: got 1",)), True),
        ("beyond_bound", Ran(1, ("ImportError: no",)), False),
        ("beyond_bound", Ran(0, ("right",)), False),
        ("raised", Ran(1, ("ValueError: no",)), True),
        ("raised", Ran(1, ("KeyError: no",)), False),
        ("crashed", Ran(-11), True),
        ("crashed", Ran(1), False),
        ("crashed", Ran(-9), False),
        ("hung", Ran(None), True),
        ("hung", Ran(0), False),
    ],
)
def test_a_script_shows_what_fails_as_the_finding_does(kind: str, ran: Ran, shows: bool) -> None:
    assert ran.shows(finding("vk", kind=kind, message="ValueError: no")) is shows


def test_nan_is_put_beside_tensors_where_the_failure_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {False: CallScript("plain"), True: CallScript("guarded")}
    fresh = SimpleNamespace(call_script=lambda told, guarded: made[guarded])
    harness = SimpleNamespace(fresh=fresh)

    def tried(needed: str) -> tuple[CallScript, Ran | None]:
        def check(script: str, told: Finding, seconds: float | None) -> Ran:
            return Ran(1, ("AssertionError",)) if script == needed else Ran(0)

        monkeypatch.setattr(script_check, "check", check)
        return report_command._tried(finding("vk"), harness, None)  # type: ignore[arg-type]

    assert tried("plain")[0].text == "plain"
    assert tried("guarded")[0].text == "guarded"
    script, ran = tried("neither")
    assert ran is None
    assert script.why_not == "a script of its one call does not show it"


def test_features_are_said_in_words() -> None:
    case = replace(CASE, lay=(Lay("indices", (3,)),), view="contiguous", K=16, V=16)
    said = issue_text.features(finding("x", case))
    assert {"ratio at least 2", "pitch at least 5", "strides gapped indices", "sequences at least 2"} <= set(
        said
    )
