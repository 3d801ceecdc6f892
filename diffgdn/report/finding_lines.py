"""How a finding reads: what is wrong, where, on which case, and how to see it again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from diffgdn.findings import trust
from diffgdn.findings.finding import UNFINISHED, Finding
from diffgdn.findings.parse import printable

DEFAULT_CORPUS = "findings"
MOST_SHOWN = 5  # calls of a prelude


def headline(finding: Finding) -> str:
    """Operation, kind and tensor in one line."""
    tensor = f" in {finding.tensor}" if finding.tensor else ""
    return (
        f"{finding.operation}  {finding.kind}{tensor}  (target {finding.target}, backend {finding.backend})"
    )


def lines(finding: Finding, path: str | os.PathLike[str]) -> list[str]:
    """A finding for a person, in plain text. path: of its JSON file."""
    message = [printable(part) for part in finding.message.splitlines() if part.strip()] or ["no message"]
    out = [headline(finding), *(f"  {part}" for part in message)]
    if finding.place:
        out.append(f"  at {finding.place.removeprefix('at ')}")
    if finding.trace is not None:
        out += [f"  {line}" for line in finding.trace.words()]
    out += company(finding)
    out.append(f"  {(finding.trace or finding.case)!r}")
    if finding.unshrunk is not None:
        out.append(f"  shrunk from {size(finding)}")
    out.append("  Reproduce with:")
    out += [f"    {command}" for command in commands(finding, Path(path))]
    if finding.shrink in UNFINISHED:
        out.append(f"  {UNFINISHED[finding.shrink]}; to take it up again:")
        out.append(f"    {_command('shrink', finding, Path(path))}")
    return out


def company(finding: Finding) -> list[str]:
    """What a finding depends on, if it does, in lines."""
    calls = [f"    {printable(call.words())}" for call in finding.prelude]
    count = "1 call" if len(calls) == 1 else f"{len(calls)} calls"
    if not finding.reproduced:
        ran = f", nor after the {count} that had run before it" if calls else ""
        return [f"  seen once: it did not come again alone{ran}"]
    if not calls:
        return []
    shown = calls[-MOST_SHOWN:]
    more = [f"    {len(calls) - len(shown)} others, then"] if len(shown) < len(calls) else []
    head = f"  depends on what ran before: alone it passes, after {count} in the same process it fails:"
    return [head, *more, *shown, "  and then"]


def origin(finding: Finding) -> str:
    """When a finding was found, and what ran it, in one line."""
    versions = ", ".join(f"{key} {value}" for key, value in finding.versions.items())
    seed = "" if finding.seed is None else f", seed {finding.seed}"
    return f"found {finding.found or 'by hand'}{seed}{f'; {versions}' if versions else ''}"


def size(finding: Finding) -> str:
    """How large the case was on which the failure was first seen."""
    assert finding.unshrunk is not None
    case = finding.unshrunk
    sequences = "1 sequence" if len(case.lens) == 1 else f"{len(case.lens)} sequences"
    tokens = "1 token" if case.total == 1 else f"{case.total} tokens"
    return f"{sequences}, {tokens}, H={case.H}, HV={case.HV}, K={case.K}, V={case.V} (case {case.id})"


def commands(finding: Finding, path: Path) -> list[str]:
    """Command lines that show the failure again."""
    out = [_command("replay", finding, path)]
    script = path.with_suffix(".py")
    if script.exists():
        out.append(f"python {shlex.quote(str(script))}")
    return out


def _command(name: str, finding: Finding, path: Path) -> str:
    """A command line about a finding."""
    default = path.parent == Path(DEFAULT_CORPUS)
    vouched = "" if trust.refusal(finding.target) is None else "--trust-targets "
    return f"diffgdn {name} {vouched}{shlex.quote(finding.id if default else str(path))}"
