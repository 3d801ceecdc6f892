"""What each mutant shrinks to: the smallest case that is known, or one step from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffgdn import targets
from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.cases.sparsity import Only
from diffgdn.mutants import hunt
from diffgdn.mutants.catalogue import MUTANTS
from diffgdn.mutants.known_smallest import (
    FURTHER,
    KNOWN_SMALLEST,
    ONE_STEP,
    OTHER_WAYS,
    SMALLEST,
    grade,
    least,
    marks,
    nearest,
    within_twice,
)
from diffgdn.mutants.mutant_targets import name_of
from diffgdn.runner.in_child import InChild
from diffgdn.search import by_field
from diffgdn.verdict import execute

# Made small every time: these, from cases as a campaign finds them, which do no harm to this process.
BUSY = {
    "glast-wrong-row": Case(
        "gdn.extend",
        lens=(0, 35, 20),
        HV=2,
        K=17,
        V=8,
        dtype="float16",
        pool=Pool(slots=5, indices=(4, 0, -1), pitch=64),
        gates=Gates(law="uniform", beta="uniform", raw=True),
        values=Values(law="normal", seed=448, v_exponent=-3),
        tail=1,
        view="packed",
        l2norm=True,
        scale=0.5,
        chunk_size=32,
        boundary=True,
    ),
    "ab-token-stride": Case(
        "gdn.recurrent",
        lens=(3, 0, 2),
        H=2,
        HV=6,
        K=31,
        V=5,
        dtype="bfloat16",
        pool=Pool(indices=()),
        gates=Gates(law="uniform", beta="uniform"),
        values=Values(law="normal", seed=85),
        view="gapped",
        l2norm=True,
        final=False,
    ),
    "pool-copied": Case(
        "kda.decode",
        lens=(2, 1, 1),
        H=2,
        HV=4,
        K=20,
        V=33,
        pool=Pool(slots=7, indices=(6, 2, -1), pitch=48, dtype="float16"),
        gates=Gates(law="uniform", beta="uniform"),
        values=Values(law="normal", seed=7),
        l2norm=True,
        scale=2.0,
    ),
    "verify-state-advanced": Case(
        "kda.verify",
        lens=(3, 4),
        HV=3,
        K=12,
        V=24,
        dtype="float16",
        pool=Pool(slots=4, indices=(3, 1), steps=5, buffer=3, rows=(2, 0)),
        gates=Gates(law="uniform", beta="uniform"),
        values=Values(law="normal", seed=3),
        l2norm=True,
    ),
}
# Looked for by a whole campaign, at night; `diffgdn mutants` does so for all.
HUNTED = ("qk-scale-twice", "output-aliases-v", "kkt-left-empty", "default-buffer-aliased")
SECONDS = 180.0  # to find one; a shrink takes at most a sixth of it
# Not made busier and small again, for whether a case fails depends on what the process did before it, ...
REMEMBERS = ("cache-by-address", "cache-by-identity", "compile-key-lacks-dtype", "autotune-on-live-pool")
# ... or a case may end the process: each try would cost one.
CRASHES = (
    "chunk-ids-wrong-source",
    "index-int32",
    "pad-slot-unguarded-extend",
    "scratch-by-tokens",
    "token-offset-int32",
)


def test_every_mutant_has_a_smallest_case() -> None:
    assert set(KNOWN_SMALLEST) == set(MUTANTS)


Kind = Callable[[Case], str | None]  # of failure of a case, None if it passes


def kind_here(name: str) -> Kind:
    """Run cases on a mutant in this process."""
    target = targets.get(name_of(name))

    def kind(case: Case) -> str | None:
        failure = execute.run(case, target, "interpret").failure
        return None if failure is None else failure.kind

    return kind


def kind_in(child: InChild, name: str) -> Kind:
    """Run cases on a mutant in a child, which may die."""

    def kind(case: Case) -> str | None:
        failure = child.run(case, name_of(name)).failure
        return None if failure is None else failure.kind

    return kind


def shrunk(case: Case, kind: Kind) -> Case:
    """What the search by field makes of a case that fails, given all the time it takes."""
    wanted = kind(case)
    assert wanted is not None
    return by_field.simplest(case, lambda one: kind(one) == wanted)


@pytest.mark.parametrize("name", BUSY)
def test_a_busy_case_of_a_mutant_shrinks_to_the_smallest(name: str) -> None:
    case = shrunk(BUSY[name], kind_here(name))
    assert grade(case, KNOWN_SMALLEST[name]) in (SMALLEST, ONE_STEP), case
    assert within_twice(case, KNOWN_SMALLEST[name])


def busier(case: Case) -> Iterator[Case]:
    """The case with one thing more that has nothing to do with its failure, if that may be."""
    changes: tuple[dict[str, Any], ...] = (
        {"HV": 2 * case.HV},
        {"H": 2 * case.H, "HV": 2 * case.HV},
        {"K": case.K + 4},
        {"V": case.V + 7},
        {"lens": tuple(length + 2 for length in case.lens)},
        {"lens": (*case.lens, 3), "pool": _with_one_more(case.pool)},
        {"dtype": "bfloat16"},
        {"values": replace(case.values, law="normal", seed=11)},
        {"gates": replace(case.gates, beta="uniform")},
        {"l2norm": True},
        {"scale": 0.5},
        {"tail": 3},
        {"index_dtype": "int64"},
        {"view": "gapped"},
    )
    for change in changes:
        with contextlib.suppress(ValueError):
            yield replace(case, **change)


def _with_one_more(pool: Pool) -> Pool:
    """A pool with a slot, and a row of the buffer, for one sequence more."""
    slots, buffer = pool.slots + bool(pool.indices), pool.buffer + 1
    return replace(
        pool,
        slots=slots,
        indices=(*pool.indices, slots - 1) if pool.indices else (),
        buffer=buffer if pool.rows else pool.buffer,
        rows=(*pool.rows, buffer - 1) if pool.rows else (),
    )


def grown(case: Case, kind: Kind) -> Case:
    """The case with all that is more in it and lets it fail in the same way."""
    wanted = kind(case)
    for index in range(sum(1 for _ in busier(case))):
        for more in list(busier(case))[index : index + 1]:
            if kind(more) == wanted:
                case = more
    return case


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in KNOWN_SMALLEST if name not in REMEMBERS + CRASHES])
def test_what_is_made_busier_shrinks_back(child: InChild, name: str) -> None:
    kind = kind_in(child, name)
    busy = grown(KNOWN_SMALLEST[name], kind)
    case = shrunk(busy, kind)
    assert grade(case, KNOWN_SMALLEST[name]) in (SMALLEST, ONE_STEP), (busy, case)
    assert within_twice(case, KNOWN_SMALLEST[name])


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InChild]:
    runner = InChild("interpret", tmp_path_factory.mktemp("child") / "log")
    yield runner
    runner.close()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in BUSY else [pytest.mark.nightly]) for name in KNOWN_SMALLEST],
)
def test_the_smallest_case_fails_on_the_mutant_alone(child: InChild, name: str) -> None:
    case = KNOWN_SMALLEST[name]
    assert execute.run(case, targets.get("vk"), "interpret").failure is None
    assert child.run(case, name_of(name)).failure is not None


WAYS = [(name, kind, case) for name, ways in OTHER_WAYS.items() for kind, case in ways]


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "kind", "case"), WAYS, ids=[f"{name}-{c.op}" for name, _, c in WAYS])
def test_the_smallest_case_of_another_way_fails_so_on_the_mutant_alone(
    child: InChild, name: str, kind: str, case: Case
) -> None:
    """And is another way: another operation or kind of failure, or plainer laws."""
    assert execute.run(case, targets.get("vk"), "interpret").failure is None
    failure = child.run(case, name_of(name)).failure
    assert failure is not None
    assert failure.kind == kind
    known = KNOWN_SMALLEST[name]
    before = child.run(known, name_of(name)).failure
    assert before is not None
    plainer = len(marks(case)) < len(marks(known))
    assert plainer or (case.op, kind) != (known.op, before.kind)


@pytest.mark.parametrize(
    ("case", "kind", "expected"),
    [
        (least("gdn.extend", lens=(32,), chunk_size=32), "beyond_bound", SMALLEST),
        (least("gdn.extend", lens=(33,), chunk_size=32), "beyond_bound", ONE_STEP),
        (least("gdn.extend", lens=(32,), chunk_size=32), "not_finite", FURTHER),
        (least("gdn.extend", lens=(12,), values=Values(law="parallel")), "not_finite", SMALLEST),
    ],
)
def test_a_case_is_compared_with_the_smallest_that_fails_in_its_way(
    case: Case, kind: str, expected: str
) -> None:
    assert nearest("neumann-slow-decay", case, kind) == expected


@pytest.mark.nightly
@pytest.mark.parametrize("name", HUNTED)
def test_a_mutant_shrinks_to_the_smallest_case_or_one_step_from_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hunt, "SHRINK_WAIT", SECONDS)
    kill = hunt.hunt(MUTANTS[name], "interpret", 1, SECONDS, min(2, os.cpu_count() or 1), tmp_path)
    assert kill.found
    assert kill.shrunk is not None
    assert within_twice(kill.shrunk, KNOWN_SMALLEST[name]), kill.shrunk
    assert grade(kill.shrunk, KNOWN_SMALLEST[name]) in (SMALLEST, ONE_STEP), kill.shrunk


PLAIN = least("gdn.extend", lens=(2,), gates=Gates(law="constant"))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (PLAIN, SMALLEST),
        (replace(PLAIN, lens=(1,)), SMALLEST),  # smaller than known
        (replace(PLAIN, gates=Gates(law="uniform", strength=4.0)), SMALLEST),  # another law, as many fields
        (replace(PLAIN, values=Values(law="zero", state="zero")), SMALLEST),  # draws less
        (replace(PLAIN, only=(Only("q", tokens=(1,)),)), SMALLEST),  # shows where
        (least("kda.extend", lens=(2,), gates=Gates(law="constant")), SMALLEST),
        (replace(PLAIN, lens=(3,)), ONE_STEP),
        (replace(PLAIN, lens=(4,)), ONE_STEP),
        (replace(PLAIN, HV=2), ONE_STEP),
        (replace(PLAIN, chunk_size=32), ONE_STEP),
        (replace(PLAIN, boundary=True), ONE_STEP),
        (replace(PLAIN, K=8), ONE_STEP),  # no larger, but not the simplest
        (replace(PLAIN, lens=(5,)), FURTHER),
        (replace(PLAIN, lens=(3,), HV=2), FURTHER),
        (replace(PLAIN, lens=(3,), boundary=True), FURTHER),
        (replace(PLAIN, boundary=True, l2norm=True), FURTHER),
        (replace(PLAIN, K=48), FURTHER),
        (
            replace(PLAIN, lens=(1, 1), pool=Pool(slots=2, indices=(0, 1))),
            FURTHER,
        ),  # two sequences, two slots
    ],
)
def test_how_near_a_case_is_to_the_smallest(case: Case, expected: str) -> None:
    assert grade(case, PLAIN) == expected


def test_twice_is_of_each_dimension() -> None:
    assert within_twice(replace(PLAIN, lens=(4,), HV=2, K=32), PLAIN)
    assert not within_twice(replace(PLAIN, lens=(5,)), PLAIN)


def test_marks_are_fields_that_are_not_the_simplest() -> None:
    assert marks(least("gdn.verify")) == set()
    case = least("gdn.update", K=3, pool=Pool(indices=(-1,), dtype="bfloat16"), gates=Gates(beta="half"))
    assert marks(case) == {"K", "pool.indices", "pool.dtype", "gates.beta"}
