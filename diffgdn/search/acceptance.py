"""A finding as an entry of known failures, in its TOML form, and what a person should know of it."""

from __future__ import annotations

from typing import Any

from diffgdn.cases import promises_file
from diffgdn.cases.promises import EVERYTHING
from diffgdn.findings import bucket
from diffgdn.findings.finding import EXAMPLE, UNFINISHED, Finding
from diffgdn.findings.known import Known
from diffgdn.search import needs
from diffgdn.verdict.failures import FAULT_KINDS


def entry(finding: Finding, reason: str, link: str | None = None) -> dict[str, Any]:
    """Make the entry that stands for a finding and for what fails alike.

    Its conditions are what the case needs (`needs`). One that was seen once, or comes after other calls, is
    flaky. Raises ValueError for an example, and for promises in a file that cannot be read.
    """
    if finding.kind == EXAMPLE:
        raise ValueError(f"{finding.id}: it is an example, which never failed")
    promises = promises_file.declared(finding.target) or EVERYTHING
    made: dict[str, Any] = {"target": finding.target, "operation": finding.operation, "kind": finding.kind}
    if finding.tensor is not None:
        made["result"] = finding.tensor
    says = _says(finding)
    if says:
        made["says"] = says
    made["backend"] = finding.backend
    where = needs.of(finding.trace or finding.case, promises)
    if where:
        made["where"] = where
    if finding.prelude or not finding.reproduced:
        made["flaky"] = True
    made["reason"] = reason
    return made if link is None else {**made, "link": link}


def _says(finding: Finding) -> str:
    """Name the class of an exception, or how a process ended: what tells such failures apart."""
    if finding.kind not in ("raised", "crashed"):
        return ""
    return bucket.region(finding.case, finding.kind, None, finding.place, finding.message)


def remarks(finding: Finding, made: Known) -> list[str]:
    """Say what a person may want to change of an entry, in lines."""
    found = []
    if finding.shrink in UNFINISHED:
        found.append(f"{UNFINISHED[finding.shrink]}: a smaller case would give fewer conditions")
    if not made.where:
        found.append("it has no conditions: the plainest case fails so, and all that fails so is known")
    if made.flaky:
        found.append("it is flaky: it did not fail alone each time, and is never said to be mended")
    if finding.kind in FAULT_KINDS:
        found.append("cases that meet its conditions are not run any more, but with --run-known-crashes")
    return found
