"""gdn.decode on eager: beyond_bound

an example: nothing is wrong

Found 2026-11-27 with diffgdn; versions: diffgdn 0.1.0.
    python eager-gdn.decode-beyond_bound-8817dbd92193.py             exits 1 while the kernel is wrong, 0 once it is right
    diffgdn replay eager-gdn.decode-beyond_bound-8817dbd92193.json   the same case under every check

Case(op='gdn.decode', K=2, V=2)
"""

import sys

from diffgdn import execute, lane, targets
from diffgdn.case import Case, Edit, Gates, Only, Pool, Values  # noqa: F401 (the case's repr may need each)

lane.enter("interpret")
case = Case(op="gdn.decode", K=2, V=2)
verdict = execute.run(case, targets.get("eager"), "interpret")
print(verdict.refused or verdict.failure or "right")
if verdict.comparison is not None:
    at = verdict.comparison.worst()
    print(f"got {float(verdict.comparison.got[at])}, expected {float(verdict.comparison.expected[at])}")
sys.exit(0 if verdict.ok else 1)
