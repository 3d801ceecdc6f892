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

$backend

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


$calls


right = judge(memory, call, $names, results, truth, noise, $unrounded, again=$again$asked)
print("right" if right else "WRONG")
sys.exit(0 if right else 1)
"""
)

CALL = """\
def call():
    return kernel(
        $call
    )"""

# In the interpreter, of a case in another order than ascending. Without diffgdn it is the same order.
ORDERED_CALL = """\
def call(backwards=False):
    with program_order($order, $seed, backwards):
        return kernel(
            $call
        )


def call_backwards():
    return call(backwards=True)"""

ON_GPU = 'os.environ.pop("TRITON_INTERPRET", None)  # found on a GPU'
INTERPRETED = """\
os.environ["TRITON_INTERPRET"] = "1"  # Triton's interpreter, where it was found: no GPU needed
try:  # diffgdn mends what is wrong in some versions of it; without diffgdn it runs as it is
    from diffgdn.backend import interpreter

    interpreter.repair()
except ImportError:
    pass"""

# Where no one call of a function shows the finding: a target of another make, a relation between calls, a
# serving loop, or a failure that takes other calls before it.
THROUGH = (
    HEAD
    + """
import sys

from diffgdn.scripts import (  # noqa: F401
    Call,
    Case,
    Edit,
    Form,
    Gates,
    Lay,
    Only,
    Operands,
    Pool,
    Step,
    Trace,
    Values,
    ask,
)

$steps
call = $call
# What has to run before it, in this process.
before = [$before]
sys.exit(ask(call, target="$target", backend="$backend_name", before=before))
"""
)
