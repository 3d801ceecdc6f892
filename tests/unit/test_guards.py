"""Memory that nobody may read or write: strays and leaks are named with tensor, side and offset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffgdn.cases.case import Case, Gates, Pool, Values
from diffgdn.targets.eager import Eager
from diffgdn.tensors import inputs, poison
from diffgdn.tensors.arena import Arguments
from diffgdn.tensors.layout import arrange
from diffgdn.verdict import execute, failures

PLAIN = Values(law="normal", seed=1)
MODEL = Gates(law="model", beta="uniform")
DECODE = Case("gdn.decode", lens=(2, 1), HV=2, pool=Pool(slots=4, indices=(2, 0)), values=PLAIN, gates=MODEL)
CASES = {
    "decode": DECODE,
    "decode, views of a projection": replace(DECODE, view="packed"),
    "decode, gaps between rows": replace(DECODE, view="gapped", index_dtype="int64", cu_dtype="int64"),
    "decode, envelope pool in bf16": replace(
        DECODE, dtype="bfloat16", pool=Pool(4, (2, 0), pitch=7, dtype="bfloat16")
    ),
    "extend, padding tokens": Case("kda.extend", lens=(3,), tail=2, values=PLAIN, gates=MODEL),
    "recurrent, dense states": Case(
        "kda.recurrent", lens=(2, 1), pool=Pool(indices=()), values=PLAIN, gates=MODEL
    ),
    "verify of a tree": Case(
        "gdn.verify",
        lens=(3,),
        pool=Pool(slots=2, indices=(1,), steps=4, buffer=2, rows=(1,)),
        parents=((-1, 0, 0),),
        values=PLAIN,
        gates=MODEL,
    ),
    "packed decode": Case("gdn.packed_decode", lens=(1, 1), pool=Pool(2, (0, 1)), values=PLAIN, gates=MODEL),
}
Act = Callable[[Case, Arguments, dict[str, Tensor]], None]


class Straying(Eager):
    """Right, but for what it does beside its tensors."""

    name = "straying"

    def __init__(self, act: Act) -> None:
        self.act = act

    def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
        results = super().run(case, arguments)
        self.act(case, arguments, results)
        return results


def verdict_of(case: Case, act: Act) -> failures.CheckFailure | None:
    return execute.run(case, Straying(act), "interpret", explain=True).failure


def element(arguments: Arguments, name: str, offset: int) -> Tensor:
    """One element's worth of memory, so many elements from the first one of a tensor."""
    region = next(region for region in arguments.regions if region.name == name)
    size = region.dtype.itemsize
    start = region.start + offset * size
    return arguments.arena.view(torch.uint8)[start : start + size].view(region.dtype)


def write(name: str, offset: int) -> Act:
    def act(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
        element(arguments, name, offset).fill_(1)

    return act


def read(name: str, offset: int) -> Act:
    """Adds what it reads to the first element of the output."""

    def act(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
        # a stale copy: the call itself may have written by now what it may not read
        results["o"].view(-1)[0] += element(arguments, name, offset).to(results["o"].dtype)[0]

    return act


def plain(case: Case) -> Arguments:
    return arrange(case, inputs.draw(case), "cpu")


def regions() -> list[tuple[str, str]]:
    return [(label, region.name) for label, case in CASES.items() for region in plain(case).regions]


def past(case: Case, name: str) -> int:
    return next(region.extent for region in plain(case).regions if region.name == name)


def is_float(case: Case, name: str) -> bool:
    return next(region.dtype for region in plain(case).regions if region.name == name).is_floating_point


def test_every_kind_of_tensor_is_there() -> None:
    names = {name for _, name in regions()}
    assert names >= {
        "q",
        "k",
        "v",
        "g",
        "beta",
        "a",
        "b",
        "A_log",
        "dt_bias",
        "cu_seqlens",
        "state",
        "indices",
    }
    assert names >= {"qkv", "gates", "buffer", "rows", "parents", "mixed_qkv", "out"}


@pytest.mark.parametrize(("label", "name"), regions())
def test_a_write_beside_a_tensor_is_named(label: str, name: str) -> None:
    case = CASES[label]
    for offset, side in (
        (-1, "before its start"),
        (past(case, name), "past its end"),
        (-3, "before its start"),
    ):
        failure = verdict_of(case, write(name, offset))
        assert isinstance(failure, failures.GuardWritten)
        assert (failure.tensor, failure.place) == (name, f"at element {offset}")
        assert failure.message.startswith(f"memory {side} was written")


@pytest.mark.parametrize(("label", "name"), [pair for pair in regions() if is_float(CASES[pair[0]], pair[1])])
def test_a_read_beside_a_tensor_is_named(label: str, name: str) -> None:
    case = CASES[label]
    for offset, side in ((-1, "before its start"), (past(case, name) + 2, "past its end")):
        failure = verdict_of(case, read(name, offset))
        assert isinstance(failure, failures.PoisonLeaked)
        assert f": {name} {side}, at element {offset} (1 of" in failure.message


@pytest.mark.parametrize(
    ("label", "name"), [pair for pair in regions() if not is_float(CASES[pair[0]], pair[1])]
)
def test_an_index_beside_a_tensor_of_indices_leads_far_away(label: str, name: str) -> None:
    arguments = plain(CASES[label])
    for offset in (-1, past(CASES[label], name)):
        assert int(element(arguments, name, offset)) > 2**30


GAPS = [
    ("decode, gaps between rows", "q", 16),
    ("decode, gaps between rows", "v", 16),
    ("decode, envelope pool in bf16", "state", 2 * 16 * 16 + 3),
    ("verify of a tree", "parents", 4),
]


@pytest.mark.parametrize(("label", "name", "offset"), GAPS)
def test_a_write_between_rows_or_slots_is_named(label: str, name: str, offset: int) -> None:
    case = CASES[label]
    if name == "parents":  # one row has nothing behind it but the guard; two have a gap
        case = replace(
            case, lens=(3, 3), pool=Pool(3, (1, 2), steps=4, buffer=2, rows=(1, 0)), parents=((-1, 0, 0),) * 2
        )
    failure = verdict_of(case, write(name, offset))
    assert isinstance(failure, failures.GuardWritten)
    assert (failure.tensor, failure.place) == (name, f"at element {offset}")
    assert failure.message.startswith("memory between its rows or slots was written")


@pytest.mark.parametrize(("label", "name", "offset"), [gap for gap in GAPS if gap[1] != "parents"])
def test_a_read_between_rows_or_slots_is_named(label: str, name: str, offset: int) -> None:
    failure = verdict_of(CASES[label], read(name, offset))
    assert isinstance(failure, failures.PoisonLeaked)
    assert f": {name} between its rows or slots, at element {offset} (" in failure.message


def test_a_write_into_a_neighbour_in_one_projection_is_named_by_the_neighbour() -> None:
    failure = verdict_of(CASES["decode, views of a projection"], write("qkv", 16))
    assert isinstance(failure, failures.InputChanged)
    assert (failure.tensor, failure.place) == ("k", "[0, 0, 0, 0]")


def test_a_padding_token_that_is_read_is_named() -> None:
    def act(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
        results["o"].view(-1)[0] += arguments["k"][0, 4, 0, 2]

    failure = verdict_of(CASES["extend, padding tokens"], act)
    assert isinstance(failure, failures.PoisonLeaked)
    assert ": k of a padding token, at [0, 4, 0, 2] (" in failure.message


def test_a_slot_of_nobody_that_is_read_is_named() -> None:
    def act(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
        results["o"].view(-1)[0] += arguments["state"][3, 1, 2, 5]

    failure = verdict_of(DECODE, act)
    assert isinstance(failure, failures.PoisonLeaked)
    assert ": state slot 3, which no sequence names, at [3, 1, 2, 5] (" in failure.message


def workspace(offset: int, wrong: str) -> Act:
    """A workspace of 3 x 8, of which one element beside it or in it is written or read."""

    def act(case: Case, arguments: Arguments, results: dict[str, Tensor]) -> None:
        torch.empty(5, dtype=torch.bfloat16).fill_(0)
        space = torch.empty(3, 8)
        spot = space.as_strided((1,), (1,), space.storage_offset() + offset)
        if wrong == "write":
            spot.fill_(1.0)
        else:
            results["o"].view(-1)[0] += spot[0]

    return act


@pytest.mark.parametrize(("offset", "side"), [(-1, "before its start"), (24, "past its end")])
def test_a_stray_beside_a_workspace_is_named(offset: int, side: str) -> None:
    failure = verdict_of(DECODE, workspace(offset, "write"))
    assert isinstance(failure, failures.GuardWritten)
    assert (failure.tensor, failure.place) == ("workspace", f"at element {offset}")
    assert failure.message.startswith(f"memory {side} was written")
    assert "[3, 8] float32" in failure.message


@pytest.mark.parametrize(
    ("offset", "side"), [(-1, " before its start"), (24, " past its end"), (5, ", before it was written")]
)
def test_a_leak_from_a_workspace_is_named(offset: int, side: str) -> None:
    failure = verdict_of(DECODE, workspace(offset, "read"))
    assert isinstance(failure, failures.PoisonLeaked)
    assert f": a fresh tensor [3, 8] float32{side} (" in failure.message


def test_a_write_past_an_output_that_the_kernel_allocates_is_named() -> None:
    class Outside(Eager):
        name = "outside"

        def run(self, case: Case, arguments: Arguments) -> dict[str, Tensor]:
            results = super().run(case, arguments)
            o = torch.empty_like(results["o"]).copy_(results["o"])
            o.as_strided((1,), (1,), o.storage_offset() + o.numel()).fill_(3.0)
            return {**results, "o": o}

    failure = execute.run(DECODE, Outside(), "interpret").failure
    assert isinstance(failure, failures.GuardWritten)
    assert (failure.tensor, failure.place) == ("o", "at element 96")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fresh_memory_is_poison_with_poison_around_it(dtype: torch.dtype) -> None:
    with poison.PoisonedEmpty() as mode:
        one = torch.empty(3, 5, dtype=dtype)
        other = torch.empty_strided((2, 3), (4, 1), dtype=dtype)
    assert one.isnan().all()
    assert other.isnan().all()
    assert (other.shape, other.stride()) == ((2, 3), (4, 1))
    assert one.is_contiguous()
    around = one.as_strided((17,), (1,), one.storage_offset() - 1)
    assert around.isnan().all()
    assert mode.stray() is None
    with poison.PoisonedEmpty(zeros=True):
        assert (torch.empty(3, dtype=dtype) == 0).all()
