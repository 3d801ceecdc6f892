"""The kinds of axes that promises have, and what a case has on each axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffgdn.cases import company, execution, lay, operand_options, spans, state_options
from diffgdn.cases.case_checks import MAX_TREE_STEPS
from diffgdn.cases.json_record import require
from diffgdn.cases.spans import Numbers, Span

if TYPE_CHECKING:
    from diffgdn.cases.case import Case

BATCHES = ("packed", "dense", "batched")
MOST_TREE = MAX_TREE_STEPS - 3  # tokens of a tree, so that the buffer may have a few steps more


def shown(value: Any) -> str:
    """Write a value as TOML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Words:
    """An axis of a few values, of which some are listed."""

    known: tuple[Any, ...]

    def read(self, name: str, given: Any) -> tuple[Any, ...]:
        """Check the values that are taken, and return them in the axis' own order. Raises ValueError."""
        expected = f"{name}: expected a list of {', '.join(map(shown, self.known))}, got {given!r:.80}"
        require(isinstance(given, (list, tuple)) and len(given) > 0, expected)
        kinds = {type(value) for value in self.known}
        require(all(type(value) in kinds and value in self.known for value in given), expected)
        return tuple(value for value in self.known if value in given)

    def takes(self, promised: tuple[Any, ...], value: Any) -> bool:
        """Tell whether a value is promised."""
        return value in promised

    def words(self, promised: tuple[Any, ...]) -> str:
        """Say what is promised."""
        return ", ".join(map(shown, promised))


@dataclass(frozen=True)
class Word:
    """What is said of results, in one of a few words: no axis of cases."""

    known: tuple[str, ...]

    def read(self, name: str, given: Any) -> str:
        """Check the word. Raises ValueError."""
        require(given in self.known, f"{name}: expected one of {', '.join(self.known)}, got {given!r:.80}")
        return str(given)


@dataclass(frozen=True)
class Flag:
    """An axis that says whether something may occur."""

    def read(self, name: str, given: Any) -> bool:
        """Check the flag. Raises ValueError."""
        require(type(given) is bool, f"{name}: expected true or false, got {given!r:.80}")
        return bool(given)

    def takes(self, promised: bool, value: bool) -> bool:
        """Tell whether it occurs only where it may."""
        return promised or not value

    def words(self, promised: bool) -> str:
        """Say what is promised."""
        return shown(promised)


def _span(name: str, given: Any, least: float, most: float, kinds: tuple[type, ...]) -> Span:
    """Read a span within limits, as `Span` or as a table. Raises ValueError."""
    ends = f"numbers from {least:g} to {most:g}"
    if isinstance(given, dict):
        unknown = sorted(set(given) - {"least", "most", "multiple"})
        require(not unknown, f"{name}: expected least, most and multiple, got {unknown}")
        given = Span(**given)
    require(isinstance(given, Span), f"{name}: expected a list or a span of {ends}, got {given!r:.80}")
    low: Any = least if given.least is None else given.least
    high: Any = most if given.most is None else given.most
    right = type(low) in kinds and type(high) in kinds and least <= low <= high <= most
    right = right and type(given.multiple) is int and given.multiple >= 1
    require(right, f"{name}: expected {ends}, got {given!r}")
    return Span(low, high, given.multiple)


@dataclass(frozen=True)
class Whole:
    """An axis of whole numbers within limits: a list or a span of them."""

    least: int
    most: int

    def read(self, name: str, given: Any) -> Numbers:
        """Check the numbers that are taken; a list is sorted. Raises ValueError."""
        if not isinstance(given, (list, tuple)):
            span = _span(name, given, self.least, self.most, (int,))
            require(span.first <= span.last, f"{name}: no number is in {given!r}")
            return span
        require(
            len(given) > 0 and all(type(n) is int and self.least <= n <= self.most for n in given),
            f"{name}: expected whole numbers from {self.least} to {self.most}, got {given!r:.80}",
        )
        return tuple(sorted(set(given)))

    def takes(self, promised: Numbers, value: int) -> bool:
        """Tell whether a number is promised."""
        return spans.holds(promised, value)

    def words(self, promised: Numbers) -> str:
        """Say what is promised."""
        if isinstance(promised, tuple):
            return ", ".join(map(str, promised))
        step = f" in multiples of {promised.multiple}" if promised.multiple > 1 else ""
        most = (
            f"{promised.first} to {promised.last}"
            if promised.most != self.most
            else f"{promised.first} or more"
        )
        return most + step


@dataclass(frozen=True)
class Floats:
    """An axis of numbers below a limit: a list or a span of them."""

    least: float
    most: float

    def read(self, name: str, given: Any) -> Span | tuple[float, ...]:
        """Check the numbers that are taken. Raises ValueError."""
        if not isinstance(given, (list, tuple)):
            span = _span(name, given, self.least, self.most, (int, float))
            assert span.least is not None
            require(span.least < self.most, f"{name}: no number below {self.most:g} is in {given!r}")
            require(span.multiple == 1, f"{name}: expected least and most alone, got {given!r}")
            return span
        require(
            len(given) > 0 and all(type(n) in (int, float) and self.least < n < self.most for n in given),
            f"{name}: expected numbers below {self.most:g}, got {given!r:.80}",
        )
        return tuple(sorted({float(n) for n in given}))

    def takes(self, promised: Span | tuple[float, ...], value: float) -> bool:
        """Tell whether a number is promised."""
        if isinstance(promised, tuple):
            return value in promised
        assert promised.least is not None
        assert promised.most is not None
        return promised.least <= value <= promised.most

    def words(self, promised: Span | tuple[float, ...]) -> str:
        """Say what is promised."""
        if isinstance(promised, tuple):
            return ", ".join(map(str, promised))
        return f"{promised.least} to {promised.most}"


def asked(case: Case) -> Iterator[tuple[str, Any]]:
    """List (axis, value) for every axis on which a case has something to say."""
    yield from _sizes(case)
    yield from _tokens(case)
    yield from _slots(case)
    yield from _options(case)
    yield from lay.asked(case)
    yield from operand_options.asked(case)
    yield from state_options.asked(case)
    yield from company.asked(case)
    yield from execution.asked(case)


def _sizes(case: Case) -> Iterator[tuple[str, Any]]:
    yield "dtype", case.dtype
    yield "state_dtype", case.pool.dtype
    yield "gate_dtype", case.gates.dtype
    yield "K", case.K
    yield "V", case.V
    yield "square", case.K == case.V
    yield "H", case.H
    yield "HV", case.HV
    yield "ratio", case.HV // case.H
    if case.operation.is_chunked:
        yield "chunk_size", case.chunk_size


def _tokens(case: Case) -> Iterator[tuple[str, Any]]:
    for length in sorted({*case.lens} - {0}):
        yield "length", length
    yield "empty", 0 in case.lens
    yield "view", case.view
    if case.operation.single_token:
        return
    yield "batch", "batched" if case.batched else "packed" if case.packed else "dense"
    if case.packed:
        yield "cu_dtype", case.cu_dtype
        if not case.batched:
            yield "tail", case.tail


def _slots(case: Case) -> Iterator[tuple[str, Any]]:
    pool = case.pool
    if case.operation.has_pool:
        yield "index_dtype", case.index_dtype
    if case.operation.has_pool and case.values.state != "none":
        live = [index for index in pool.indices if index >= 0]
        yield "pitch", pool.pitch
        yield "padding", len(live) < len(pool.indices)
        yield "shared", len(set(live)) < len(live)
        yield "slot_zero", 0 in live
    if case.has_rows:
        unkept = any(row < 0 <= index for row, index in zip(pool.rows, pool.indices, strict=True))
        yield "unkept", unkept
        yield "spare_steps", pool.steps > max(1, *case.lens)


def _options(case: Case) -> Iterator[tuple[str, Any]]:
    kind, given = case.operation.kind, case.values.state != "none"
    yield "l2norm", case.l2norm
    yield "scale", "default" if case.scale is None else "given"
    yield "batch_invariant", case.batch_invariant
    if kind in ("extend", "recurrent"):
        yield "initial_state", given
        yield "final", case.final
    if (
        given
        and not case.keeps_steps
        and (kind in ("extend", "update", "decode") or case.op == "kda.recurrent")
    ):
        yield "inplace", case.inplace
    if kind == "extend":
        yield "boundary", case.boundary
    if case.operation.is_kda and case.raw_gates:
        yield "bounded", case.gates.lower_bound is not None
        if case.gates.lower_bound is not None:
            yield "lower_bound", case.gates.lower_bound
    if kind == "update":
        yield "steps", case.keeps_steps
    if case.needs_steps:
        yield "tree", bool(case.parents)
