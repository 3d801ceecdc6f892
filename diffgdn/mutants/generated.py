"""The mutants that operators make of the kernels as they are now, by id."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import zip_longest
from random import Random

from diffgdn.mutants import operators_launch, operators_masks, operators_places, operators_values
from diffgdn.mutants.kernel_sources import served, sources
from diffgdn.mutants.mutant import Mutant
from diffgdn.mutants.operators import OPERATORS, functions, mutants_of, operator_of

_FILES = operators_masks, operators_places, operators_values, operators_launch  # which define the operators


@cache
def generated() -> dict[str, Mutant]:
    """Make all mutants of all kernels, file by file. Needs no torch."""
    texts = sources()
    found = (
        mutant
        for file, text in texts.items()
        for code in functions(file, text)
        for mutant in mutants_of(code, served(file, code.name, texts))
    )
    return {mutant.id: mutant for mutant in found}


def file_of(mutant: Mutant) -> str:
    """Name the file that a mutant of an operator changes."""
    return mutant.edits[0].file


def sample(mutants: Iterable[Mutant], number: int, seed: int) -> tuple[Mutant, ...]:
    """Choose so many mutants, spread over operators and files, the same ones for the same seed.

    Operators take turns, and of each its files do: in an order that the seed gives.
    """
    random = Random(seed)
    groups: dict[str, dict[str, list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for mutant in mutants:
        groups[operator_of(mutant.id)][file_of(mutant)].append(mutant)
    lines = []
    for files in groups.values():
        rows = list(files.values())
        for row in rows:
            random.shuffle(row)
        random.shuffle(rows)
        lines.append([mutant for turn in zip_longest(*rows) for mutant in turn if mutant is not None])
    random.shuffle(lines)
    return tuple([mutant for turn in zip_longest(*lines) for mutant in turn if mutant is not None][:number])


__all__ = ["OPERATORS", "file_of", "generated", "operator_of", "sample"]
