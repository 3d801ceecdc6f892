"""The table of generated mutants: how many an operator makes, how many were found, and which were not."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from diffgdn.mutants.equivalent import EQUIVALENT, NOT_LOOKED_AT
from diffgdn.mutants.generated import file_of, operator_of
from diffgdn.mutants.mutant import Mutant

Records = Mapping[str, Mapping[str, Any]]  # what came of each mutant, by id, as `hunts.entry` makes it


def line(record: Mapping[str, Any]) -> str:
    """Say in a line what came of a go at a mutant."""
    name = f"{record['mutant']:44}"
    if record["found"]:
        result = f" in {record['result']}" if record["result"] else ""
        where = f"{record['operation']}, {record['kind']}{result}"
        return f"{name} {record['seconds']:5.1f} s, case {record['cases']:<5} {where}"
    if record["problem"] is not None:
        return f"{name} NOTHING CAN BE SAID: {record['problem']}"
    word = "SURVIVED" if record["final"] else "not yet"
    return f"{name} {word}  {record['cases']} cases in {record['seconds']:.0f} s; {record['about']}"


def numbers(mutants: Sequence[Mutant]) -> Iterator[str]:
    """Say how many mutants there are of each operator, and of each file."""
    for what, key in (("operator", _operator), ("file", file_of)):
        for name, number in sorted(Counter(map(key, mutants)).items()):
            yield f"{name:28} {number:5}"
        yield f"{'all, by ' + what:28} {len(mutants):5}"
        yield ""


def rows(
    mutants: Sequence[Mutant], records: Records, key: Callable[[Mutant], str]
) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Give, for each operator or file and for all, how many: made, equivalent, hunted, found, and not.

    Not hunted to the end are those that none of the last two count.
    """
    for name in (*sorted({key(mutant) for mutant in mutants}), "all"):
        group = [mutant.id for mutant in mutants if name in ("all", key(mutant))]
        equivalent = sum(one in EQUIVALENT for one in group)
        ended = [records[one] for one in group if one not in EQUIVALENT and one in records]
        found = sum(record["found"] for record in ended)
        survived = sum(record["final"] and not record["found"] for record in ended)
        yield name, len(group), equivalent, found + survived, found, survived


def survivors(mutants: Sequence[Mutant], records: Records) -> Iterator[Mapping[str, Any]]:
    """Give what is known of each mutant that is not equivalent and was not found."""
    for mutant in sorted(mutants, key=lambda one: one.id):
        record = records.get(mutant.id)
        if mutant.id not in EQUIVALENT and record is not None and record["final"] and not record["found"]:
            yield record


def summary(mutants: Sequence[Mutant], records: Records) -> Iterator[str]:
    """Say what became of them: by operator, by file, the times to find, and which were not found."""
    for what, key in (("operator", _operator), ("file", file_of)):
        yield f"{'by ' + what:28} {'made':>5} {'equivalent':>10} {'hunted':>6} {'found':>5} {'not':>4}"
        for name, made, equivalent, hunted, found, survived in rows(mutants, records, key):
            yield f"{name:28} {made:5} {equivalent:10} {hunted:6} {found:5} {survived:4}"
        yield ""
    *_, (_, _, _, hunted, found, _) = rows(mutants, records, _operator)
    if hunted:
        yield f"{found} of {hunted} found, {100 * found / hunted:.1f} %"
    times = [record["seconds"] for record in records.values() if record["found"]]
    if times:
        whole = [record["wall"] for record in records.values() if record["found"]]
        yield (
            f"time to find: median {statistics.median(times):.1f} s of exploration, "
            f"{statistics.median(whole):.1f} s with start-up; slowest {max(times):.1f} s"
        )
    for record in survivors(mutants, records):
        yield line(record)
        if record["mutant"] in NOT_LOOKED_AT:
            yield f"{'':44} {NOT_LOOKED_AT[record['mutant']]}"


def markdown(mutants: Sequence[Mutant], records: Records) -> Iterator[str]:
    """Write the tables of a documentation page."""
    for what, key in (("operator", _operator), ("file", file_of)):
        yield f"| {what} | made | equivalent | hunted | found | not found |"
        yield "|---|---|---|---|---|---|"
        for row in rows(mutants, records, key):
            yield f"| {' | '.join(map(str, row))} |"
        yield ""
    yield "| not found | what is wrong | cases | why |"
    yield "|---|---|---|---|"
    for record in survivors(mutants, records):
        reason = _cell(NOT_LOOKED_AT.get(record["mutant"], record["problem"] or "-"))
        yield f"| {record['mutant']} | {_cell(record['about'])} | {record['cases']} | {reason} |"
    yield ""
    yield "| equivalent | what is changed | why nothing can find it |"
    yield "|---|---|---|"
    for mutant in sorted(mutants, key=lambda one: one.id):
        if mutant.id in EQUIVALENT:
            yield f"| {mutant.id} | {_cell(mutant.about)} | {_cell(EQUIVALENT[mutant.id])} |"


def _operator(mutant: Mutant) -> str:
    return operator_of(mutant.id)


def _cell(text: str) -> str:
    """Return a text as it may stand in a table of Markdown."""
    return text.replace("|", "\\|")
