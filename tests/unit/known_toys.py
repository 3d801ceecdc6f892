"""A target with ten planted faults, for tests of known failures: two in each of five operations.

Worker processes load it as `tests/unit/known_toys.py:ten`. The environment mends one of the faults, or plants
an eleventh, so that the target keeps its name.
"""

import os

import torch

from diffgdn.cases.case import Case
from diffgdn.selftest.faulty_target import Planted

OPERATIONS = ("gdn.decode", "kda.decode", "gdn.recurrent", "kda.recurrent", "gdn.update")
MENDED, PLANTED = "DIFFGDN_TEST_MENDED", "DIFFGDN_TEST_PLANTED"  # an operation each


def off(case: Case, results: dict[str, torch.Tensor]) -> None:
    """Raise where tensors have gaps; be wrong with l2norm, unless that is mended; if the eleventh is planted,
    be wrong with more value heads than query heads too."""
    if case.view == "gapped":
        raise RuntimeError("no gaps today")
    if "o" not in results:
        return
    wrong = case.l2norm and os.environ.get(MENDED) != case.op
    if wrong or (os.environ.get(PLANTED) == case.op and case.HV > case.H):
        results["o"].view(-1)[0] += 1


ten = Planted("ten", off, lambda case: case.total > 0, "eager", OPERATIONS)
