"""`diffgdn report`: a finding as an issue for the tracker of whoever maintains the kernel."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffgdn.backend import selection as backends
from diffgdn.cli.corpus_option import corpus_option
from diffgdn.cli.options import (
    CONTEXT,
    Problem,
    backend_option,
    from_option,
    hang_option,
    trust_option,
    writable_file,
)
from diffgdn.cli.replay_command import asked_backend, located
from diffgdn.findings import trust
from diffgdn.findings.finding import EXAMPLE, UNFINISHED, Finding, versions
from diffgdn.report import finding_lines

if TYPE_CHECKING:
    from diffgdn.findings.repro.call_script import CallScript
    from diffgdn.report.issue_text import Issue
    from diffgdn.runner.harness import Harness
    from diffgdn.runner.script_check import Ran


@click.command(context_settings=CONTEXT)
@click.argument("name", metavar="PATH or ID")
@click.option("--to", type=click.Path(path_type=Path), help="Write to this file.  [default: print it]")
@click.option("--since", help="Since which version it fails, in words.  [default: what `bisect` found]")
@corpus_option
@from_option
@trust_option
@hang_option
@backend_option
def report(
    name: str,
    to: Path | None,
    since: str | None,
    corpus: Path,
    place: str | None,
    trusted: bool,
    hang_seconds: float | None,
    backend: str | None,
) -> int:
    """Write a finding as an issue in Markdown, ready to be pasted into a maintainer's tracker.

    It has a script that needs torch and their package alone, which is run here and must fail as the finding
    does; versions, expected and got, and where the result is wrong. The finding is run again first.

    Exit status: 0 it is written, 2 it is not: it does not fail here, or could not be run.
    """
    backend = asked_backend(backend)
    if to is not None:
        writable_file(to, "--to")
    entries = located(name, corpus, place)
    if len(entries) != 1:
        raise Problem(f"{name}: expected one finding, this names {len(entries)}")
    finding = entries[0][0]
    finding = replace(finding, backend=backend or finding.backend)
    _check(finding, trusted or place is not None)

    from diffgdn.report import issue_text
    from diffgdn.runner.harness import Harness
    from diffgdn.runner.messages import RunnerError

    with tempfile.TemporaryDirectory(prefix="diffgdn-") as folder:
        note, log = Path(folder) / "note", Path(folder) / "log"
        harness = Harness(finding.backend, note, log, isolation="child", hang_seconds=hang_seconds)
        try:
            issue, promises = _issue(finding, harness, hang_seconds), harness.about(finding.target).promises
        except RunnerError as error:
            raise Problem(f"{finding.id}: {error}") from None
        finally:
            harness.close()
    written = issue_text.text(finding, replace(issue, since=since or issue.since), promises)
    if finding.shrink in UNFINISHED:
        hint = f"{UNFINISHED[finding.shrink]}; `diffgdn shrink` first makes a shorter issue"
        click.echo(f"diffgdn: {finding.id}: {hint}", err=True)
    if to is None:
        click.echo(written, nl=False)
    else:
        to.write_text(written)
        click.echo(f"written to {to}")
    return 0


def _check(finding: Finding, trusted: bool) -> None:
    """Raise Problem for what is not run, or cannot be."""
    reason = None if trusted else trust.refusal(finding.target)
    if finding.kind == EXAMPLE:
        reason = "it is an example, which never failed"
    if finding.backend == "gpu":
        missing = backends.gpu_missing()
        reason = reason or (missing and f"{missing}; --backend interpret runs it on the CPU")
    if reason is not None:
        raise Problem(f"{finding.id}: {reason}")


def _issue(finding: Finding, harness: Harness, hang_seconds: float | None) -> Issue:
    """Run a finding again, and make what its issue needs. Raises Problem where it does not fail."""
    from diffgdn.findings import repro
    from diffgdn.report.issue_text import Issue

    verdict = harness.replay(finding, picture=True, fresh=True)
    if verdict.refused is not None:
        raise Problem(f"{finding.id}: {verdict.refused}")
    if verdict.failure is None:
        raise Problem(f"{finding.id}: it does not fail here; there is nothing to report")
    now = replace(
        finding,
        kind=verdict.failure.kind,
        message=verdict.failure.message,
        tensor=verdict.failure.tensor,
        place=verdict.failure.place,
    )
    script, ran = _tried(now, harness, hang_seconds)
    told = dict(verdict.provenance or script.provenance)
    issue = Issue(
        function=script.function or told.get("function", ""),
        package=script.package,
        message=now.message,
        script=script.text,
        output=() if ran is None else ran.said,
        picture=verdict.picture or script.picture,
        ran=told,
        versions=versions(harness.device),
        since=finding_lines.since(finding),
    )
    if ran is not None:
        return issue
    return replace(issue, script=repro.through(now), alone=False, why_not=script.why_not)


def _tried(finding: Finding, harness: Harness, hang_seconds: float | None) -> tuple[CallScript, Ran | None]:
    """Make the shortest script that shows a finding, and say how it ended; None where none does.

    It is tried without NaN beside its tensors first.
    """
    from diffgdn.runner import script_check

    for guarded in (False, True):
        script = harness.fresh.call_script(finding, guarded)
        if not script.text:
            return script, None
        ran = script_check.check(script.text, finding, hang_seconds)
        if ran.shows(finding):
            return script, ran
    return replace(script, why_not="a script of its one call does not show it"), None
