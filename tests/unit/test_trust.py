"""Whose code a finding's target may run: what lies in this folder, and nothing else unasked."""

import sys
from pathlib import Path

import pytest

from diffgdn.cases.case import Case
from diffgdn.cases.target_names import BUILT_IN
from diffgdn.cli import run
from diffgdn.findings import trust
from diffgdn.findings.corpus import Corpus
from diffgdn.findings.finding import Finding

MARK = "Path(__file__).with_name('ran').touch()"
EVIL = f"from pathlib import Path\n{MARK}\nkernel = 1\n"
CASE = Case(op="gdn.decode", lens=(2,))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with code in it and beside it that leaves a mark when it is run."""
    here = tmp_path / "here"
    for folder in (tmp_path, here, here / "package", here / "parts", here / "lib" / "site-packages"):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "evil.py").write_text(EVIL)
    (here / "package" / "__init__.py").write_text(EVIL)
    (here / "linked.py").symlink_to(tmp_path / "evil.py")
    (here / "away").symlink_to(tmp_path)
    (here / "sys.py").write_text(EVIL)
    monkeypatch.chdir(here)
    return here


STRANGE = [
    "TMP/evil.py:kernel",
    "../evil.py:kernel",
    "parts/../../evil.py:kernel",
    "linked.py:kernel",
    "linked:kernel",
    "away/evil.py:kernel",
    "away.evil:kernel",
    "lib/site-packages/evil.py:kernel",
    "/dev/stdin.py:kernel",
    "antigravity:kernel",  # of the standard library: opens a web browser
    "sys:kernel",
    "test.support:kernel",
    "__main__:kernel",
    "pytest:kernel",
    "hypothesis.strategies:kernel",
    "diffgdn.targets:get",
    ".evil:kernel",
]


@pytest.mark.parametrize("target", STRANGE)
def test_code_from_elsewhere_is_not_run_because_a_file_names_it(
    here: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = target.replace("TMP", str(here.parent))
    corpus = Corpus(here / "strange")
    path = corpus.save(Finding(CASE, target, "interpret", "beyond_bound", "it is wrong", "o"))
    before, loaded = sorted(here.parent.rglob("*")), set(sys.modules)
    for line in ("replay strange", f"show strange/{path.name}", "corpus prune --yes strange"):
        run(line.split())
        shown = capsys.readouterr()
        assert shown.err == ""
        if not line.startswith("corpus"):
            assert (
                f"target {target!r} is code from outside of this folder; --trust-targets runs it" in shown.out
            )
    assert run(["replay", "strange"]) == 2
    assert sorted(here.parent.rglob("*")) == before
    assert not {"evil", "linked", "package", "antigravity"} & (set(sys.modules) - loaded)


@pytest.mark.parametrize(
    "target",
    [
        "evil.py:kernel",
        "./evil.py:kernel",
        "TMP/here/evil.py:kernel",
        "parts/../evil.py:kernel",
        "evil:kernel",
        "package:kernel",
        "package.evil:kernel",
        "parts.evil:kernel",
    ],
)
def test_code_of_this_folder_is_what_the_user_works_on(here: Path, target: str) -> None:
    """Asking does not run it."""
    assert trust.refusal(target.replace("TMP", str(here.parent))) is None
    assert list(here.parent.rglob("ran")) == []


@pytest.mark.parametrize("target", [*BUILT_IN, "nonesuch", "no_such_module:kernel"])
def test_what_is_built_in_or_nowhere_runs_no_strange_code(target: str) -> None:
    assert trust.refusal(target) is None


def test_the_user_may_vouch_for_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Then the target is loaded, which here says what it is not."""
    target = f"{here.parent}/evil.py:kernel"
    Corpus(here / "findings").save(Finding(CASE, target, "interpret", "beyond_bound", "it is wrong", "o"))
    assert run(["replay", "--trust-targets"]) == 2
    assert "kernel is int, not a target" in capsys.readouterr().out
    assert (here.parent / "ran").exists()
