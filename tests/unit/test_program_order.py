"""The order in which the interpreter runs the programs of a grid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffgdn.backend import interpreter, selection

if selection.detect() != "interpret":
    pytest.skip("on a GPU programs run in no order", allow_module_level=True)
selection.enter("interpret")

import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from torch import Tensor  # noqa: E402

from diffgdn import targets  # noqa: E402
from diffgdn.backend.interpreter.program_order import ordered, program_order  # noqa: E402
from diffgdn.cases.case import Case, Pool, Values  # noqa: E402
from diffgdn.cases.prelude import Call  # noqa: E402
from diffgdn.cases.trace import Trace  # noqa: E402
from diffgdn.cases.trace_steps import Step  # noqa: E402
from diffgdn.findings import repro  # noqa: E402
from diffgdn.findings.finding import Finding  # noqa: E402
from diffgdn.search import moves  # noqa: E402
from diffgdn.verdict import execute, relations  # noqa: E402
from diffgdn.verdict.serving.play import play  # noqa: E402

SEED = 7
SHUFFLED = [(0, 0, 0), (1, 1, 0), (1, 2, 0), (1, 0, 0), (0, 1, 0), (0, 2, 0)]  # of 2 by 3, seed 5
GRIDS = ((5,), (3, 2), (2, 3, 2))
ORDERED = Case("gdn.decode", lens=(1, 1), pool=Pool(2, (0, 1)), order="descending")


@triton.jit
def note_turn(turn_ptr, seen_ptr):  # type: ignore[no-untyped-def]
    """Each program notes how many have run before it."""
    sizes = tl.num_programs(1), tl.num_programs(2)
    place = (tl.program_id(0) * sizes[0] + tl.program_id(1)) * sizes[1] + tl.program_id(2)
    turn = tl.load(turn_ptr)
    tl.store(seen_ptr + place, turn)
    tl.store(turn_ptr, turn + 1)


tuned = triton.autotune([triton.Config({}, num_warps=2)], key=[])(note_turn)
guessed = triton.heuristics({})(note_turn)


def turns(grid: tuple[int, ...], kernel: Any = note_turn) -> list[int]:
    """Numbers of the programs in the order in which they ran."""
    interpreter.repair()
    seen = torch.full((torch.Size(grid).numel(),), -1, dtype=torch.int32)
    kernel[grid](torch.zeros(1, dtype=torch.int32), seen)
    return [int(n) for n in seen.argsort()]


@pytest.mark.parametrize("grid", GRIDS)
def test_programs_run_in_the_order_asked_for(grid: tuple[int, ...]) -> None:
    ascending = list(range(torch.Size(grid).numel()))
    with program_order("ascending"):
        assert turns(grid) == ascending
    with program_order("descending"):
        assert turns(grid) == ascending[::-1]
    with program_order("shuffled", SEED):
        shuffled = turns(grid)
        assert turns(grid) == shuffled  # of the grid and the seed, not of the launch
    assert sorted(shuffled) == ascending
    assert shuffled not in (ascending, ascending[::-1])
    with program_order("shuffled", SEED, backwards=True):
        assert turns(grid) == shuffled[::-1]
    with program_order("shuffled", SEED + 1):
        assert turns(grid) != shuffled
    assert turns(grid) == ascending


@pytest.mark.parametrize("kernel", [tuned, guessed], ids=["autotuned", "with heuristics"])
def test_launches_behind_a_decorator_are_in_order_too(kernel: Any) -> None:
    with program_order("descending"):
        assert turns((3,), kernel) == [2, 1, 0]


def test_the_order_ends_with_an_error() -> None:
    with pytest.raises(KeyError), program_order("descending"):
        raise KeyError
    assert turns((3,)) == [0, 1, 2]


def test_a_shuffle_is_the_same_everywhere() -> None:
    """Findings are replayed by it: a change of it is a new format version."""
    assert ordered((2, 3, 1), "shuffled", 5, False) == SHUFFLED


class Watched:
    """A target that notes the order in which programs ran in each of its calls."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self._right = targets.get("eager")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._right, name)

    def run(self, case: Case, arguments: Any) -> dict[str, Tensor]:
        self.seen.append(turns((3,)))
        return self._right.run(case, arguments)


UP, DOWN = [0, 1, 2], [2, 1, 0]


def test_a_case_runs_in_its_order_and_then_in_the_opposite_one() -> None:
    watched = Watched()
    assert execute.run(ORDERED, watched, "interpret").ok
    assert watched.seen == [DOWN, UP]
    assert turns((3,)) == UP


def test_an_ascending_case_is_run_as_it_was_before_there_was_an_order() -> None:
    for seed in range(20):
        watched, case = Watched(), replace(ORDERED, order="ascending", values=Values(seed=seed))
        assert execute.run(case, watched, "interpret").ok
        assert watched.seen == [UP] * (2 if int(case.id[0], 16) % 4 == 0 else 1)


def test_a_relation_is_asked_in_the_cases_order() -> None:
    watched = Watched()
    assert relations.run(ORDERED, watched, "interpret", "twice").ok
    assert watched.seen == [DOWN, UP]


def test_a_loop_is_served_in_its_order() -> None:
    watched = Watched()
    trace = Trace(
        "gdn", (Step("arrive", (0,)), Step("decode", (0,)), Step("decode", (0,))), order="descending"
    )
    assert play(trace, watched, "interpret").failure is None
    assert watched.seen == [DOWN, DOWN]


ORDERLY = '''
import torch, triton, triton.language as tl
import diffgdn
from diffgdn import targets

@triton.jit
def sum_kernel(x_ptr, o_ptr):
    part = tl.load(x_ptr + tl.program_id(0))
    tl.store(o_ptr, part if tl.program_id(0) == 0 else part + tl.load(o_ptr))

@diffgdn.target("gdn.recurrent")
def first_adds(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, cu_seqlens=None,
               use_qk_l2norm_in_kernel=False):
    """One token, one head, no decay: o = scale * (S q + beta (v - S k) k.q), the last product by programs."""
    S = initial_state[0, 0].double()
    qs, ks, vs = (x.reshape(-1).double() for x in (q, k, v))
    S = S + float(beta) * torch.outer(vs - S @ ks, ks)
    out = torch.empty(len(vs), dtype=torch.float32)
    for n in range(len(vs)):
        sum_kernel[(len(qs),)]((S[n] * qs).float(), out[n:])
    o = (out * (len(qs) ** -0.5 if scale is None else scale)).reshape(v.shape).to(v.dtype)
    return o, S.float().reshape(1, 1, *S.shape) if output_final_state else None
'''


@pytest.mark.parametrize("alone", [False, True], ids=["with diffgdn", "without"])
def test_a_script_runs_programs_in_the_order_of_its_finding(
    alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orderly.py").write_text(ORDERLY)
    name = f"{tmp_path / 'orderly.py'}:first_adds"
    shown = {}
    for order in ("ascending", "descending"):
        case = Case("gdn.recurrent", pool=Pool(indices=()), K=4, V=4, values=Values("uniform"), order=order)
        verdict = execute.run(case, targets.get(name), "interpret")
        assert verdict.ok == (order == "ascending")
        kind = "beyond_bound" if verdict.failure is None else verdict.failure.kind
        finding = Finding(case=case, target=name, backend="interpret", kind=kind, message="order")
        script = tmp_path / f"{order}.py"
        text = repro.script(finding)
        if alone:
            text = text.replace("from diffgdn.backend import interpreter", "raise ImportError")
        script.write_text(text)
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=os.environ)
        shown[order] = done.returncode, done.stdout.splitlines()[-1:]
    assert shown == {"ascending": (0, ["right"]), "descending": (1, ["WRONG"])}, done.stderr


def test_what_fails_in_any_order_shrinks_to_ascending() -> None:
    shuffled = replace(ORDERED, order="shuffled")
    assert [case and case.order for case in moves.order(shuffled)] == ["ascending", "descending"]
    assert list(moves.order(replace(ORDERED, order="ascending"))) == []


def test_a_finding_in_another_order_is_read_back() -> None:
    told = json.loads(json.dumps(Call(ORDERED).to_json()))
    assert told["case"]["format_version"] == 3
    assert Call.from_json(told) == Call(ORDERED)


@pytest.mark.parametrize("make", [lambda: replace(ORDERED, order="random"), lambda: Trace("gdn", order="up")])
def test_an_unknown_order_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="order: expected one of ascending, descending, shuffled"):
        make()
