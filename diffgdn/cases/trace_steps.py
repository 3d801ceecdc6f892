"""The steps of a serving loop, and which of them may follow which.

Requests arrive and are numbered in that order; a call names some that are there; the drafts of a `verify` are
committed before their requests may be called again; what finishes frees its slot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from diffgdn.cases.json_record import Record, require

PADDING = -1
REJECTED = -1  # of a draft, nothing is accepted
CALLS = ("extend", "decode", "packed_decode", "update", "verify")  # kinds of operation that a loop calls
ACTS = ("arrive", *CALLS, "commit", "finish")
MOST_TOKENS = 4096  # of one call


@dataclass(frozen=True, repr=False)
class Step(Record):
    """One thing that a serving loop does.

    `act` is one of ACTS. `requests` holds numbers in the order of arrival; in a call also -1 for a row of
    padding. `lens` holds the tokens of each row of a call, or nothing for one each. `parents` holds drafts
    that are trees, one tuple a row, or nothing for chains. `accepted` holds, in a commit, the last accepted
    token of each request's draft (its ancestors are accepted with it), or -1.
    """

    act: str
    requests: tuple[int, ...]
    lens: tuple[int, ...] = ()
    parents: tuple[tuple[int, ...], ...] = ()
    accepted: tuple[int, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the tokens of each row."""
        return self.lens or (1,) * len(self.requests)

    def words(self) -> str:
        """Describe the step for a person: `decode 0, padding, 1 (2 tokens)`."""
        lengths = self.lengths
        rows = []
        for n, request in enumerate(self.requests):
            row = "padding" if request == PADDING else str(request)
            if self.act in CALLS and lengths[n] != 1:
                row += f" ({lengths[n]} tokens)"
            if self.parents and self.parents[n] != chain(lengths[n]):
                row += f" as a tree {self.parents[n]}"
            if self.accepted:
                row += f" {'none' if self.accepted[n] == REJECTED else f'up to token {self.accepted[n]}'}"
            rows.append(row)
        return f"{self.act} {', '.join(rows)}"


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
    """The sizes that limit a serving loop: slots of its pool, rows of its buffer, tokens of a draft."""

    @property
    def slots(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def draft(self) -> int: ...


@dataclass
class Book:
    """Keep track of which requests are there and which steps may come next.

    `live` holds the requests that arrived and have not finished, `drafts` the parents of each request's draft
    that waits for its commit.
    """

    loop: Loop
    arrived: int = 0
    live: list[int] = field(default_factory=list)
    drafts: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def ready(self) -> list[int]:
        """List the requests that a call may name: those without a draft that waits."""
        return [one for one in self.live if one not in self.drafts]

    @property
    def free_slots(self) -> int:
        """Count the slots that no live request has."""
        return self.loop.slots - len(self.live)

    @property
    def free_rows(self) -> int:
        """Count the buffer rows that no waiting draft has."""
        return self.loop.rows - len(self.drafts)

    def apply(self, step: Step) -> None:
        """Note a step. Raises ValueError if it cannot be next."""
        require(step.act in ACTS, f"act: expected one of {', '.join(ACTS)}, got {step.act!r:.40}")
        require(len(step.requests) > 0, f"{step.act}: at least one request or row of padding")
        named = [one for one in step.requests if one != PADDING]
        require(len(set(named)) == len(named), f"{step.act}: a request twice, in {step.requests}")
        require(
            step.act == "commit" or not step.accepted,
            f"{step.act}: only a commit accepts, got {step.accepted}",
        )
        require(
            step.act in CALLS or not (step.lens or step.parents), f"{step.act}: takes no lens, and no parents"
        )
        if step.act in CALLS:
            self._call(step, named)
            return
        require(len(named) == len(step.requests), f"{step.act}: no padding, got {step.requests}")
        getattr(self, f"_{step.act}")(step, named)

    def _arrive(self, step: Step, named: list[int]) -> None:
        """Let the next request arrive, if a slot is free."""
        require(named == [self.arrived], f"arrive: the next request is {self.arrived}, got {step.requests}")
        require(self.free_slots > 0, f"arrive: all {self.loop.slots} slots are taken")
        self.live.append(self.arrived)
        self.arrived += 1

    def _finish(self, step: Step, named: list[int]) -> None:
        """Let a live request finish; its draft is dropped."""
        require(len(named) == 1 and named[0] in self.live, f"finish: one live request, got {step.requests}")
        self.live.remove(named[0])
        self.drafts.pop(named[0], None)

    def _commit(self, step: Step, named: list[int]) -> None:
        """Take the drafts of some requests as accepted up to a token."""
        require(all(one in self.drafts for one in named), f"commit: {step.requests} have not all a draft")
        require(len(step.accepted) == len(named), f"commit: accepted, one a request, got {step.accepted}")
        for one, accepted in zip(named, step.accepted, strict=True):
            length = len(self.drafts.pop(one))
            require(REJECTED <= accepted < length, f"commit: accepted -1 to {length - 1}, got {accepted}")

    def _call(self, step: Step, named: list[int]) -> None:
        """Check the rows of a call; the drafts of a verify then wait for their commit."""
        act, lengths = step.act, step.lengths
        ready = self.ready
        require(all(one in ready for one in named), f"{act}: {step.requests} are not all live and ready")
        require(len(lengths) == len(step.requests), f"{act}: lens, one a row, got {step.lens}")
        least = 0 if act in ("extend", "update") else 1
        most = {"packed_decode": 1, "verify": self.loop.draft}.get(act, MOST_TOKENS)
        require(
            all(least <= length <= most for length in lengths),
            f"{act}: lens {least} to {most}, got {lengths}",
        )
        require(sum(lengths) <= MOST_TOKENS, f"{act}: at most {MOST_TOKENS} tokens, got {sum(lengths)}")
        require(act == "verify" or not step.parents, f"{act}: only verify takes parents")
        if act != "verify":
            return
        require(len(named) <= self.free_rows, f"verify: {self.free_rows} buffer rows are free")
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
