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
    HEAD
    + '''
import base64
import os
import sys
import zlib

$lane

import numpy as np
import torch

$kernel

nan, inf = float("nan"), float("inf")
GUARD = 512  # elements of NaN before and after every tensor that the kernel gets
memory = {}  # what the kernel may touch: name -> (the allocation, the view of it that is passed)


def unpack(text, kind, dtype, shape):
    """A tensor from base64 of zlib of its bits."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.dtype(kind).newbyteorder("<"))
    return torch.from_numpy(bits.astype(kind)).view(dtype).view(shape)


def place(name, values, strides, extent):
    """values on the device with these strides, amid NaN (amid a far index, for integers)."""
    fill = nan if values.is_floating_point() else 2145091547
    storage = torch.full((GUARD + extent + GUARD,), fill, dtype=values.dtype, device=DEVICE)
    view = storage.as_strided(values.shape, strides, GUARD)
    view.copy_(values)
    memory[name] = storage, view
    return view


def compare(name, got, expected, bound):
    """Print the worst element and its neighbours. Whether all are within their bound."""
    got, expected = got.detach().cpu().double(), expected.reshape(got.shape)
    error, bound = (got - expected).abs(), bound.double().reshape(got.shape)
    right = error <= bound  # false for NaN
    print(f"{name}: {int((~right).sum())} of {right.numel()} elements are wrong")
    if right.all():
        return True
    ratio = torch.where(right, 0.0, (error / bound).nan_to_num(nan=inf, posinf=inf))
    at = tuple(int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape))
    first = max(at[-1] - 3, 0)
    near = at[:-1] + (slice(first, first + 7),)
    print(f"  worst at {list(at)}: error {error[at]:.3g}, bound {bound[at]:.3g}; its row from {first} on:")
    print("    got     ", *(f"{x:<12.6g}" for x in got[near].tolist()))
    print("    expected", *(f"{x:<12.6g}" for x in expected[near].tolist()))
    return False


# The case.
$constants

# The arguments, as they lie in memory.
$arguments

# What should come out: the recurrence in float64, a sequence at a time.
$recurrence

# The call. Memory that torch allocates inside it starts as NaN, so that an element left unwritten shows.
before = {name: storage.clone() for name, (storage, _) in memory.items()}
torch.use_deterministic_algorithms(True, warn_only=True)


def call():
    return kernel(
        $call
    )


try:
    returned = call()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
except Exception as error:
    print(f"the kernel raised {type(error).__name__}: {error}")
    sys.exit(1)

# What came out.
ok = True
$results

# What must not have changed.
$writes
for name, (storage, _) in memory.items():
    if not torch.equal(storage.view(torch.uint8), before[name].view(torch.uint8)):
        changed = (storage.view(torch.int16) != before[name].view(torch.int16)).nonzero().flatten()
        element = int(changed[0]) * 2 // storage.element_size() - GUARD
        print(f"{name}: memory at element {element} was changed ({len(changed)} 16-bit words)")
        ok = False
$again
print("right" if ok else "WRONG")
sys.exit(0 if ok else 1)
'''
)

AGAIN = """
# The same call from the same memory must give the same bits.
first = [x.clone() for x in (returned if isinstance(returned, tuple) else (returned,)) if x is not None]
after = {name: storage.clone() for name, (storage, _) in memory.items()}
for name, (storage, _) in memory.items():
    storage.copy_(at_first[name])
second = call()
second = [x for x in (second if isinstance(second, tuple) else (second,)) if x is not None]
pairs = [*zip(first, second), *((after[name], storage) for name, (storage, _) in memory.items())]
for one, other in pairs:
    if not torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)):
        print("the same call twice gave different bits")
        ok = False
"""

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
# A relation ties several calls together: which, diffgdn.relations.related says.
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
