"""Put a finding into words: what is wrong, where, on which case, and how to see it again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from diffgdn.cases import company as earlier_calls
from diffgdn.cases.case import Case
from diffgdn.findings import trust
from diffgdn.findings.finding import UNFINISHED, Finding
from diffgdn.findings.known_seen import Seen
from diffgdn.findings.parse import printable
from diffgdn.runner.baseline import PROVENANCE as BASE_SAID

DEFAULT_CORPUS = "findings"
MOST_SHOWN = 5  # calls of a prelude


def headline(finding: Finding) -> str:
    """Write operation, kind of failure, tensor, target and backend in one line."""
    tensor = f" in {finding.tensor}" if finding.tensor else ""
    return (
        f"{finding.operation}  {finding.kind}{tensor}  (target {finding.target}, backend {finding.backend})"
    )


def lines(finding: Finding, path: str | os.PathLike[str]) -> list[str]:
    """Write a finding for a person, as lines of plain text.

    Args:
        path: of its JSON file; commands name it.
    """
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
    if BASE_SAID in finding.provenance:
        out.append(f"  base: {printable(finding.provenance[BASE_SAID])}")
    out.append("  Reproduce with:")
    out += [f"    {command}" for command in commands(finding, Path(path))]
    if finding.shrink in UNFINISHED:
        out.append(f"  {UNFINISHED[finding.shrink]}; to take it up again:")
        out.append(f"    {_command('shrink', finding, Path(path))}")
    return out


def company(finding: Finding) -> list[str]:
    """Write what a finding depends on, as lines; none if it fails alone."""
    named = [] if finding.trace else _named(finding.case)
    calls = [f"    {printable(call.words())}" for call in finding.prelude]
    count = "1 call" if len(calls) == 1 else f"{len(calls)} calls"
    if not finding.reproduced:
        ran = f", nor after the {count} that had run before it" if calls else ""
        return [f"  seen once: it did not come again alone{ran}", *named]
    if not calls:
        return named
    shown = calls[-MOST_SHOWN:]
    more = [f"    {len(calls) - len(shown)} others, then"] if len(shown) < len(calls) else []
    head = f"  depends on what ran before: alone it passes, after {count} in the same process it fails:"
    return [head, *more, *shown, *(named or ["  and then"])]


def _named(case: Case) -> list[str]:
    """Write the calls that a case names before its own, as lines; none if it names none."""
    if not case.before:
        return []
    calls = [f"    {line}" for line in earlier_calls.lines(case)]
    return ["  calls before it in the same process, as its `before` says:", *calls, "  and then"]


def mended(seen: Seen) -> str:
    """Write that a known failure fails no more, why that is known, and what to do, in one line."""
    entry = seen.entry
    return f"KNOWN FAILURE NO LONGER FAILS  {entry.name}  {entry.about}: {seen.why_mended}; remove the entry"


def origin(finding: Finding) -> str:
    """Write when a finding was found, and what ran it, in one line."""
    versions = ", ".join(f"{key} {value}" for key, value in finding.versions.items())
    seed = "" if finding.seed is None else f", seed {finding.seed}"
    return f"found {finding.found or 'by hand'}{seed}{f'; {versions}' if versions else ''}"


def ran(finding: Finding) -> list[str]:
    """Write what really ran of a released package, as lines; none where nothing was noted."""
    told = {name: value for name, value in finding.provenance.items() if name != BASE_SAID}
    return [f"{name}: {printable(value)}" for name, value in told.items()]


def since(finding: Finding) -> str:
    """Write since which version a finding fails, in one line; nothing where nobody has looked."""
    said = [f"{name} {printable(value)}" for name, value in finding.bisected.items()]
    return "; ".join(said)


def size(finding: Finding) -> str:
    """Write how large the case was on which the failure was first seen. The finding must have been shrunk."""
    assert finding.unshrunk is not None
    case = finding.unshrunk
    sequences = "1 sequence" if len(case.lens) == 1 else f"{len(case.lens)} sequences"
    tokens = "1 token" if case.total == 1 else f"{case.total} tokens"
    return f"{sequences}, {tokens}, H={case.H}, HV={case.HV}, K={case.K}, V={case.V} (case {case.id})"


def commands(finding: Finding, path: Path) -> list[str]:
    """List the command lines that show the failure again: a replay, and the script beside `path` if there
    is one."""
    out = [_command("replay", finding, path)]
    script = path.with_suffix(".py")
    if script.exists():
        out.append(f"python {shlex.quote(str(script))}")
    return out


def _command(name: str, finding: Finding, path: Path) -> str:
    """Write a command line about a finding."""
    default = path.parent == Path(DEFAULT_CORPUS)
    vouched = "" if trust.refusal(finding.target) is None else "--trust-targets "
    return f"diffgdn {name} {vouched}{shlex.quote(finding.id if default else str(path))}"
