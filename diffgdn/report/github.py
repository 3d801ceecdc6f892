"""Tell GitHub what a run found: a step summary in Markdown, and annotations that a pull request shows.

Limits: a summary of more than 1 MiB is not shown at all (in GitHub's words: "upload aborted, supports content
up to a size of 1024k"); of each kind of annotation a step shows 10, a job 50 (docs/problem-matchers.md of
actions/toolkit), each of at most 4096 characters (`_maxIssueMessageLength` of actions/runner).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from diffgdn.campaign.events import CampaignEnded, Event, ReplayEnded
from diffgdn.report.finding_parts import Parts
from diffgdn.report.overview import Overview, Watch
from diffgdn.report.plain_table import PlainTable

MOST_BYTES = 1024 * 1024 - 4096  # of a step summary, which other commands of the step may have begun
MOST_ANNOTATIONS = 10
MOST_CHARACTERS = 4096
MOST_OF_TEXT = 8 * 1024  # of a picture in a summary
SUMMARY, ACTIONS = "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"


class GitHub:
    """Append to the step summary, and print annotations, when a run ends: a listener.

    Attributes:
        problem: why the summary could not be written, in one line; None if it was.
    """

    def __init__(self, summary: Path | None, say: Callable[[str], None] | None) -> None:
        """Take the file of the summary and what prints a line, None for what is not wanted."""
        self._summary, self._say, self._watch = summary, say, Watch()
        self.problem: str | None = None

    def __call__(self, event: Event) -> None:
        """Add an event up; tell of the run when it ends."""
        self._watch(event)
        if isinstance(event, CampaignEnded | ReplayEnded):
            overview = self._watch.overview()
            if self._summary is not None:
                self._append(self._summary, overview)
            for line in annotated(overview) if self._say is not None else ():
                assert self._say is not None
                self._say(line)

    def _append(self, path: Path, overview: Overview) -> None:
        try:
            room = MOST_BYTES - (path.stat().st_size if path.exists() else 0)
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(markdown(overview, room))
        except OSError as error:
            self.problem = f"{path}: {error.strerror or error}"


def from_environment(say: Callable[[str], None]) -> GitHub | None:
    """Make the listener that the environment asks for; None outside of GitHub's workflows."""
    path, annotates = os.environ.get(SUMMARY), os.environ.get(ACTIONS) == "true"
    if not path and not annotates:
        return None
    return GitHub(Path(path) if path else None, say if annotates else None)


def markdown(overview: Overview, room: int = MOST_BYTES) -> str:
    """Write a summary of at most `room` bytes: what has no room is left out whole, and that is said."""
    parts = [
        f"## {'✅' if overview.good else '❌'} {_text(overview.title)}\n\n**{_text(overview.conclusion)}**\n",
        f"> Not as asked: {_text(overview.problem)}\n" if overview.problem else "",
        *(_finding(one) for one in overview.findings),
        *(_table(table) for table in overview.tables),
        "### Findings run again\n\n" + _table(overview.replayed) if overview.replayed else "",
        *(
            f"### {heading}\n\n" + "".join(f"- {_text(one)}\n" for one in lines)
            for heading, lines in overview.notes.items()
        ),
        _missed(overview.missed),
        "<sub>" + _text(", ".join(f"{name} {value}" for name, value in overview.facts.items())) + "</sub>\n",
    ]
    out, left_out = "", 0
    note = "\n{} more parts had no room: a step summary holds 1 MiB.\n"
    for part in filter(None, parts):
        if len((out + part + note).encode()) + 64 > room:
            left_out += 1
        else:
            out += part + "\n"
    return out + (note.format(left_out) if left_out and room > len(note) else "")


def _missed(lines: Sequence[str]) -> str:
    """Say how much of the domain was reached, and fold what was not."""
    if not lines:
        return ""
    folded = "".join(f"{_text(line)}\n\n" for line in lines[1:])
    more = f"<details><summary>not reached</summary>\n\n{folded}</details>\n" if folded else ""
    return f"{_text(lines[0])}\n\n{more}"


def _notes(heading: str, lines: Iterable[str]) -> str:
    return f"### {heading}\n\n" + "".join(f"- {_text(line)}\n" for line in lines)


def _finding(one: Parts) -> str:
    status = f" (run again: {_text(one.status)})" if one.status else ""
    lines = [*one.message, *([f"at {one.place}"] if one.place else []), *one.company, one.case, *one.notes]
    parts = [
        f"### {_text(one.headline)}{status}\n",
        _fenced("\n".join(lines)),
        f"Reproduce with:\n\n{_fenced(chr(10).join(one.again), 'console')}",
    ]
    if one.script_path is not None:
        parts.append(f"The script lies in `{one.script_path}`, the finding in `{one.path}`.\n")
    if one.words is not None:
        cut = one.words[:MOST_OF_TEXT]
        parts.append(f"<details><summary>Where it is wrong</summary>\n\n{_fenced(cut)}\n</details>\n")
    return "\n".join(parts)


def _table(table: PlainTable) -> str:
    rule = "|".join("---:" if right else "---" for right in table.right)
    rows = ["|".join(map(_text, row)) for row in (table.heads, *table.rows)]
    rows.insert(1, rule)
    return "".join(f"|{row}|\n" for row in rows)


def _fenced(text: str, kind: str = "text") -> str:
    """Put text into a block whose fence is longer than any in it."""
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{text}\n{fence}\n"


def _text(text: str) -> str:
    """Escape what Markdown, or HTML in it, would take for its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$@&])", r"\\\1", " ".join(text.split()))


def annotated(overview: Overview) -> Iterator[str]:
    """Write a line for each finding, as many as a step shows: the last one counts those left over."""
    found = list(overview.findings)
    shown = found if len(found) <= MOST_ANNOTATIONS else found[: MOST_ANNOTATIONS - 1]
    for one in shown:
        where = "".join(f"{name}={_property(value)}," for name, value in _source(one.target).items())
        said = "\n".join([*one.message, *([f"at {one.place}"] if one.place else []), *one.again])
        yield f"::error {where}title={_property(one.headline)}::{_data(said)}"
    if len(shown) < len(found):
        yield f"::error title=diffgdn::{len(found) - len(shown)} more findings: the step summary has them all"
    if overview.problem is not None and not found:
        yield f"::error title=diffgdn::{_data(overview.problem)}"


def _source(target: str) -> dict[str, str]:
    """Name the file and the line of a target that lies in the checkout, so that the diff shows it there."""
    file, _, name = target.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or path.is_absolute() or not path.is_file():
        return {}
    try:
        source = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    begins = re.compile(rf"(async\s+)?(def|class)\s+{re.escape(name)}\b|{re.escape(name)}\s*[:=]")
    line = next((number for number, text in enumerate(source, 1) if begins.match(text)), 1)
    return {"file": path.as_posix(), "line": str(line)}


def _data(text: str) -> str:
    """Escape the message of a workflow command, cut to what is shown."""
    cut = text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
    return cut.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property of a workflow command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
