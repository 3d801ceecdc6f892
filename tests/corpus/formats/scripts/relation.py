"""gdn.extend on eager: relation_broken.split

an example: nothing is wrong

Found 2026-11-27 with diffgdn; versions: diffgdn 0.1.0.
    python eager-gdn.extend-relation_broken.split-e0ef3267428c.py             exits 1 while the kernel is wrong, 0 once it is right
    diffgdn replay eager-gdn.extend-relation_broken.split-e0ef3267428c.json   the same case under every check

Case(op='gdn.extend', lens=(3,), K=2, V=2)
"""

import sys

from diffgdn import lane, relations, targets
from diffgdn.case import Case, Edit, Gates, Only, Pool, Values  # noqa: F401 (the case's repr may need each)

lane.enter("interpret")
case = Case(op="gdn.extend", lens=(3,), K=2, V=2)
verdict = relations.run(case, targets.get("eager"), "interpret", "split")
print(verdict.refused or verdict.failure or "right")
if verdict.comparison is not None:
    at = verdict.comparison.worst()
    print(f"got {float(verdict.comparison.got[at])}, expected {float(verdict.comparison.expected[at])}")
sys.exit(0 if verdict.ok else 1)
