"""gdn.serving on eager: slot_changed

an example: nothing is wrong

Found 2026-11-27 with diffgdn; versions: diffgdn 0.1.0.
    python eager-gdn.serving-slot_changed-15f42f9f19b9.py             exits 1 while the kernel is wrong, 0 once it is right
    diffgdn replay eager-gdn.serving-slot_changed-15f42f9f19b9.json   the same case under every check

Case(op='gdn.decode', K=4, V=4, pool=Pool(slots=2), gates=Gates(beta='half'), values=Values(law='uniform', seed=2001))
"""

import sys

from diffgdn import lane, targets
from diffgdn.trace import Step, Trace

lane.enter("interpret")

from diffgdn.serving.play import play  # noqa: E402 (imports torch)

# 0: arrive 0
# 1: decode 0
trace = Trace(
    family="gdn",
    steps=(Step(act="arrive", requests=(0,)), Step(act="decode", requests=(0,))),
    slots=2,
    law="uniform",
    seed=5,
)
played = play(trace, targets.get("eager"), "interpret")
print(played.refused or played.failure or "right")
sys.exit(0 if played.failure is None else 1)
