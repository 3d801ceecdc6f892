"""What a call does with states, apart from what its operation does always."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffgdn.cases.json_record import Record, require

if TYPE_CHECKING:
    from diffgdn.cases.case import Case
    from diffgdn.cases.operations import Operation
    from diffgdn.cases.promises import Promises

STEP_ROWS = ("given", "slots")  # how a sequence gets its row of the buffer of steps
CACHE_STEPS = ("buffer", "longest", "none")  # what is said of the buffer's length
# Options that kernels may be compiled for, and the kinds of operations that have them.
COMPILED = {
    "step_update": ("update", "verify"),
    "token_slots": ("update", "verify"),
    "no_output": ("update",),
    "no_indices": ("extend",),
    "flags": ("extend",),
    "track": ("extend",),  # of kda alone
}


@dataclass(frozen=True, repr=False)
class StateOptions(Record):
    """Options of where states come from and go to.

    Where the state after each step goes to a buffer: `step_update` also writes the state after the last token
    to the pool; `step_rows` is "given", or "slots" where no rows are passed and each sequence takes the row
    of its slot's number; `cache_steps` is what is said of the steps to keep: the "buffer"'s, as many as the
    "longest" draft has, or "none", nothing.

    `slots` has slots for each token in place of a buffer, one tuple a sequence, all of one length: the state
    after step t goes to slot t of them (-1: nowhere), and the sequence starts from slot `accepted` - 1 of
    them, which is the one that `pool.indices` has.

    In verify_commit `accepted` has, if not empty, how many steps of each sequence's draft are accepted, at
    most all it has; in a tree it is the token before that number, with its ancestors. Empty: all.

    `output`: the output is wanted (update). `indices`: slots are passed; without them row n of the pool is
    sequence n (extend). `initial` has, if not empty, a flag for each sequence: without it, it starts from a
    zero state, whatever its slot holds (extend). `track` has, if not empty, a chunk for each sequence (-1:
    none), whose state before it is copied out in fp32 (kda.extend).
    """

    step_update: bool = False
    step_rows: str = "given"
    cache_steps: str = "buffer"
    slots: tuple[tuple[int, ...], ...] = ()
    accepted: tuple[int, ...] = ()
    output: bool = True
    indices: bool = True
    initial: tuple[bool, ...] = ()
    track: tuple[int, ...] = ()

    @property
    def compiled(self) -> frozenset[str]:
        """Name the options that kernels may be compiled for, of COMPILED."""
        asked = {
            "step_update": self.step_update,
            "token_slots": bool(self.slots),
            "no_output": not self.output,
            "no_indices": not self.indices,
            "flags": bool(self.initial),
            "track": bool(self.track),
        }
        return frozenset(name for name, is_asked in asked.items() if is_asked)


def options_of(op: str) -> tuple[str, ...]:
    """Name the options of COMPILED that an operation has."""
    family, kind = op.split(".")
    return tuple(
        name for name, kinds in COMPILED.items() if kind in kinds and (name != "track" or family == "kda")
    )


def asked(case: Case) -> Iterator[tuple[str, Any]]:
    """List (axis of promises, value) for every axis on which a case's options of states say something."""
    options, has = case.state_options, options_of(case.op)
    if case.has_buffer:
        yield "step_update", options.step_update
        yield "step_rows", options.step_rows
        yield "cache_steps", options.cache_steps
    if case.keeps_steps:
        yield "token_slots", bool(options.slots)
    if "no_output" in has:
        yield "output", options.output
    if case.values.state != "none" and "no_indices" in has:
        yield "indices", options.indices
        yield "initial_flags", bool(options.initial)
    if "track" in has:
        yield "track", bool(options.track)


def check_left(own: Promises, operation: Operation) -> None:
    """Check that promises of options of states leave cases of an operation. Raises ValueError."""
    op, keeps = operation.name, operation.keeps_steps or (operation.kind == "update" and own.steps == (True,))
    require(
        not keeps or own.token_slots != (True,) or False in own.tree,
        f"{op}: tree must allow false where token_slots is always true: there are no trees",
    )
    require(
        own.slot_zero or "no_indices" not in options_of(op) or True in own.indices,
        f"{op}: indices must allow true where slot_zero is false",
    )


def check(case: Case) -> None:
    """Check the options of states of a case. Raises ValueError."""
    options = case.state_options
    if options == StateOptions():
        return
    _check_words(case, options)
    if case.operation.commits:
        _check_accepted(case, options)
    elif options.slots or options.accepted:
        _check_slots(case, options)
    if not options.indices:
        order = tuple(range(len(case.lens)))
        require(
            case.values.state != "none" and (case.pool.indices, case.pool.slots) == (order, len(order)),
            f"state_options.indices: without them there is a row for each sequence, got {case.pool}",
        )
    if options.initial:
        _check_initial(case, options)
    if options.track:
        _check_track(case, options)


def _check_words(case: Case, options: StateOptions) -> None:
    """Check what is there in the operation, and the fields that take one of a few values."""
    alien = sorted(options.compiled - set(options_of(case.op)))
    require(not alien, f"state_options: {case.op} has no {', '.join(alien)}")
    for name, known in (("step_rows", STEP_ROWS), ("cache_steps", CACHE_STEPS)):
        value = getattr(options, name)
        require(
            value in known, f"state_options.{name}: expected one of {', '.join(known)}, got {value!r:.40}"
        )
    require(case.inplace or not options.step_update, "state_options.step_update: with inplace alone")
    plain = not options.step_update and (options.step_rows, options.cache_steps) == ("given", "buffer")
    require(
        plain or case.pool.steps > 0,
        f"state_options.step_update, step_rows, cache_steps: only with a buffer of steps, got {options}",
    )
    require(
        options.step_rows == "given" or case.pool.rows == case.pool.indices,
        f"state_options.step_rows: rows are slots, got {case.pool}",
    )


def _check_accepted(case: Case, options: StateOptions) -> None:
    """Check the counts of accepted steps, which are all that verify_commit has."""
    plain = (options.slots, options.step_rows, options.cache_steps) == ((), "given", "buffer")
    require(plain, f"state_options: {case.op} has accepted alone, got {options}")
    fits = len(options.accepted) in (0, len(case.lens)) and all(count >= 0 for count in options.accepted)
    require(fits, f"state_options.accepted: one count of 0 or more a sequence, got {options.accepted}")


def _check_slots(case: Case, options: StateOptions) -> None:
    """Check the slots for each token."""
    pool, steps, N = case.pool, len(options.slots[0]) if options.slots else 0, len(case.lens)
    require(
        len(options.slots) == len(options.accepted) == N and all(len(row) == steps for row in options.slots),
        f"state_options.slots, accepted: one row and one count a sequence, got {options}",
    )
    require(
        steps >= max(1, *case.lens),
        f"state_options.slots: a slot for each token, got {steps} for {case.lens}",
    )
    require(
        all(1 <= count <= steps for count in options.accepted),
        f"state_options.accepted: from 1 to {steps}, got {options.accepted}",
    )
    require(case.inplace and not case.parents, "state_options.slots: chains whose states are written alone")
    every = [slot for row in options.slots for slot in row]
    require(
        all(-1 <= slot < pool.slots for slot in every),
        f"state_options.slots: -1 to {pool.slots - 1}, got {options.slots}",
    )
    live = [slot for slot in every if slot >= 0]
    require(len(set(live)) == len(live), f"state_options.slots: live ones must differ, got {options.slots}")
    for row, count, start in zip(options.slots, options.accepted, pool.indices, strict=True):
        require(
            row[count - 1] == start,
            f"pool.indices: the slot of the last accepted step, got {start} for {row} and {count}",
        )
        require(start >= 0 or max(row) < 0, f"state_options.slots: padding has none, got {row}")


def _check_initial(case: Case, options: StateOptions) -> None:
    """Check the flags that say which sequences have an initial state."""
    require(
        len(options.initial) == len(case.lens),
        f"state_options.initial: one flag a sequence, got {options.initial}",
    )
    require(case.values.state != "none", "state_options.initial: only where a state is passed")


def _check_track(case: Case, options: StateOptions) -> None:
    """Check the chunks whose states are copied out."""
    require(
        len(options.track) == len(case.lens),
        f"state_options.track: one chunk a sequence, got {options.track}",
    )
    chunks = [-(-length // case.chunk_size) for length in case.lens]
    require(
        all(-1 <= chunk < count for chunk, count in zip(options.track, chunks, strict=True)),
        f"state_options.track: -1 or a chunk of the sequence, got {options.track} for {case.lens}",
    )
