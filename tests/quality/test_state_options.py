"""Slips that an option of states alone can show: each, put into our own kernels, is found and shrinks to the
smallest case that has it.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from diffgdn import kernels
from diffgdn.cases.case import Case, Pool
from diffgdn.cases.state_options import StateOptions
from diffgdn.findings import bucket
from diffgdn.search import by_field
from diffgdn.strategies import cases
from diffgdn.targets import FunctionTarget, calls
from diffgdn.verdict import execute
from diffgdn.verdict.failures import Verdict

EXAMPLES = 800  # a campaign of a minute on two cores runs as many of three operations
TOKEN_SLOTS = StateOptions(slots=((0, 1),), accepted=(2,))


@dataclass(frozen=True)
class Slip:
    """A line of our kernels, changed; and what it shrinks to: the options, other fields, tensor and kind."""

    op: str
    file: str
    line: str
    slip: str
    smallest: Case
    kind: str
    tensor: str


def smallest(op: str, options: StateOptions, pool: Pool | None = None, **fields: Any) -> Case:
    """The plainest case with these options."""
    if op.endswith("extend"):
        fields.setdefault("chunk_size", 16)
    return Case(op, pool=pool or Pool(), state_options=options, **fields)


STEPS = Pool(steps=1, buffer=1, rows=(0,))
SLIPS = {
    "a buffer switches the state's update off": Slip(
        "gdn.update",
        "pool_calls.py",
        "ht=None if disable_state_update or token_slots else pool",
        "ht=None if disable_state_update or token_slots or buffer is not None else pool",
        smallest("gdn.update", StateOptions(step_update=True), STEPS),
        "beyond_bound",
        "state",
    ),
    "verify never updates the state": Slip(
        "kda.verify",
        "pool_calls.py",
        "ht=None if disable_state_update or token_slots else pool",
        "ht=None if disable_state_update or token_slots or buffer is not None else pool",
        smallest("kda.verify", StateOptions(step_update=True), STEPS),
        "beyond_bound",
        "state",
    ),
    "the start is the first slot, however many steps were accepted": Slip(
        "gdn.verify",
        "recurrent.py",
        "tl.load(accepted + i_n * stride_accepted).to(tl.int64) - 1",
        "tl.load(accepted + i_n * stride_accepted).to(tl.int64) * 0",
        smallest("gdn.verify", TOKEN_SLOTS, Pool(2, (1,))),
        "poison_leaked",
        "o",
    ),
    "each step is stored to the first slot": Slip(
        "kda.update",
        "recurrent_steps.py",
        "tl.load(p_slots + i_t * step_slots)",
        "tl.load(p_slots + 0 * step_slots)",
        smallest("kda.update", StateOptions(slots=((0, 1),), accepted=(1,)), Pool(2, (0,)), lens=(2,)),
        "never_written",
        "steps",
    ),
    "rows that are slots are taken for the sequences' numbers": Slip(
        "gdn.verify",
        "pool_calls.py",
        "cache_indices=indices if buffer_indices is None else buffer_indices",
        "cache_indices=None if buffer is None else torch.arange(N).clamp(max=len(buffer) - 1)"
        " if buffer_indices is None else buffer_indices",
        smallest("gdn.verify", StateOptions(step_rows="slots"), Pool(2, (1,), steps=1, buffer=2, rows=(1,))),
        "never_written",
        "steps",
    ),
    "the buffer's pitch is the number of steps asked for": Slip(
        "kda.verify",
        "recurrent_launch.py",
        "strides(cache, (0, 1, 2, 3))),",
        "(cache_steps * cache.stride(1), *strides(cache, (1, 2, 3))) if cache is not None else (0,) * 4),",
        smallest(
            "kda.verify", StateOptions(cache_steps="longest"), Pool(steps=2, buffer=2, rows=(1,)), lens=(1,)
        ),
        "never_written",
        "steps",
    ),
    "no number of steps is one step": Slip(
        "gdn.verify",
        "pool_calls.py",
        "    steps = buffer.shape[1]\n",
        "    steps = buffer.shape[1] if cache_steps is not None else 1\n",
        smallest(
            "gdn.verify", StateOptions(cache_steps="none"), Pool(steps=2, buffer=1, rows=(0,)), lens=(2,)
        ),
        "raised",
        "",
    ),
    "an output that is not wanted goes to v": Slip(
        "kda.update",
        "pool_calls.py",
        "o = None if disable_output_calculation else",
        "o = v if disable_output_calculation else",
        smallest("kda.update", StateOptions(output=False)),
        "input_changed",
        "v",
    ),
    "without the output there is no final state": Slip(
        "gdn.update",
        "pool_calls.py",
        "    o = None if disable_output_calculation else q.new_empty(v.shape)\n",
        "    o = None if disable_output_calculation else q.new_empty(v.shape)\n"
        "    options['ht'] = None if disable_output_calculation else options['ht']\n",
        smallest("gdn.update", StateOptions(output=False)),
        "beyond_bound",
        "state",
    ),
    "without slots every sequence is in the first": Slip(
        "gdn.extend",
        "chunk/state.py",
        "    slot = i_n\n",
        "    slot = i_n * 0\n",
        smallest("gdn.extend", StateOptions(indices=False), Pool(2, (0, 1)), lens=(1, 1)),
        "beyond_bound",
        "state",
    ),
    "a fresh request reads what its slot holds": Slip(
        "kda.extend",
        "chunk/state.py",
        "(tl.load(p_has_initial + i_n * f_s) != 0)",
        "(tl.load(p_has_initial + i_n * f_s) >= 0)",
        smallest("kda.extend", StateOptions(initial=(False,))),
        "beyond_bound",
        "o",
    ),
    "a fresh request's state is not stored": Slip(
        "gdn.extend",
        "chunk/state.py",
        "        if (slot >= 0) & (length > 0):",
        "        if starts & (length > 0):",
        smallest("gdn.extend", StateOptions(initial=(False,))),
        "beyond_bound",
        "state",
    ),
    "the chunk after the tracked one is copied out": Slip(
        "kda.extend",
        "chunk/state.py",
        "if i_c == i_track:",
        "if i_c == i_track + 1:",
        smallest("kda.extend", StateOptions(track=(0,))),
        "never_written",
        "tracked",
    ),
    "a tracked state is rounded": Slip(
        "kda.extend",
        "chunk/state.py",
        "o_track, b_s, mask=m_kv)",
        "o_track, b_h.to(tl.float32), mask=m_kv)",
        smallest("kda.extend", StateOptions(track=(0,)), dtype="bfloat16"),
        "beyond_bound",
        "tracked",
    ),
}


# Where a shrink may end as well: which case is drawn first depends on Python's and Hypothesis' versions.
OTHERS = {
    "a fresh request reads what its slot holds": (
        (smallest("kda.extend", StateOptions(initial=(False,)), lens=(0,)), "final"),
        # With K = 1 the state forgets it.
        (smallest("kda.extend", StateOptions(initial=(False,), track=(0,))), "tracked"),
    ),
}


@pytest.fixture
def mutated(tmp_path: Path) -> Callable[[Slip], FunctionTarget]:
    """Our kernels from a copy of their source, in which one line is another."""

    def make(slip: Slip) -> FunctionTarget:
        package = f"slipped_{tmp_path.name}"
        folder = tmp_path / package
        shutil.copytree(Path(kernels.__file__).parent, folder)
        source = (folder / slip.file).read_text()
        assert source.count(slip.line) == 1
        (folder / slip.file).write_text(source.replace(slip.line, slip.slip))
        sys.path.insert(0, str(tmp_path))
        try:
            module = importlib.import_module(package)
        finally:
            sys.path.remove(str(tmp_path))
        return FunctionTarget("slipped", {slip.op: getattr(module, calls.FUNCTIONS[slip.op])})

    return make


class _Seen(BaseException):
    """Leaves Hypothesis with the first failure."""


def shows(slip: Slip, verdict: Verdict) -> bool:
    """Whether a case fails as the slip is known to."""
    failure = verdict.failure
    return failure is not None and bucket.fault(failure.kind) == bucket.fault(slip.kind)


def first_failure(slip: Slip, run: Callable[[Case], Verdict]) -> Case | None:
    """Draw cases as a campaign does, until one fails."""

    @seed(3)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(slip.op))
    def look(case: Case) -> None:
        if shows(slip, run(case)):
            raise _Seen(case)

    try:
        look()
    except _Seen as seen:
        case: Case = seen.args[0]
        return case
    return None


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_found_and_shrinks(name: str, mutated: Callable[[Slip], FunctionTarget]) -> None:
    slip = SLIPS[name]
    target = mutated(slip)

    def run(case: Case) -> Verdict:
        if case.state_options == StateOptions():  # has nothing of it, as is seen below
            return Verdict(case, "slipped", "interpret")
        return execute.run(case, target, "interpret")

    found = first_failure(slip, run)
    assert found is not None
    shrunk = by_field.simplest(found, lambda case: shows(slip, run(case)))
    failure = run(shrunk).failure
    # Which values show it, and in which K, is the law's; the rest is the slip's.
    like = slip.smallest
    shown = replace(shrunk, values=like.values, gates=like.gates, K=like.K, only=(), edits=())
    assert failure is not None
    assert (shown, failure.tensor) in ((slip.smallest, slip.tensor or None), *OTHERS.get(name, ()))


@pytest.mark.parametrize("name", SLIPS)
def test_without_the_option_the_slip_does_not_show(
    name: str, mutated: Callable[[Slip], FunctionTarget]
) -> None:
    slip = SLIPS[name]
    target, case = mutated(slip), slip.smallest
    pool = replace(case.pool, indices=tuple(range(len(case.lens))))
    if case.operation.keeps_steps and not pool.steps:
        pool = replace(pool, steps=max(case.lens), buffer=1, rows=(0,))
    plain = replace(case, state_options=StateOptions(), pool=pool)
    assert execute.run(plain, target, "interpret").ok
