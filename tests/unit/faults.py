"""Targets with a fault planted in them: the eager target, and what a kernel can do to its process.

Child processes load them as `tests/unit/faults.py:NAME`. A fault strikes after the call, on cases that meet
its condition. Faults that are to strike once, or every third time, count their strikes in the file that
DIFFGDN_STRIKES names, which all processes of a test share.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
import triton
import triton.language as tl

from diffgdn.cases.case import Case
from diffgdn.selftest.faulty_target import Planted
from diffgdn.selftest.plants import FAR, store_far

STRIKES = "DIFFGDN_STRIKES"
MENDED = "DIFFGDN_MENDED"  # in the environment once the bugs that depend on other calls have been mended
BLOCK_BYTES_OF_HEAP = 5000
BLOCK_BYTES = 2 << 30  # of a GPU's memory, at a time
HUNGRY_BYTES = 2 << 30  # more than the tests let a child have

Fault = Callable[[Case, dict[str, torch.Tensor]], None]


# --- where ---


def always(case: Case) -> bool:
    return True


def on_padding(case: Case) -> bool:
    return -1 in case.pool.indices


def sticky(case: Case) -> bool:
    """More than 40 tokens of a sequence in slot -1."""
    slots = zip(case.pool.indices, case.lens, strict=True)
    return any(slot == -1 and length > 40 for slot, length in slots)


def from_three_tokens(case: Case) -> bool:
    return case.total >= 3


# --- what ---


def crash(case: Case, results: dict[str, torch.Tensor]) -> None:
    ctypes.string_at(0)


def leave(case: Case, results: dict[str, torch.Tensor]) -> None:
    print("no more", flush=True)
    os._exit(3)


def leave_politely(case: Case, results: dict[str, torch.Tensor]) -> None:
    sys.exit("enough")


def hang(case: Case, results: dict[str, torch.Tensor]) -> None:
    while True:
        pass


def strike_and_hang(case: Case, results: dict[str, torch.Tensor]) -> None:
    strike()
    hang(case, results)


def hang_deaf(case: Case, results: dict[str, torch.Tensor]) -> None:
    """Only SIGKILL ends it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    hang(case, results)


def devour(case: Case, results: dict[str, torch.Tensor]) -> None:
    """Take memory, and keep it."""
    held = b"x" * HUNGRY_BYTES
    time.sleep(600)
    del held


def die(case: Case, results: dict[str, torch.Tensor]) -> None:
    strike()
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(case: Case, results: dict[str, torch.Tensor]) -> None:
    """As one that a person kills."""
    if strike() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def count(case: Case, results: dict[str, torch.Tensor]) -> None:
    """Nothing but a sign of life."""
    strike()


def fail(case: Case, results: dict[str, torch.Tensor]) -> None:
    raise RuntimeError("launch failed")


def fail_one_time_in_three(case: Case, results: dict[str, torch.Tensor]) -> None:
    """In no order: every third time could always be another call than the one that is asked about."""
    if zlib.crc32(bytes([(strike() + 2) % 256])) % 3 == 0:
        fail(case, results)


def talk(case: Case, results: dict[str, torch.Tensor]) -> None:
    """More than a pipe holds, without a newline at the end."""
    print("word " * 100_000, end="")
    print("word " * 100_000, end="", file=sys.stderr)


def overwrite_the_pipe(case: Case, results: dict[str, torch.Tensor]) -> None:
    """Write what is no answer to every descriptor that the child was born with."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\0\0\0\4nope")
        except OSError:
            continue


def wait_to_be_killed(case: Case, results: dict[str, torch.Tensor]) -> None:
    """The first time; then it passes."""
    if strike() == 1:
        time.sleep(600)


def second_case_crashes(case: Case, results: dict[str, torch.Tensor]) -> None:
    """What one case leaves behind in the process ends the next."""
    _visitors.add(case.id)
    if len(_visitors) > 1:
        ctypes.string_at(0)


_visitors: set[str] = set()


def spoil(case: Case, results: dict[str, torch.Tensor]) -> None:
    results["o"].view(-1)[0] += 1


def keep_under_too_short_a_key(case: Case, results: dict[str, torch.Tensor]) -> None:
    """What is compiled for the dtype of one call serves those of another."""
    key = (case.op, case.K) if MENDED not in os.environ else (case.op, case.K, case.dtype)
    if _compiled.setdefault(key, case.dtype) != case.dtype and results["o"].numel():
        spoil(case, results)


_compiled: dict[tuple[object, ...], str] = {}


def keep_the_first_size(case: Case, results: dict[str, torch.Tensor]) -> None:
    """What is made for K of the first call serves those of other K."""
    if _sizes.setdefault(case.op, case.K) != case.K and results["o"].numel():
        spoil(case, results)


_sizes: dict[str, int] = {}


def write_over_the_heap(case: Case, results: dict[str, torch.Tensor]) -> None:
    """Three tokens are too many for a workspace, and run over what the heap keeps before the next block. That
    block is freed in a call of six tokens or more, which ends the process.
    """
    if case.total == 3 and not _workspace and MENDED not in os.environ:
        blocks = sorted(LIBC.malloc(BLOCK_BYTES_OF_HEAP) for _ in range(64))
        neighbours = (n for m, n in itertools.pairwise(blocks) if n - m < BLOCK_BYTES_OF_HEAP + 64)
        _workspace.append(next(neighbours))
        ctypes.memset(_workspace[0] - 8, 0x41, 8)
    elif case.total >= 6 and _workspace:
        LIBC.free(_workspace.pop())


_workspace: list[int] = []
LIBC = ctypes.CDLL(None)
LIBC.malloc.restype, LIBC.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]


def spoil_once(case: Case, results: dict[str, torch.Tensor]) -> None:
    """Of all processes, in one call."""
    if strike() == 1:
        spoil(case, results)


def strike_and_spoil(case: Case, results: dict[str, torch.Tensor]) -> None:
    strike()
    spoil_slowly(case, results)


def spoil_slowly(case: Case, results: dict[str, torch.Tensor]) -> None:
    """So that a shrink takes a while."""
    time.sleep(0.5)
    spoil(case, results)


# --- what, on a GPU ---


def store_anywhere(case: Case, results: dict[str, torch.Tensor]) -> None:
    store_far(results["o"])


def index_past_the_end(case: Case, results: dict[str, torch.Tensor]) -> None:
    """torch's own kernel asserts that indices lie within."""
    o = results["o"].view(-1)
    o[torch.full((1,), o.numel(), device=o.device)] = 0


@triton.jit
def _wait_kernel(p_flag):
    flag = tl.load(p_flag, volatile=True)
    while flag == 0:
        flag = tl.load(p_flag, volatile=True)


def wait_for_nothing(case: Case, results: dict[str, torch.Tensor]) -> None:
    _wait_kernel[(1,)](results["o"].new_zeros(1, dtype=torch.int32))


def exhaust(case: Case, results: dict[str, torch.Tensor]) -> None:
    """All the memory that the GPU has."""
    blocks = []
    while True:
        blocks.append(results["o"].new_zeros(BLOCK_BYTES, dtype=torch.int8))


@triton.jit
def _sticky_kernel(p_length, p_slot, p_x, far):
    n = tl.program_id(0)
    forgotten = (tl.load(p_length + n) > 40) & (tl.load(p_slot + n) == -1)
    tl.store(p_x + far, 1.0, mask=forgotten)


def store_by_slot(case: Case, results: dict[str, torch.Tensor]) -> None:
    """`sticky` decided by the kernel, as a real one would that forgets its padding: an illegal access."""
    o = results["o"]
    lengths, slots = (torch.tensor(values, device=o.device) for values in (case.lens, case.pool.indices))
    _sticky_kernel[(len(case.lens),)](lengths, slots, o, FAR)


def strike() -> int:
    """Which strike this is, of all processes of a test: 1 for the first."""
    with Path(os.environ[STRIKES]).open("ab", buffering=0) as file:
        file.write(b".")
        return file.tell()


segfault = Planted("segfault", crash, always)
leaving = Planted("leaving", leave, always)
polite = Planted("polite", leave_politely, always)
endless = Planted("endless", hang, always)
deaf = Planted("deaf", hang_deaf, always)
hungry = Planted("hungry", devour, on_padding)
talking = Planted("talking", talk, always)
garbling = Planted("garbling", overwrite_the_pipe, always)
dying = Planted("dying", die, always)
raising = Planted("raising", fail, always)
waiting = Planted("waiting", wait_to_be_killed, always)
dirty = Planted("dirty", second_case_crashes, from_three_tokens)

endless_decode = Planted("endless_decode", hang, always, operations=("gdn.decode", "kda.decode"))
never_gdn = Planted(
    "never_gdn", hang, lambda case: case.op == "gdn.decode", operations=("gdn.decode", "kda.decode")
)
stuck = Planted("stuck", strike_and_hang, always, operations=("gdn.decode",))
counting = Planted("counting", count, always, operations=("gdn.decode",))

# One campaign, a fault for each operation.
BY_OPERATION: dict[str, Fault] = {
    "gdn.decode": crash,
    "kda.decode": leave,
    "gdn.update": hang,
}


def by_operation(case: Case, results: dict[str, torch.Tensor]) -> None:
    BY_OPERATION[case.op](case, results)


many = Planted("many", by_operation, on_padding, operations=tuple(BY_OPERATION))
sticky_crash = Planted("sticky_crash", crash, sticky, operations=("gdn.extend",))
first_size = Planted("first_size", keep_the_first_size, always, operations=("gdn.decode",))
cached = Planted("cached", keep_under_too_short_a_key, always, operations=("gdn.decode",))
heap = Planted("heap", write_over_the_heap, always, operations=("gdn.decode",))
wrong_once = Planted("wrong_once", spoil_once, from_three_tokens, operations=("gdn.decode",))
killed_once = Planted("killed_once", die_once, from_three_tokens, operations=("gdn.update",))
flaky = Planted("flaky", fail_one_time_in_three, always, operations=("gdn.packed_decode",))
wrong = Planted("wrong", spoil, from_three_tokens, operations=("gdn.decode",))
slowly_wrong = Planted("slowly_wrong", spoil_slowly, from_three_tokens, operations=("gdn.decode",))
telling_wrong = Planted("telling_wrong", strike_and_spoil, from_three_tokens, operations=("gdn.decode",))
crashing = Planted("crashing", crash, from_three_tokens, operations=("gdn.decode",))
deadly = Planted("deadly", die, from_three_tokens, operations=("gdn.decode",))

illegal = Planted("illegal", store_anywhere, always)
asserting = Planted("asserting", index_past_the_end, always)
endless_kernel = Planted("endless_kernel", wait_for_nothing, always)
exhausting = Planted("exhausting", exhaust, always)
sticky_store = Planted("sticky_store", store_by_slot, always, operations=("gdn.extend",))
