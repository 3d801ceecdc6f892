"""Released packages as targets: where they are found, what is passed on, what stands in, what is recorded."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from diffgdn import strategies, targets
from diffgdn.cases import target_names
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.operand_options import Operands
from diffgdn.cases.operations import OPERATIONS
from diffgdn.cli import run
from diffgdn.findings import trust
from diffgdn.findings.finding import Finding
from diffgdn.findings.parse import CorpusError, finding_from_json
from diffgdn.runner.in_child import InChild
from diffgdn.targets import TargetError
from diffgdn.targets.released import roster, stand_ins
from diffgdn.targets.released.package import ReleasedTarget, only
from diffgdn.verdict import execute

DECODE = Case("gdn.decode")


def _fake_packages() -> Any:
    """The module that lies beside this file."""
    spec = importlib.util.spec_from_file_location("fake_packages", Path(__file__).parent / "fake_packages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake = _fake_packages()


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No package of before, wheels unpacked in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with fake.forgotten("sglang", "fla", "transformers", "flash_kda", "flash_qla"):
        yield


def get(place: Path, name: str = "sglang") -> ReleasedTarget:
    found = targets.get(f"{name}@{place}")
    assert isinstance(found, ReleasedTarget)
    return found


# --- where it is found ---


def test_a_wheel_is_unpacked_and_says_its_version(tmp_path: Path) -> None:
    target = get(fake.wheel(tmp_path, fake.sglang(), "0.5.23"))
    assert target.operations == tuple(op for op in target.found.spec.paths)
    assert target.found.place.version == "0.5.23"
    assert target.provenance("gdn.decode")["from"] == "wheel sglang-0.5.23-py3-none-any.whl"


@pytest.mark.parametrize("inside", ["", "python", "src"])
def test_a_folder_may_be_a_checkout(tmp_path: Path, inside: str) -> None:
    fake.folder(tmp_path / "there" / inside, {**fake.sglang(), "sglang/version.py": "__version__ = '7.1'"})
    target = get(tmp_path / "there")
    assert target.provenance("gdn.decode")["package"] == "sglang 7.1"


def test_older_versions_have_other_places_and_fewer_keywords(tmp_path: Path) -> None:
    target = get(fake.folder(tmp_path / "old", fake.older_sglang(), "0.5.10"))
    assert target.operations == ("gdn.decode", "kda.decode", "gdn.verify", "kda.verify")
    assert target.missing["gdn.extend"] == "this version has no function for it"
    path = "sglang.srt.layers.attention.fla.fused_sigmoid_gating_recurrent"
    assert target.provenance("kda.decode")["function"].startswith(path)
    bounded = Case("kda.decode", gates=Gates(law="checkpoint", dtype="float32", lower_bound=-5.0))
    assert targets.refusal(target, bounded, "interpret") == (
        "outside the promises: bounded: false promised, true asked"
    )


def test_states_k_v_are_read_from_the_documentation(tmp_path: Path) -> None:
    target = get(fake.wheel(tmp_path, fake.sglang(states="K, V")))
    assert target.layout == "kv"
    assert "gdn.recurrent" not in target.operations
    assert "no form" in target.missing["gdn.recurrent"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nowhere.whl", "nowhere.whl: no such wheel or folder"),
        ("empty", "empty: a folder without sglang/"),
        ("text.whl", "text.whl: cannot be unpacked as a wheel: File is not a zip file"),
        ("other.whl", "other.whl: a wheel without sglang/"),
    ],
)
def test_what_is_wrong_with_a_place_is_one_line(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.whl").write_text("text")
    fake.wheel(tmp_path, {"x/y.py": ""}, "1").rename(tmp_path / "other.whl")
    assert targets.missing(f"sglang@{place}", "interpret") == said
    with pytest.raises(TargetError) as error:
        targets.get(f"sglang@{place}")
    assert str(error.value) == said


def test_nothing_is_unpacked_outside_of_its_folder(tmp_path: Path) -> None:
    files = {**fake.sglang(), "sglang/kernels/ops/attention/../../../../../evil.py": "", "/evil.py": ""}
    get(fake.wheel(tmp_path, files))
    assert not list(tmp_path.rglob("evil.py"))


def test_what_is_not_installed_says_how_to_get_it() -> None:
    assert targets.missing("sglang", "interpret") == "sglang is not installed; pip install sglang"
    assert target_names.RELEASED[0] == "sglang"


def test_one_version_runs_in_a_process(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    get(fake.wheel(tmp_path / "one", fake.sglang()))
    with pytest.raises(TargetError, match="is imported already; one version runs in a process"):
        get(fake.wheel(tmp_path / "two", fake.sglang(), "4.5.6"))


def test_a_child_runs_one_version_after_another_each_in_its_own_process(tmp_path: Path) -> None:
    right, wrong = fake.wheel(tmp_path, fake.sglang(), "1"), fake.wheel(tmp_path, fake.sglang("+ 1"), "2")
    runner = InChild("interpret", tmp_path / "log")
    try:
        found = [runner.run(DECODE, f"sglang@{wheel}") for wheel in (right, wrong, right)]
    finally:
        runner.close()
    assert [verdict.ok for verdict in found] == [True, False, True]
    assert found[1].provenance["package"] == "sglang 2"


# --- what stands in ---


def test_stand_ins_are_used_where_the_package_cannot_be_imported_and_said(tmp_path: Path) -> None:
    target = get(fake.folder(tmp_path / "broken", fake.sglang()))
    assert "sglang.srt.utils" in target.provenance("gdn.decode")["stand-ins"]


def test_no_stand_in_where_the_package_can_be_imported(tmp_path: Path) -> None:
    whole = {**fake.sglang(), "sglang/__init__.py": "", "sglang/srt/utils.py": "is_hip = lambda: False"}
    target = get(fake.folder(tmp_path / "whole", whole))
    assert "stand-ins" not in target.provenance("gdn.decode")
    assert target.found.stood_in == ()


def test_a_stand_in_answers_questions_with_no_and_knows_nothing_else() -> None:
    stand_in = stand_ins.StandIn("server.utils")
    assert stand_in.is_some_new_machine() is False
    with pytest.raises(AttributeError, match=r"the stand-in for server.utils has no get_rank"):
        _ = stand_in.get_rank


# --- what is passed on ---


NOT_THERE = ("kda.update", "gdn.verify_commit", "kda.verify_commit")  # of SGLang


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op not in NOT_THERE])
def test_every_promised_case_of_a_right_package_passes(tmp_path: Path, op: str) -> None:
    """The adapter drops and adds nothing: the oracle agrees, over whatever is drawn inside the promises."""
    all_pass(get(fake.wheel(tmp_path, fake.sglang())), op)


@pytest.mark.parametrize("op", ["gdn.extend", "gdn.recurrent"])
@pytest.mark.parametrize("init", ["", "raise OSError('no hub')"], ids=["imported", "compiled"])
def test_plain_torch_functions_are_called_a_sequence_at_a_time(tmp_path: Path, op: str, init: str) -> None:
    """Those underneath, whatever their decorator puts in their place."""
    target = get(fake.folder(tmp_path / "there", fake.transformers(init)), "transformers")
    all_pass(target, op)
    assert ("stand-ins" in target.provenance(op)) == bool(init)
    path = "transformers.models.qwen3_next.modeling_qwen3_next.torch_"
    assert target.provenance(op)["function"].startswith(path)


@pytest.mark.parametrize("op", ["gdn.decode", "kda.decode"])
def test_what_an_old_version_has_no_keyword_for_is_not_asked(tmp_path: Path, op: str) -> None:
    target = get(fake.wheel(tmp_path, fake.oldest_sglang(), "0.5.8"))
    assert target.operations == ("gdn.decode", "kda.decode")
    assert "no intermediate_states_buffer" in target.missing["gdn.verify"]
    assert target.layout == "kv"
    assert target.promises.of(op).inplace == (True,)
    all_pass(target, op)


@pytest.mark.parametrize(
    ("name", "package", "op"),
    [("flashkda", "flash_kda", "kda.extend"), ("flashqla", "flash_qla", "gdn.extend")],
)
def test_dense_states_are_gathered_and_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, op: str
) -> None:
    """On packages that assert what those documents; they run on a GPU only, and these here on a CPU too."""
    place = fake.folder(tmp_path / "there", fake.FLASH[package], "0.1", package)
    assert targets.missing(f"{name}@{place}", "interpret") == f"{name} runs on a GPU only"
    assert targets.missing(f"{name}@{place}", "gpu") is None
    target = get(place, name)
    assert targets.refusal(target, target_case(op), "interpret") == f"{name} runs on a GPU only"
    monkeypatch.setattr(type(target), "refuses", lambda self, case, backend: None)
    plain = replace(target_case(op), values=Values(law="normal"))
    short = 0 if target.promises.of(op).empty else 1
    pool = Pool(slots=4, indices=(2, 0, -1), dtype="bfloat16")
    packed = replace(plain, lens=(2, short, 3), tail=2, pool=pool, final=False)
    dense = replace(plain, lens=(2, 2), packed=False, pool=Pool(slots=3, indices=(2, 0)), inplace=False)
    nothing = Values(law="normal", state="none")
    fresh = replace(plain, lens=(3,), values=nothing, pool=Pool(indices=(-1,)))
    for case in (packed, dense, fresh):
        verdict = execute.run(case, target, "interpret")
        assert verdict.refused is None
        assert verdict.failure is None, (case, str(verdict.failure))


def target_case(op: str) -> Case:
    """The simplest case that both take."""
    gates = Gates(raw=True, lower_bound=-1.0, dtype="bfloat16") if op == "kda.extend" else Gates()
    bias = Operands(dt_bias="float32") if op == "kda.extend" else Operands()
    sizes = {"K": 128, "V": 128, "dtype": "bfloat16", "cu_dtype": "int64", "l2norm": True}
    return Case(op, gates=gates, operands=bias, **sizes)  # type: ignore[arg-type]


def all_pass(target: ReleasedTarget, op: str) -> None:
    """Judge a few cases of an operation, drawn inside a target's promises."""
    seen = []

    @settings(
        max_examples=12, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategies.cases(op, promises=target.promises, layout=target.layout))
    def each(case: Case) -> None:
        verdict = execute.run(case, target, "interpret")
        refused = (None, "its scale must be positive", "its trees need a row of the buffer of steps")
        assert verdict.refused in refused
        assert verdict.failure is None, (case, str(verdict.failure))
        seen.append(case)

    each()
    assert len(seen) >= 8


def test_a_keyword_is_dropped_only_where_it_says_nothing() -> None:
    assert only({"q": 1, "lower_bound": None}, frozenset("q"), {"lower_bound": None}) == {"q": 1}
    with pytest.raises(TypeError, match=r"adapter: no keyword lower_bound, asked for -5.0"):
        only({"q": 1, "lower_bound": -5.0}, frozenset("q"), {"lower_bound": None})
    with pytest.raises(TypeError, match="no keyword new"):
        only({"new": None}, frozenset("q"), {})


# --- what is recorded ---


def test_kernels_that_were_launched_are_named(tmp_path: Path) -> None:
    target = get(fake.wheel(tmp_path, fake.sglang()))
    assert "kernels" not in target.provenance("gdn.decode")
    assert execute.run(DECODE, target, "interpret").ok
    assert target.provenance("gdn.decode")["kernels"]
    assert "kernels" not in target.provenance("gdn.verify")


@pytest.mark.nightly
def test_a_finding_says_what_ran_and_replays_on_another_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = fake.wheel(tmp_path, fake.sglang("+ 1"), "0.5.22")
    fake.wheel(tmp_path, fake.sglang(), "0.5.23")
    line = (
        "fuzz --target sglang --from sglang-0.5.22-py3-none-any.whl --op gdn.decode --max-cases 3 --workers 1"
    )
    assert run([*line.split(), "--seed", "1", "--backend", "interpret"]) == 1
    (file,) = sorted((tmp_path / "findings").glob("*.json"))[:1]
    assert file.name.startswith("sglang_sglang_0.5.22-gdn.decode-")
    found = json.loads(file.read_text())
    assert found["target"] == f"sglang@{wrong.name}"
    assert found["provenance"]["package"] == "sglang 0.5.22"
    assert found["provenance"]["function"].endswith("fused_sigmoid_gating_delta_rule_update")
    assert finding_from_json(found).provenance == found["provenance"]
    capsys.readouterr()
    assert run(["show", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "  package: sglang 0.5.22\n" in shown
    assert "  stand-ins: sglang.srt.utils, " in shown
    assert "Run again: FAILED" in shown
    assert run(["replay", str(file), "--workers", "1"]) == 1
    capsys.readouterr()
    assert run(["replay", str(file), "--workers", "1", "--from", "sglang-0.5.23-py3-none-any.whl"]) == 0
    assert "FIXED" in capsys.readouterr().out


def test_findings_without_provenance_have_no_such_field_and_a_strange_one_is_refused() -> None:
    plain = Finding(DECODE, "vk", "interpret", "beyond_bound", "it is wrong", "o").to_json()
    assert "provenance" not in plain
    with pytest.raises(CorpusError, match="provenance: expected strings"):
        finding_from_json({**plain, "provenance": {"package": 3}})
    with pytest.raises(CorpusError, match="provenance: expected up to 300 printable letters"):
        finding_from_json({**plain, "provenance": {"package": "\x1b[2J"}})


# --- names, trust, and others' targets ---


def test_a_place_changes_no_more_than_where_a_package_lies() -> None:
    assert target_names.split("sglang@a/b@c.whl") == ("sglang", "a/b@c.whl")
    assert target_names.split("a@b.py:kernel") == ("a@b.py:kernel", None)
    assert target_names.at("sglang@old.whl", "new.whl") == "sglang@new.whl"
    assert target_names.at("vk", None) == "vk"
    assert target_names.label("sglang@x/sglang-0.5.23-cp311-cp311-linux.whl") == "sglang@sglang-0.5.23"
    with pytest.raises(ValueError, match="'vk' is no released package"):
        target_names.at("vk", "new.whl")


def test_a_wheel_that_a_finding_names_is_code_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert trust.refusal("sglang@x.whl", tmp_path) is None
    assert "--trust-targets" in str(trust.refusal("sglang@../x.whl", tmp_path / "here"))
    assert trust.refusal("sglang", tmp_path) is None


def test_a_table_of_the_bare_name_is_about_a_wheel_too(tmp_path: Path) -> None:
    """It narrows what the package promises, and takes nothing of it back."""
    table = (
        "[targets.sglang]\nK = [64]\nchunk_size = [32, 64]\n[targets.sglang.'gdn.decode']\nlength = [1, 2]\n"
    )
    (tmp_path / "diffgdn.toml").write_text(table)
    target = get(fake.wheel(tmp_path, fake.sglang()))
    assert target.promises.K == (64,)
    assert target.promises.of("gdn.extend").chunk_size == (64,)
    assert target.promises.of("gdn.extend").final == (False,)
    assert target.promises.of("gdn.decode").K == (64,)
    assert target.promises.of("gdn.decode").length == (1, 2)  # a span or a list of numbers is the user's word


def test_entry_points_of_other_packages_are_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_kernels.py").write_text(
        "import diffgdn\nfrom diffgdn import kernels\n"
        "@diffgdn.target('gdn.decode')\n"
        "def decode(**given):\n    return kernels.fused_sigmoid_gating_delta_rule_update(**given)\n"
        "nothing = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint(name, f"their_kernels:{attribute}", targets.GROUP)
        for name, attribute in (("theirs", "decode"), ("none", "nothing"), ("gone", "lost"), ("vk", "decode"))
    ]
    monkeypatch.setattr(targets, "entry_points", lambda group: points if group == "diffgdn.targets" else [])
    assert targets.registered() == ("theirs", "none", "gone")
    assert targets.get("theirs").operations == ("gdn.decode",)
    assert targets.get("vk").operations == tuple(OPERATIONS)
    with pytest.raises(TargetError, match=r"target 'none': their_kernels:nothing is int, not a target"):
        targets.get("none")
    with pytest.raises(TargetError, match=r"target 'gone' \(their_kernels:lost\) cannot be imported"):
        targets.get("gone")
    with pytest.raises(TargetError, match=r"built in: vk, .*, theirs, none, gone; your own: module:name"):
        targets.get("nonesuch")


# --- diffgdn targets ---


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    run(["targets", *words])
    return capsys.readouterr().out


def test_the_list_says_what_is_found_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = lines(capsys)
    assert "vk            found  (built in)\n" in shown
    assert "sglang        not found\n              sglang is not installed; pip install sglang\n" in shown
    old = fake.folder(tmp_path / "old", fake.older_sglang(), "0.5.10")
    shown = lines(capsys, "sglang", "--from", str(old))
    assert f"sglang        found  0.5.10 (folder {old})\n" in shown
    assert "gdn.decode, kda.decode, gdn.verify, kda.verify\n" in shown
    assert "runs on: interpret, gpu\n" in shown
    assert "without gdn.extend, kda.extend, " in shown
    assert ": this version has no function for it\n" in shown


def test_the_list_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = fake.wheel(tmp_path, fake.sglang(), "0.5.23")
    lines(capsys, "sglang", "--from", str(place), "--json", "one.json")
    found: list[dict[str, Any]] = json.loads(Path("one.json").read_text())["targets"]
    assert found[0]["version"] == "0.5.23"
    assert found[0]["operations"] == [op for op in OPERATIONS if op not in NOT_THERE]
    assert set(found[0]["missing"]) == {"gdn.verify_commit", "kda.verify_commit"}
    assert found[0]["absent"] is None
    lines(capsys, "--json", "all.json")
    everything = json.loads(Path("all.json").read_text())["targets"]
    assert [one["name"] for one in everything] == list(target_names.BUILT_IN)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("targets --from .", "--from: name the one target whose package lies there"),
        ("targets nonesuch", "unknown target 'nonesuch'; known: vk, kv, "),
        ("targets vk --from .", "--from .: vk is no released package"),
        ("fuzz --from .", "--from .: 'vk' is no released package; those are sglang, "),
    ],
)
def test_what_is_wrong_with_a_command_line(capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    assert run(line.split()) == 2
    assert said in capsys.readouterr().err


def test_a_named_target_that_cannot_be_had_is_status_2() -> None:
    assert run(["targets", "sglang"]) == 2
    assert run(["targets", "vk"]) == 0


@pytest.mark.parametrize("name", target_names.RELEASED)
def test_every_released_target_has_its_module(name: str) -> None:
    spec = roster.spec(name)
    assert spec.name == name.partition("-")[0]
    assert set(spec.paths) <= set(OPERATIONS)
    assert spec.backends
