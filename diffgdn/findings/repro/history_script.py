"""The script of a finding that takes other calls before it in its process, or a look at its heap after it.

It runs the calls through diffgdn, in the order in which they have to come."""

from __future__ import annotations

import textwrap

from diffgdn.findings.corpus import Finding
from diffgdn.findings.repro.texts import HEAD
from diffgdn.runner.messages import DAMAGED

TEXT = (
    HEAD
    + """
import sys

from diffgdn import lane
from diffgdn.case import Case, Edit, Gates, Only, Pool, Values  # noqa: F401 (a case's repr may need each)
from diffgdn.prelude import Call
from diffgdn.trace import Step, Trace  # noqa: F401

lane.enter("$lane_name")

from diffgdn.isolate.here import Here  # noqa: E402 (imports torch)

runner = Here("$lane_name")
untouched = runner.damage() is None  # whether the heap of this process is one that can be looked at

# What has to run before it, in this process.
before = [
$before
]
for call in before:
    runner.run(call.subject, "$target", relation=call.relation)

call = $call
verdict = runner.run(call.subject, "$target", relation=call.relation)
print(verdict.refused or verdict.failure or "right")
if verdict.comparison is not None:
    at = verdict.comparison.worst()
    print(f"got {float(verdict.comparison.got[at])}, expected {float(verdict.comparison.expected[at])}")
damage = runner.damage() if untouched else None
if damage is not None:
    print(f"the heap of this process is damaged: {damage}", flush=True)
sys.exit(0 if verdict.ok and damage is None else 1)
"""
)


def needed(finding: Finding) -> bool:
    """Whether a plain script would say that a finding is right."""
    return bool(finding.prelude) or finding.message.startswith(DAMAGED)


def parts(finding: Finding) -> dict[str, str]:
    """What fills the text, apart from its head."""
    calls = "".join(f"{call!r},\n" for call in finding.prelude)
    return {
        "lane_name": finding.lane,
        "target": finding.target,
        "before": textwrap.indent(calls, "    ").rstrip(),
        "call": repr(finding.call),
    }
