"""Probes of kernels that know nothing of this project agree with what reading them had said they support."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffgdn import targets
from diffgdn.probe.fitted_promises import fit
from diffgdn.probe.matrix import Config, probe

pytestmark = pytest.mark.explores

HERE = Path(__file__).parent
# Targets, an operation, and axes on which they take more than their authors say.
WIDER = {
    ("forty_lines.py:decode", "gdn.decode"): {"mixed_qkv"},
    ("vllm_style.py:packed_decode", "gdn.packed_decode"): set(),
    ("fla_style.py:recurrent", "gdn.recurrent"): {"mixed_qkv"},
}


@pytest.mark.parametrize(("target", "op"), WIDER)
def test_the_promises_that_fit_are_those_that_reading_the_kernel_gave(
    target: str, op: str, diffgdn_backend: str
) -> None:
    if diffgdn_backend == "gpu":
        pytest.skip("each feature would be compiled")
    matrix = probe(Config(str(HERE / target), diffgdn_backend, (op,), workers=2, max_seconds=0.0))
    [row] = matrix.rows
    assert [cell for cell in matrix.every if cell.breaks_promise] == []
    promised = [cell for cell in row.cells if cell.promised and cell.status != "not reached"]
    assert {cell.status for cell in promised} == {"right"}
    assert len(promised) > len(row.cells) / 2
    declared = targets.promises(str(HERE / target)).of(op)
    fitted = fit(matrix).promises(strict=True).of(op)
    asked = {cell.axis for cell in row.cells}
    assert {axis for axis in asked if getattr(fitted, axis) != getattr(declared, axis)} == WIDER[target, op]
