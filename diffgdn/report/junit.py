"""Write a campaign, or a replay, as JUnit XML, which CI systems read: when it ends.

Of a campaign an operation is a test case, so that its name stays the same from run to run; so is each finding
that was replayed first. Of a replay each finding is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from diffgdn.campaign.events import CampaignEnded, Event, FindingReplayed, ReplayEnded
from diffgdn.report import finding_lines, sentences
from diffgdn.report.file_report import FileReport
from diffgdn.report.modes import REPORTS
from diffgdn.report.tally import OperationTally, Tally

# What XML 1.0 cannot hold, not even escaped (https://www.w3.org/TR/xml/#charsets).
UNSPEAKABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
PASSING = ("FIXED", "PASSED", "KNOWN", "FLAKY")  # FLAKY alone: it was seen once, and does not come


class JUnitFile(FileReport):
    """Leave a file of JUnit XML: a listener."""

    def __init__(self, path: Path) -> None:
        """Take the path of the file."""
        super().__init__(path)
        self._tally = Tally()

    def __call__(self, event: Event) -> None:
        """Add an event up; write the file when the run ends."""
        self._tally(event)
        if isinstance(event, CampaignEnded | ReplayEnded):
            self.write(xml(self._tally))


def xml(tally: Tally) -> str:
    """Write a run that has ended."""
    root = Element("testsuites")
    if tally.replay is not None:
        assert tally.replay_ended is not None
        suites = [_suite("diffgdn replay", _replayed(tally, ""), tally.replay_ended.seconds)]
    else:
        assert tally.ended is not None
        name = f"diffgdn {REPORTS[tally.mode].command} {tally.config.target}"
        suites = [_suite(name, _operations(tally), tally.ended.seconds)]
        if tally.replayed:
            suites.append(_suite(f"{name}: replayed", _replayed(tally, "replay."), tally.seconds["replay"]))
    root.extend(suites)
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    root.set("name", "diffgdn")
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(name: str, cases: Iterable[Element], seconds: float) -> Element:
    suite = Element("testsuite", name=_plain(name), time=f"{seconds:.3f}")
    suite.extend(cases)
    suite.set("tests", str(len(suite)))
    for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(count, str(sum(case.find(tag) is not None for case in suite)))
    return suite


def _operations(tally: Tally) -> Iterator[Element]:
    """A test case for each operation, and for each known failure that fails no more; the campaign is one
    where it did not do as asked.
    """
    ended, target = tally.ended, tally.config.target
    assert ended is not None
    for name, one in tally.operations.items():
        yield _operation(tally, name, one)
    for known in ended.known:
        if known.mended:
            case = _case(target, f"known failure {known.entry.name}")
            _outcome(case, "failure", "mended", finding_lines.mended(known))
            yield case
    if ended.stopped is not None:
        case = _case(target, "campaign")
        _outcome(case, "error", "problem", ended.stopped)
        yield case


def _operation(tally: Tally, name: str, one: OperationTally) -> Element:
    assert tally.ended is not None
    case = _case(tally.config.target, name, one.seconds)
    found = [tally.findings[entry] for entry in tally.findings_of(name)]
    unreached = tally.ended.unreached.get(name)
    if found:
        lines = [line for finding, path in found for line in [*finding_lines.lines(finding, path), ""]]
        kinds = ", ".join(dict.fromkeys(finding.kind for finding, _ in found))
        said = f"{sentences.counted(len(found), 'finding')}: {kinds}"
        _outcome(case, "failure", kinds, said, lines)
    elif unreached is not None:
        tag = "skipped" if tally.config.allow_unreached else "error"
        _outcome(case, tag, "unreached", unreached)
    elif not one.cases:
        _outcome(case, "skipped", "skipped", one.skipped or one.refusal or "no case of it was run")
    worst = "" if one.worst is None else f", worst error / bound {one.worst:.3g}"
    if one.cases or one.refused:
        said = f"{one.cases} cases, {one.exact} exact, {one.refused} refused{worst}"
        SubElement(case, "system-out").text = said
    return case


def _replayed(tally: Tally, above: str) -> Iterator[Element]:
    """A test case for each finding that was run again. above: before the name of its class."""
    for event in tally.replayed:
        case = _case(f"{above}{event.finding.target}", event.finding.id)
        _say(case, event)
        yield case
    for known in tally.replay_ended.known if tally.replay_ended is not None else ():
        if known.mended:
            case = _case("known failures", known.entry.name)
            _outcome(case, "failure", "mended", finding_lines.mended(known))
            yield case


def _say(case: Element, event: FindingReplayed) -> None:
    reason = event.reason or event.status
    if event.fails:
        lines = finding_lines.lines(event.finding, event.path)
        _outcome(case, "failure", event.finding.kind, f"{event.status}: {reason}", lines)
    elif event.status in ("SKIPPED", "REFUSED"):
        _outcome(case, "skipped", event.status, reason)
    elif event.status not in PASSING:
        _outcome(case, "error", event.status, reason)


def _case(owner: str, name: str, seconds: float = 0.0) -> Element:
    return Element("testcase", classname=_plain(owner), name=_plain(name), time=f"{seconds:.3f}")


def _outcome(case: Element, tag: str, kind: str, message: str, lines: Iterable[str] = ()) -> None:
    first = message.splitlines()[0] if message.strip() else kind
    outcome = SubElement(case, tag, type=_plain(kind), message=_plain(first))
    outcome.text = _plain("\n".join(lines) or message)


def _plain(text: str) -> str:
    """Write what XML cannot hold as Python would."""
    return UNSPEAKABLE.sub(lambda found: f"\\x{ord(found.group()):02x}", text)
