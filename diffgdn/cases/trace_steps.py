"""The steps of a serving loop, and which of them may follow which.

Requests arrive and are numbered in that order; a call names some that are there; the drafts of a `verify` are
committed before their requests may be called again, but by another `verify`; what finishes frees its slot. A
snapshot of a request's state has a slot of its own, and others may start from it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from diffgdn.cases.json_record import Record, require
from diffgdn.cases.trace_form import Form

PADDING = -1
REJECTED = -1  # of a draft, nothing is accepted
CALLS = ("extend", "decode", "packed_decode", "update", "verify")  # kinds of operation that a loop calls
STARTS = ("arrive", "fork", "adopt")  # what brings the next request
LATER_ACTS = ("snapshot", "fork", "adopt", "drop", "compact")  # that came with format version 3
ACTS = ("arrive", *CALLS, "commit", "finish", *LATER_ACTS)
LATER_FIELDS = ("sources", "chunks")  # of a step, that came with format version 3
MOST_TOKENS = 4096  # of one call


@dataclass(frozen=True, repr=False)
class Step(Record):
    """One thing that a serving loop does.

    `act` is one of ACTS. `requests` holds numbers in the order of arrival; in a call also -1 for a row of
    padding. `lens` holds the tokens of each row of a call, or nothing for one each. `parents` holds drafts
    that are trees, one tuple a row, or nothing for chains. `accepted` holds, in a commit, the last accepted
    token of each request's draft (its ancestors are accepted with it), or -1. So it does in a verify that
    names requests whose draft still waits: each draft starts from the state after the accepted token of the
    one before; -1 in all other rows.

    A request has one snapshot at most. `snapshot` takes that of its state now, over an older one. An extend
    with `chunks` takes it of the state before that chunk of a row, -1 for rows without. `fork` and `adopt`
    name in `sources` whose snapshot the next request starts from: from a copy, or in the snapshot's own slot.
    `drop` frees it, `compact` (which names nobody) moves all states to the lowest slots.
    """

    act: str
    requests: tuple[int, ...]
    lens: tuple[int, ...] = ()
    parents: tuple[tuple[int, ...], ...] = ()
    accepted: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    chunks: tuple[int, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the tokens of each row."""
        return self.lens or (1,) * len(self.requests)

    @property
    def tracks(self) -> bool:
        """Tell whether it is a call that takes snapshots before chunks."""
        return any(chunk >= 0 for chunk in self.chunks)

    def words(self, waiting: Container[int] = (), gone: Container[int] = ()) -> str:
        """Describe the step for a person: `decode 0, padding, 1 (2 tokens)`.

        waiting: requests whose draft waits before the step. gone: those that finished while theirs did.
        """
        if self.act == "drop":
            return f"drop the snapshot of {self.requests[0]}"
        if self.act == "fork":
            return f"fork {self.requests[0]} from a copy of the snapshot of {self.sources[0]}"
        if self.act == "adopt":
            return f"adopt {self.requests[0]} in the slot of the snapshot of {self.sources[0]}"
        rows = ", ".join(self._row(n, waiting, gone) for n in range(len(self.requests)))
        return f"{self.act} {rows}".rstrip()

    def _row(self, n: int, waiting: Container[int], gone: Container[int]) -> str:
        """Describe one row."""
        request = self.requests[n]
        length = self.lengths[n]
        row = "padding" if request == PADDING else str(request)
        if self.act in CALLS and length != 1:
            row += f" ({length} tokens)"
        if self.parents and self.parents[n] != chain(length):
            row += f" as a tree {self.parents[n]}"
        if self.act == "commit" and self.accepted:
            row += f" {'none' if self.accepted[n] == REJECTED else f'up to token {self.accepted[n]}'}"
            row += " (finished before)" if request in gone else ""
        if self.act == "verify" and request in waiting:
            row += " again, " + (
                "nothing of its draft accepted"
                if not self.accepted or self.accepted[n] == REJECTED
                else f"after token {self.accepted[n]} of its draft"
            )
        if self.chunks and self.chunks[n] >= 0:
            row += f" with a snapshot before chunk {self.chunks[n]}"
        return row


def chain(length: int) -> tuple[int, ...]:
    """Return the parents of a draft of `length` tokens in which each follows the one before it."""
    return tuple(range(-1, length - 1))


def plain(step: Step) -> Step:
    """Leave `lens` and `parents` out of a step if they say nothing."""
    lens = () if all(length == 1 for length in step.lens) else step.lens
    chains = all(tree == chain(length) for tree, length in zip(step.parents, step.lengths, strict=False))
    return dataclasses.replace(step, lens=lens, parents=() if chains else step.parents)


def path(parents: Sequence[int], last: int) -> tuple[int, ...]:
    """List the tokens of a draft from its first to `last`, each the parent of the next; () for REJECTED."""
    tokens: list[int] = []
    while last != REJECTED:
        tokens.append(last)
        last = parents[last]
    return tuple(reversed(tokens))


class Loop(Protocol):
    """The sizes that limit a serving loop: slots of its pool, rows of its buffer, tokens of a draft and of a
    chunk.
    """

    @property
    def slots(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def draft(self) -> int: ...

    @property
    def chunk_size(self) -> int: ...

    @property
    def form(self) -> Form: ...


@dataclass
class Book:
    """Keep track of which requests are there and which steps may come next.

    `live` holds the requests that arrived and have not finished, `drafts` the parents of each request's draft
    that waits for its commit, `gone` those of requests that finished meanwhile, whose commit may still come,
    `kept` the requests whose states have a snapshot. `later` tells whether a step needed format version 3.
    """

    loop: Loop
    arrived: int = 0
    live: list[int] = field(default_factory=list)
    drafts: dict[int, tuple[int, ...]] = field(default_factory=dict)
    gone: dict[int, tuple[int, ...]] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    later: bool = False

    @property
    def ready(self) -> list[int]:
        """List the requests that a call may name: those without a draft that waits."""
        return [one for one in self.live if one not in self.drafts]

    @property
    def free_slots(self) -> int:
        """Count the slots that no live request and no snapshot has."""
        return self.loop.slots - self.loop.form.reserved - len(self.live) - len(self.kept)

    @property
    def free_rows(self) -> int:
        """Count the buffer rows that no waiting draft has."""
        return self.loop.rows - len(self.drafts)

    def words(self, step: Step) -> str:
        """Describe the next step for a person."""
        return step.words(self.drafts, self.gone)

    def allows(self, step: Step) -> bool:
        """Tell whether a step can be next."""
        held = {name: copy.copy(getattr(self, name)) for name in ("live", "drafts", "gone", "kept")}
        try:
            dataclasses.replace(self, **held).apply(step)
        except ValueError:
            return False
        return True

    def apply(self, step: Step) -> None:
        """Note a step. Raises ValueError if it cannot be next."""
        act = step.act
        require(act in ACTS, f"act: expected one of {', '.join(ACTS)}, got {act!r:.40}")
        require(act == "compact" or len(step.requests) > 0, f"{act}: at least one request or row of padding")
        named = [one for one in step.requests if one != PADDING]
        require(len(set(named)) == len(named), f"{act}: a request twice, in {step.requests}")
        require(
            act in ("commit", "verify") or not step.accepted,
            f"{act}: only a commit or a verify accepts, got {step.accepted}",
        )
        require(act in CALLS or not (step.lens or step.parents), f"{act}: takes no lens, and no parents")
        require(act in ("fork", "adopt") or not step.sources, f"{act}: takes no sources, got {step.sources}")
        require(act == "extend" or not step.chunks, f"{act}: takes no chunks, got {step.chunks}")
        self.later |= act in LATER_ACTS or any(getattr(step, name) for name in LATER_FIELDS)
        if act in CALLS:
            self._call(step, named)
            return
        require(len(named) == len(step.requests), f"{act}: no padding, got {step.requests}")
        getattr(self, f"_{act}")(step, named)

    def _arrive(self, step: Step, named: list[int]) -> None:
        """Let the next request arrive, if a slot is free."""
        act = step.act
        require(named == [self.arrived], f"{act}: the next request is {self.arrived}, got {step.requests}")
        require(self.free_slots > 0, f"{act}: all {self.loop.slots} slots are taken")
        self.live.append(self.arrived)
        self.arrived += 1

    def _fork(self, step: Step, named: list[int]) -> None:
        """Let the next request start from a copy of a snapshot."""
        self._source(step)
        self._arrive(step, named)

    def _adopt(self, step: Step, named: list[int]) -> None:
        """Let the next request take over a snapshot's slot."""
        self.kept.remove(self._source(step))
        self._arrive(step, named)

    def _source(self, step: Step) -> int:
        """Return whose snapshot a step names."""
        known = len(step.sources) == 1 and step.sources[0] in self.kept
        require(known, f"{step.act}: sources, one request with a snapshot, got {step.sources}")
        return step.sources[0]

    def _snapshot(self, step: Step, named: list[int]) -> None:
        """Keep the states of some live requests."""
        require(all(one in self.live for one in named), f"snapshot: {step.requests} are not all live")
        self._keep(step, named)

    def _keep(self, step: Step, named: list[int]) -> None:
        """Give each a slot for its snapshot that has none."""
        new = [one for one in named if one not in self.kept]
        require(len(new) <= self.free_slots, f"{step.act}: {self.free_slots} slots are free for snapshots")
        self.kept += new

    def _drop(self, step: Step, named: list[int]) -> None:
        """Free the slot of a snapshot."""
        require(
            len(named) == 1 and named[0] in self.kept,
            f"drop: one request with a snapshot, got {step.requests}",
        )
        self.kept.remove(named[0])

    def _compact(self, step: Step, named: list[int]) -> None:
        """Move all states to the lowest slots, in their order."""
        require(not named, f"compact: names no request, got {step.requests}")

    def _finish(self, step: Step, named: list[int]) -> None:
        """Let a live request finish; its draft is dropped."""
        require(len(named) == 1 and named[0] in self.live, f"finish: one live request, got {step.requests}")
        self.live.remove(named[0])
        if named[0] in self.drafts:
            self.gone[named[0]] = self.drafts.pop(named[0])

    def _commit(self, step: Step, named: list[int]) -> None:
        """Take the drafts of some requests as accepted up to a token."""
        there = {**self.drafts, **self.gone}
        require(all(one in there for one in named), f"commit: {step.requests} have not all a draft")
        require(len(step.accepted) == len(named), f"commit: accepted, one a request, got {step.accepted}")
        for one, accepted in zip(named, step.accepted, strict=True):
            self._accept(step.act, accepted, len(there[one]))
            self.later |= one in self.gone
            self.drafts.pop(one, None)
            self.gone.pop(one, None)

    def _accept(self, act: str, accepted: int, length: int) -> None:
        """Check the last accepted token of a draft of `length` tokens."""
        require(REJECTED <= accepted < length, f"{act}: accepted -1 to {length - 1}, got {accepted}")

    def _call(self, step: Step, named: list[int]) -> None:
        """Check the rows of a call; the drafts of a verify then wait for their commit."""
        act, lengths = step.act, step.lengths
        ready = self.live if act == "verify" and step.accepted else self.ready
        require(all(one in ready for one in named), f"{act}: {step.requests} are not all live and ready")
        require(len(lengths) == len(step.requests), f"{act}: lens, one a row, got {step.lens}")
        least = 0 if act in ("extend", "update") else 1
        most = {"packed_decode": 1, "verify": self.loop.draft}.get(act, MOST_TOKENS)
        require(
            all(least <= length <= most for length in lengths),
            f"{act}: lens {least} to {most}, got {lengths}",
        )
        require(sum(lengths) <= MOST_TOKENS, f"{act}: at most {MOST_TOKENS} tokens, got {sum(lengths)}")
        form, even = self.loop.form, len(set(lengths)) == 1 and lengths[0] > 0
        require(even or not form.is_even(act), f"{act}: rows of a {form.batch} batch are even, got {lengths}")
        require(act == "verify" or not step.parents, f"{act}: only verify takes parents")
        if step.chunks:
            self._track(step)
        if act == "verify":
            self._verify(step, named)

    def _track(self, step: Step) -> None:
        """Check the chunks before which snapshots are taken, and keep these."""
        require(len(step.chunks) == len(step.requests), f"extend: chunks, one a row, got {step.chunks}")
        for one, length, chunk in zip(step.requests, step.lengths, step.chunks, strict=True):
            count = 0 if one == PADDING else -(-length // self.loop.chunk_size)
            require(-1 <= chunk < count, f"extend: chunks -1 to {count - 1} of request {one}, got {chunk}")
        rows = zip(step.requests, step.chunks, strict=True)
        self._keep(step, [one for one, chunk in rows if chunk >= 0])

    def _verify(self, step: Step, named: list[int]) -> None:
        """Check drafts, and what is accepted of those before, and let them wait."""
        lengths = step.lengths
        if step.accepted:
            self._accept_before(step)
        new = [one for one in named if one not in self.drafts]
        require(len(new) <= self.free_rows, f"verify: {self.free_rows} buffer rows are free")
        require(len(step.parents) in (0, len(lengths)), f"verify: parents, one a row, got {step.parents}")
        trees = step.parents or tuple(chain(length) for length in lengths)
        for one, tree, length in zip(step.requests, trees, lengths, strict=True):
            require(
                len(tree) == length
                and all(parent == -1 if n == 0 else 0 <= parent < n for n, parent in enumerate(tree)),
                f"verify: parents are -1 first, then earlier tokens, got {tree} for {length} tokens",
            )
            if one != PADDING:
                self.drafts[one] = tree

    def _accept_before(self, step: Step) -> None:
        """Check what a verify accepts of drafts that wait."""
        require(len(step.accepted) == len(step.requests), f"verify: accepted, one a row, got {step.accepted}")
        self.later = True
        for one, accepted in zip(step.requests, step.accepted, strict=True):
            self._accept(step.act, accepted, len(self.drafts.get(one, ())))


def move(step: Step, pool: range, slots: dict[int, int], kept: dict[int, int]) -> None:
    """Carry on the slots of requests, and those of snapshots, over a step of a loop that hands out the lowest
    of `pool`. Both are changed in place.
    """

    def free() -> int:
        return min(set(pool) - {*slots.values(), *kept.values()})

    if step.act in ("arrive", "fork"):
        slots[step.requests[0]] = free()
    elif step.act == "adopt":
        slots[step.requests[0]] = kept.pop(step.sources[0])
    elif step.act == "finish":
        del slots[step.requests[0]]
    elif step.act == "drop":
        del kept[step.requests[0]]
    elif step.act == "compact":
        order = sorted({*slots.values(), *kept.values()})
        for held in (slots, kept):
            held.update({one: pool[order.index(slot)] for one, slot in held.items()})
    for n, one in enumerate(step.requests):
        tracked = step.chunks and step.chunks[n] >= 0
        if (step.act == "snapshot" or tracked) and one not in kept:
            kept[one] = free()
