"""gdn.decode on eager: beyond_bound

an example: nothing is wrong

Found 2026-11-27 with diffgdn; versions: diffgdn 0.1.0.
    python eager-gdn.decode-beyond_bound-after_5854a2b6-8817dbd92193.py             exits 1 while the kernel is wrong, 0 once it is right
    diffgdn replay eager-gdn.decode-beyond_bound-after_5854a2b6-8817dbd92193.json   the same case under every check

Case(op='gdn.decode', K=2, V=2)
"""

import sys

from diffgdn import lane
from diffgdn.case import Case, Edit, Gates, Only, Pool, Values  # noqa: F401 (a case's repr may need each)
from diffgdn.prelude import Call
from diffgdn.trace import Step, Trace  # noqa: F401

lane.enter("interpret")

from diffgdn.isolate.here import Here  # noqa: E402 (imports torch)

runner = Here("interpret")
untouched = runner.damage() is None  # whether the heap of this process is one that can be looked at

# What has to run before it, in this process.
before = [
    Call(subject=Case(op="gdn.decode", K=2, V=2)),
]
for call in before:
    runner.run(call.subject, "eager", relation=call.relation)

call = Call(subject=Case(op="gdn.decode", K=2, V=2))
verdict = runner.run(call.subject, "eager", relation=call.relation)
print(verdict.refused or verdict.failure or "right")
if verdict.comparison is not None:
    at = verdict.comparison.worst()
    print(f"got {float(verdict.comparison.got[at])}, expected {float(verdict.comparison.expected[at])}")
damage = runner.damage() if untouched else None
if damage is not None:
    print(f"the heap of this process is damaged: {damage}", flush=True)
sys.exit(0 if verdict.ok and damage is None else 1)
