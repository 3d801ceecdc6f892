"""A finding in parts, each plain text or bytes, for reports that lay it out themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffgdn.findings.finding import UNFINISHED, Finding
from diffgdn.findings.parse import printable
from diffgdn.report import finding_lines

MOST_OF_FILE = 256 * 1024  # bytes of a script or a picture that a report takes in


@dataclass(frozen=True)
class Parts:
    """What a report shows of a finding.

    Attributes:
        message: what is wrong, line by line; place: where.
        company: what it depends on, or the steps of a trace; empty if it fails alone.
        again: command lines that show it again.
        notes: further lines: what it was shrunk from, what ran, how far its shrink came.
        script: the text of its script, None if there is none.
        image: a PNG of where it is wrong, None if there is none; words: the same as text.
        reason: of a finding that was run again, what became of it now; status: in a word.
    """

    id: str
    target: str
    path: str
    headline: str
    message: tuple[str, ...]
    place: str
    case: str
    company: tuple[str, ...]
    again: tuple[str, ...]
    notes: tuple[str, ...]
    script_path: str | None = None
    script: str | None = None
    image: bytes | None = None
    words: str | None = None
    status: str | None = None
    reason: str | None = None


def parts(finding: Finding, path: str, status: str | None = None, reason: str | None = None) -> Parts:
    """Gather the parts of a finding, and read what lies beside its file."""
    message = [printable(line) for line in finding.message.splitlines() if line.strip()]
    company = [] if finding.trace is None else finding.trace.words()
    company = [*company, *finding_lines.company(finding)]
    script, image, words = (_beside(path, suffix) for suffix in (".py", ".png", ".txt"))
    return Parts(
        id=finding.id,
        target=finding.target,
        path=path,
        headline=finding_lines.headline(finding),
        message=tuple(message) or ("no message",),
        place=(finding.place or "").removeprefix("at "),
        case=repr(finding.trace or finding.case),
        company=tuple(company),
        again=tuple(finding_lines.commands(finding, Path(path))),
        notes=tuple(_notes(finding)),
        script_path=None if script is None else str(Path(path).with_suffix(".py")),
        script=None if script is None else script.decode(errors="replace"),
        image=image,
        words=None if words is None else words.decode(errors="replace"),
        status=status,
        reason=reason,
    )


def _notes(finding: Finding) -> list[str]:
    notes = [] if finding.unshrunk is None else [f"shrunk from {finding_lines.size(finding)}"]
    if finding.shrink in UNFINISHED:
        notes.append(UNFINISHED[finding.shrink])
    if finding.bisected:
        notes.append(finding_lines.since(finding))
    return [*notes, *finding_lines.ran(finding), finding_lines.origin(finding)]


def _beside(path: str, suffix: str) -> bytes | None:
    """Read a file that lies beside a finding; None if there is none, or it is too large to be taken in."""
    file = Path(path).with_suffix(suffix)
    try:
        if not file.is_file() or file.is_symlink() or file.stat().st_size > MOST_OF_FILE:
            return None
        return file.read_bytes()
    except OSError:
        return None
