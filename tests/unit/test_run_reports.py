"""What a campaign and a replay leave for people and for CI: a page, JUnit XML, lines of events, GitHub's."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from xml.etree import ElementTree

import pytest

from diffgdn.campaign import events
from diffgdn.campaign.coverage import Counts
from diffgdn.campaign.events import Event
from diffgdn.cli import run
from diffgdn.cli.report_options import Report, problems, told
from diffgdn.report import event_lines, github, share_bins
from diffgdn.report.event_lines import EventLines
from diffgdn.report.file_report import FileReport
from diffgdn.report.junit import JUnitFile
from diffgdn.report.overview import Watch
from diffgdn.report.page.bars import chart
from diffgdn.report.page.html_file import MOST_FINDINGS, HtmlFile

ROOT = Path(__file__).parents[2]
TOYS = Path(__file__).with_name("toys.py")
VOID = {"meta", "img", "br", "hr", "line", "rect"}
CSS = (ROOT / "diffgdn" / "report" / "page" / "templates" / "style.css").read_text()


@pytest.fixture
def made(beside: Callable[[str], ModuleType]) -> ModuleType:
    """The module that makes events."""
    return beside("told_events")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


Listener = TypeVar("Listener", bound=Callable[[Event], Any])


def heard(listener: Listener, happened: Iterable[Event]) -> Listener:
    for event in happened:
        listener(event)
    return listener


class Page(HTMLParser):
    """A page, parsed strictly: every element is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attrs in self.elements if (value := attrs.get(name)) is not None]


def page_of(folder: Path, happened: Iterable[Event]) -> Page:
    report = heard(HtmlFile(folder / "page.html"), happened)
    assert report.problem is None
    return Page((folder / "page.html").read_text())


class TestPage:
    def test_it_shows_a_finding_with_all_that_lies_beside_it(self, folder: Path, made: ModuleType) -> None:
        page, one = page_of(folder, made.campaign(folder / "findings")), made.finding()
        for said in (repr(one.case), f"{one.id}.json\n", made.SCRIPT, made.WORDS, "at token 2"):
            assert said in page.text
        assert f"diffgdn replay {folder}/findings/{one.id}.json\npython {folder}/findings/" in page.text
        [image] = [attrs["src"] for tag, attrs in page.elements if tag == "img"]
        assert image is not None
        assert image.startswith("data:image/png;base64,iVBOR")

    def test_it_shows_the_campaign(self, folder: Path, made: ModuleType) -> None:
        page = page_of(folder, made.campaign(folder / "findings", stopped="no time for it"))
        for said in (
            "7 cases in 30 s (0.2/s), 2 of 2 operations",
            "Not as asked: no time for it",
            "gdn.verify: not implemented by target my_kernel.py:decode",
            "\nkda.update, kda.verify: no time\n",
            "worker 1 died in kda.decode, case 0123456789ab: signal 11",
            "6 cases, half of them below 0.12 of the bound",
        ):
            assert said in page.text
        facts = re.sub(r"\s+", " ", page.text)
        for name, value in {"seed": "7", "torch": "2.13.0", "limit": "30 s", "cases a second": "0.2"}.items():
            assert f"{name} {value}" in facts or f"{name}{value}" in facts

    def test_what_a_target_says_stays_text(self, folder: Path, made: ModuleType) -> None:
        page = page_of(folder, made.campaign(folder / "findings", target="<img src=x onerror=y>.py:t"))
        assert {tag for tag, _ in page.elements} & {"script", "iframe", "link"} == set()
        assert [one for one in page.attributes("src") if not one.startswith("data:image/png;")] == []
        assert "onerror" not in {name for _, attrs in page.elements for name in attrs}
        assert "</pre><script>alert('x')</script> & \"it\" ]]>" in page.text
        assert "\x00" not in page.text
        assert "\x1b" not in page.text

    def test_it_stands_alone(self, folder: Path, made: ModuleType) -> None:
        page = page_of(folder, made.campaign(folder / "findings"))
        assert {tag for tag, _ in page.elements} & {"script", "link", "iframe"} == set()
        outside = [one for name in ("src", "href") for one in page.attributes(name)]
        assert [one for one in outside if not one.startswith(("data:", "#"))] == []
        assert "url(" not in CSS
        assert "@import" not in CSS

    def test_of_many_findings_those_behind_the_first_have_a_line(
        self, folder: Path, made: ModuleType
    ) -> None:
        page = page_of(folder, made.campaign(folder / "findings", found=MOST_FINDINGS + 2))
        articles = [attrs["id"] for tag, attrs in page.elements if tag == "article"]
        assert len(articles) == MOST_FINDINGS
        assert "And 2 more:" in page.text
        assert made.finding(3 + MOST_FINDINGS).id in page.text

    @pytest.mark.parametrize(("interrupted", "look"), [(False, "good"), (True, "warn")])
    def test_only_a_campaign_that_ended_by_itself_is_good(
        self, folder: Path, made: ModuleType, interrupted: bool, look: str
    ) -> None:
        *happened, _ = made.campaign(folder / "findings", found=0)
        page = page_of(folder, [*happened, events.CampaignEnded(9.0, (), interrupted)])
        assert f"conclusion {look}" in page.attributes("class")

    def test_a_campaign_that_could_not_begin_has_one_too(self, folder: Path, made: ModuleType) -> None:
        page = page_of(folder, made.campaign(folder, begins=False, stopped="unknown target 'x'"))
        assert "It could not begin." in page.text
        assert "unknown target 'x'" in page.text

    def test_of_a_replay(self, folder: Path, made: ModuleType) -> None:
        page = page_of(folder, made.replay(folder / "findings"))
        assert "1 FAILED, 1 FLAKY, 1 ERROR, 1 FIXED." in page.text
        assert "run again: FLAKY 1/3" in page.text
        assert len([1 for tag, _ in page.elements if tag == "article"]) == 2

    def test_on_a_phone_only_what_is_wide_by_nature_scrolls(self, folder: Path, made: ModuleType) -> None:
        """Every table and every drawing lies in a box that scrolls, or shrinks; long words break."""
        page = page_of(folder, made.campaign(folder / "findings"))
        assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [
            attrs for tag, attrs in page.elements if tag == "meta"
        ]
        text = (folder / "page.html").read_text()
        assert text.count('<div class="wide"') == text.count("<table>") > 1
        for rule in (
            ".wide { overflow-x: auto }",
            "overflow-wrap: anywhere",
            "svg { display: block; width: 100%",
        ):
            assert rule in CSS
        assert not re.search(r"(?<!max-)(?<!min-)width: *\d{3,}[a-z]", CSS)

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_text_stands_out_from_what_is_behind_it(self, theme: str) -> None:
        """By 4.5 to 1, which WCAG 2.2 asks of text (1.4.3)."""
        blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
        colors = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[theme == "dark"]))
        for front in ("ink", "soft", "good", "bad", "warn", "bar"):
            assert contrast(colors[front], colors["page"]) >= 4.5, front
        for behind in ("raised", "bad-soft"):
            assert contrast(colors["ink"], colors[behind]) >= 4.5, behind


def contrast(one: str, other: str) -> float:
    """Of two colours, by the formula of WCAG."""

    def light(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("share", "least", "beyond"),
    [
        (0.0, 0.0, False),
        (0.003, 0.0, False),
        (0.1, 2**-3.5, False),
        (0.99, 2**-0.5, False),
        (1.5, 2**0.5, True),
        (1e9, 16.0, True),
        (math.inf, 16.0, True),
        (math.nan, 16.0, True),
    ],
)
def test_a_share_falls_into_its_bin(share: float, least: float, beyond: bool) -> None:
    found = share_bins.index(share)
    assert share_bins.least(found) == pytest.approx(least)
    assert (found >= share_bins.BOUND) is beyond


def test_bars_are_as_tall_as_their_cases_and_red_beyond_the_bound() -> None:
    laid = chart({0: 1, share_bins.index(0.25): 4, share_bins.index(2.5): 2}, 2.5)
    assert [round(bar.height / laid.height, 2) for bar in laid.bars] == [0.25, 1.0, 0.5]
    assert [bar.beyond for bar in laid.bars] == [False, False, True]
    assert laid.bars[1].x < laid.bound <= laid.bars[2].x
    assert laid.words.startswith(
        "7 cases, half of them below 0.35 of the bound, 99 of 100 below 2.8, the worst 2.5"
    )


def suites(folder: Path, happened: Iterable[Event]) -> ElementTree.Element:
    report = heard(JUnitFile(folder / "junit.xml"), happened)
    assert report.problem is None
    return ElementTree.parse(folder / "junit.xml").getroot()


class TestJUnit:
    def test_an_operation_is_a_test_case(self, folder: Path, made: ModuleType) -> None:
        root = suites(folder, made.campaign(folder / "findings", found=2))
        cases = {case.get("name"): case for case in root[0]}
        assert list(cases) == ["gdn.decode", "kda.decode", "gdn.verify"]
        failure = cases["gdn.decode"].find("failure")
        assert failure is not None
        assert failure.get("message") == "2 findings: beyond_bound"
        for one in (made.finding(3), made.finding(4)):
            assert f"diffgdn replay {one.id}" in (failure.text or "").replace(f"{folder}/findings/", "")
        assert [child.tag for child in cases["kda.decode"]] == ["system-out"]
        skipped = cases["gdn.verify"].find("skipped")
        assert skipped is not None
        assert skipped.get("message") == "not implemented by target my_kernel.py:decode"

    def test_counts_are_those_of_the_cases(self, folder: Path, made: ModuleType) -> None:
        root = suites(folder, made.campaign(folder / "findings", stopped="no time"))
        tags = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
        for element in (root, *root):
            assert {name: int(element.get(name, "")) for name in tags} == {
                name: len(list(element.iter(tag))) for name, tag in tags.items()
            }
        assert {name: root.get(name) for name in tags} == {
            "tests": "5",
            "failures": "1",
            "errors": "1",
            "skipped": "1",
        }

    def test_what_xml_cannot_hold_is_written_as_python_would(self, folder: Path, made: ModuleType) -> None:
        root = suites(folder, made.replay(folder / "findings"))
        [failed, flaky, error] = [case[0] for case in root[0] if len(case)]
        assert (failed.tag, flaky.tag, error.tag) == ("failure", "failure", "error")
        assert "\\x1b[31m \\x00 |a|b|" in error.get("message", "")
        assert (flaky.get("message") or "").startswith("FLAKY 1/3: </pre><script>")


def every_event(made: ModuleType, folder: Path) -> list[Event]:
    """One of each kind at least, so far as campaigns without processes tell them, and the others made up."""
    told = [*made.campaign(folder), *made.replay(folder), *made.campaign(folder, stopped="no")]
    more = [
        events.FindingPulled(made.finding(), "f.json"),
        events.StorageSaid("s3://team: gone", True),
        events.SeatJoined("node-1/0", "NVIDIA H100", 3),
        events.SeatLost("node-1/0", "its node is gone"),
        events.CompileProgress("gdn.decode", 0.5),
        events.FindingShrunk(made.finding(), "f.json", "before", 1.0),
        events.CasesLeftOut("geometries", 3, "outside"),
        events.CaseAwaited("gdn.decode", 3.0, 60.0),
        events.Covered(Counts(2)),
    ]
    return [*told, *more]


class TestEventLines:
    def test_every_event_is_an_object_with_its_name_and_time(self, folder: Path, made: ModuleType) -> None:
        happened = every_event(made, folder / "findings")
        report = heard(EventLines(folder / "events.jsonl"), happened)
        report(events.CampaignEnded(1.0, ()))
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        assert [line["event"] for line in lines][: len(happened)] == [type(one).__name__ for one in happened]
        assert all(
            re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", one["time"]) for one in lines
        )
        shares = [line.get("share") for line in lines if line["event"] == "CaseRun"]
        assert shares[:6] == [0.0, 0.1, 0.1, 0.25, 3.0, "inf"]
        assert lines[0]["format_version"] == 1
        [found] = {json.dumps(line["finding"]) for line in lines if line["event"] == "FindingFound"}
        assert json.loads(found) == json.loads(json.dumps(made.finding().to_json()))

    def test_it_can_be_followed(self, folder: Path, made: ModuleType) -> None:
        """A finding is written at once; cases at least every second."""
        now = [0.0]
        report, path = EventLines(folder / "events.jsonl", lambda: now[0]), folder / "events.jsonl"
        report(events.PhaseStarted("explore"))
        report(made.case_run("gdn.decode", 0.1))
        assert path.read_text().count("\n") == 1
        now[0] = 1.5
        report(made.case_run("gdn.decode", 0.1))
        assert path.read_text().count("\n") == 3
        report(made.case_run("gdn.decode", 0.1))
        report(events.FindingFound(made.finding(), "f.json"))
        assert path.read_text().count("\n") == 5

    def test_the_page_about_them_names_every_event_and_field(self) -> None:
        text = (ROOT / "docs" / "run-reports.md").read_text()
        kinds = [
            kind
            for _, kind in inspect.getmembers(events, inspect.isclass)
            if issubclass(kind, Event) and kind is not Event
        ]
        assert len(kinds) > 15
        for kind in kinds:
            [row] = re.findall(rf"^\| `{kind.__name__}` \|(.*)$", text, re.MULTILINE)
            fields = {spec.name for spec in dataclasses.fields(kind)} - event_lines.LEFT_OUT
            assert fields == set(re.findall(r"`(\w+)`", row.rpartition("|")[0].split("|")[0])), kind


class TestGitHub:
    def test_a_summary_has_the_table_and_each_finding(self, folder: Path, made: ModuleType) -> None:
        (folder / "summary.md").write_text("# of an earlier command\n")
        report = github.GitHub(folder / "summary.md", None)
        heard(report, made.campaign(folder / "findings"))
        assert report.problem is None
        text, one = (folder / "summary.md").read_text(), made.finding()
        assert text.startswith("# of an earlier command\n## ❌ fuzz my\\_kernel.py:decode\n")
        assert "\n|operation|cases|exact|worst error / bound|findings|\n|---|---:|---:|---:|---:|\n" in text
        assert "\n|gdn.decode|6|0|inf|1|\n" in text
        assert f"diffgdn replay {folder}/findings/{one.id}.json" in text
        assert f"The script lies in `{folder}/findings/{one.id}.py`" in text
        assert repr(one.case) in text

    def test_a_summary_never_passes_its_limit(self, folder: Path, made: ModuleType) -> None:
        """Parts that have no room are left out whole, and counted."""
        watch = heard(Watch(), made.campaign(folder / "findings", found=30))
        text = github.markdown(watch.overview(), 6000)
        assert len(text.encode()) <= 6000
        assert re.search(r"\n\d+ more parts had no room", text)
        fences = re.findall(r"^```.*$", text, re.MULTILINE)
        assert [bool(fence.strip("`")) for fence in fences] == [True, False] * (len(fences) // 2)
        assert "\n|gdn.decode|6|0|inf|30|\n" in text

    def test_markdown_in_a_message_stays_text(self, folder: Path, made: ModuleType) -> None:
        watch = heard(Watch(), made.replay(folder / "findings"))
        text = github.markdown(watch.overview())
        outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
        assert "<script" not in outside.replace("\\<", "")
        [row] = [line for line in text.splitlines() if line.startswith("|ERROR")]
        assert len(re.findall(r"(?<!\\)\|", row)) == 4

    def test_as_many_annotations_as_a_step_shows(self, folder: Path, made: ModuleType) -> None:
        said: list[str] = []
        heard(github.GitHub(None, said.append), made.campaign(folder / "findings", found=12))
        assert len(said) == 10
        assert all(re.fullmatch(r"::error [^\n]*title=[^\n:]+::[^\n]+", line) for line in said)
        assert said[-1] == "::error title=diffgdn::3 more findings: the step summary has them all"

    def test_an_annotation_escapes_and_is_cut(self, folder: Path, made: ModuleType) -> None:
        said: list[str] = []
        heard(github.GitHub(None, said.append), made.campaign(folder / "findings", target="a,b:c.py"))
        assert "title=gdn.decode  beyond_bound in o  (target a%2Cb%3Ac.py%2C backend interpret)::" in said[0]
        assert "%250A::error::" in said[0]
        assert "%0Aat token 2%0Adiffgdn replay " in said[0]
        assert len(github._data("x" * 9000)) == 4096

    def test_an_annotation_lies_at_the_target_in_the_checkout(self, folder: Path, made: ModuleType) -> None:
        (folder / "my_kernel.py").write_text("import torch\n\n\ndef decode(q):\n    return q\n")
        said: list[str] = []
        heard(github.GitHub(None, said.append), made.campaign(folder / "findings"))
        assert said[0].startswith("::error file=my_kernel.py,line=4,title=gdn.decode ")

    def test_it_speaks_only_in_a_workflow(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert github.from_environment(print) is None
        monkeypatch.setenv(github.SUMMARY, str(folder / "s.md"))
        made = github.from_environment(print)
        assert made is not None
        assert (made._summary, made._say) == (folder / "s.md", None)


class Broken(FileReport):
    def __call__(self, event: Event) -> None:
        raise ValueError("a fault of ours")


def test_a_report_that_fails_ends_no_campaign(
    folder: Path, made: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its fault is told once, the others go on; a folder that is gone is told too."""
    broken, junit = Broken(folder / "x"), JUnitFile(folder / "junit.xml")
    (folder / "file").write_text("")
    files: list[Report] = [
        broken,
        junit,
        HtmlFile(folder / "file" / "page.html"),
        EventLines(folder / "gone" / "e.jsonl"),
    ]
    heard(told([], files), made.campaign(folder / "findings"))
    assert (folder / "junit.xml").exists()
    said = problems(files)
    assert said[0] == "internal error in Broken: a fault of ours"
    assert said[1].startswith(f"{folder / 'file' / 'page.html'}: ")
    assert said[2] == f"{folder / 'gone' / 'e.jsonl'}: No such file or directory"
    assert capsys.readouterr().err.count("ValueError: a fault of ours") == 1


def test_fuzz_and_replay_leave_what_they_are_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(github.SUMMARY, str(folder / "summary.md"))
    monkeypatch.setenv(github.ACTIONS, "true")
    monkeypatch.setenv("DIFFGDN_BACKEND", "interpret")
    files = ["--html", "r.html", "--junit", "r.xml", "--events", "r.jsonl"]
    limits = ["--op", "gdn.decode", "--max-cases", "3", "--max-time", "9s", "--workers", "1", "--seed", "1"]
    assert run(["fuzz", "--target", f"{TOYS}:wrong", *limits, *files]) == 1
    names = [json.loads(line)["event"] for line in (folder / "r.jsonl").read_text().splitlines()]
    assert (names[0], names[-1], "FindingFound" in names) == ("CampaignStarted", "CampaignEnded", True)
    [one] = ElementTree.parse(folder / "r.xml").getroot().iter("failure")
    assert "<article" in (folder / "r.html").read_text()
    assert capsys.readouterr().out.count("\n::error ") >= 1
    (folder / "summary.md").unlink()

    assert run(["replay", "--trust-targets", "--repeat", "1", *files]) == 1
    names = [json.loads(line)["event"] for line in (folder / "r.jsonl").read_text().splitlines()]
    assert names[0] == "ReplayStarted"
    assert names[-1] == "ReplayEnded"
    assert {*names[1:-1]} == {"FindingReplayed"}
    assert int(ElementTree.parse(folder / "r.xml").getroot().get("failures", "0")) == len(names) - 2
    assert "run again: FAILED" in (folder / "r.html").read_text()
    assert (folder / "summary.md").read_text().startswith("## ❌ replay of ")
