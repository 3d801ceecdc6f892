"""Mutants that operators make are found by the ordinary campaign, several at a time."""

from __future__ import annotations

from pathlib import Path

from diffgdn.mutants.generated import generated
from diffgdn.mutants.hunts import Terms, hunts

# One of a prefill, one of the recurrent kernel.
QUICK = ("drop-scale@output.output_kernel.1", "double-decay@recurrent_steps.decayed.1")


def test_two_of_them_are_found_side_by_side(tmp_path: Path) -> None:
    made = generated()
    terms = Terms("interpret", seed=1, max_time=60.0, again=0.0, jobs=2)
    found = {
        one.kill.mutant: one for one in hunts([made[name] for name in QUICK], terms, tmp_path, frozenset())
    }
    assert set(found) == set(QUICK)
    for name, one in found.items():
        assert one.final
        assert one.kill.found, one.kill.problem
        assert one.kill.kind in ("beyond_bound", "not_exact")
        assert one.kill.operation in made[name].operations
