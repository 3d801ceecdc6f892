"""The fixed text of repro scripts, as string.Template sources."""

HEAD = '''\
"""$title

$message

Found $found with diffgdn; versions: $versions.
    python $id.py             exits 1 while the kernel is wrong, 0 once it is right
    diffgdn replay $id.json   the same case under every check

$case
"""
'''

ALONE = (
    HEAD.replace(
        "$case\n",
        "$case\n\nThe case, its tensors and the call stand at the end, below what all scripts share.\n",
    )
    + """
from __future__ import annotations

import os
import sys

$lane

$imports

$kernel

$shared


# The case.
nan, inf = float("nan"), float("inf")
$constants

# The arguments, as they lie in memory: values, first byte, strides.
$arguments

# What should come out: the recurrence in float64, a sequence at a time.
$recurrence

# What the call leaves behind: where it lies, and with which rows of which truth it is compared.
results = (
$results
)
# What the roundings that the kernel may make do to each, root mean square; $limit times that passes.
noise = {
$noise
}


def call():
    return kernel(
        $call
    )


right = judge(memory, call, $names, results, truth, noise, $unrounded, twice=$twice)
print("right" if right else "WRONG")
sys.exit(0 if right else 1)
"""
)

ON_GPU = 'os.environ.pop("TRITON_INTERPRET", None)  # found on a GPU'
INTERPRETED = """\
os.environ["TRITON_INTERPRET"] = "1"  # Triton's interpreter, where it was found: no GPU needed
try:  # diffgdn mends what is wrong in some versions of it; without diffgdn it runs as it is
    from diffgdn import interpreter

    interpreter.repair()
except ImportError:
    pass"""

_THROUGH = (
    HEAD
    + """
import sys

from diffgdn import $module, lane, targets
from diffgdn.case import Case, Edit, Gates, Only, Pool, Values  # noqa: F401 (the case's repr may need each)

lane.enter("$lane_name")
case = $case
verdict = $question
print(verdict.refused or verdict.failure or "right")
if verdict.comparison is not None:
    at = verdict.comparison.worst()
    print(f"got {float(verdict.comparison.got[at])}, expected {float(verdict.comparison.expected[at])}")
sys.exit(0 if verdict.ok else 1)
"""
)
THROUGH = _THROUGH.replace("$module", "execute").replace(
    "$question", 'execute.run(case, targets.get("$target"), "$lane_name")'
)
# A relation ties several calls together: which, diffgdn.verdict.relations.transforms says.
RELATION = _THROUGH.replace("import $module, lane, targets", "import lane, relations, targets").replace(
    "$question", 'relations.run(case, targets.get("$target"), "$lane_name", "$relation")'
)
# What a serving loop did: several calls over one pool.
TRACE = (
    HEAD
    + """
import sys

from diffgdn import lane, targets
from diffgdn.trace import Step, Trace

lane.enter("$lane_name")

from diffgdn.serving.play import play  # noqa: E402 (imports torch)

$steps
trace = $trace
played = play(trace, targets.get("$target"), "$lane_name")
print(played.refused or played.failure or "right")
sys.exit(0 if played.failure is None else 1)
"""
)
