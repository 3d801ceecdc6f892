"""Metamorphic relations: what must hold between the results of several calls, whatever is right.

`catalogue` names them and says to which cases each applies; `related` makes the other calls, of `pick`ed
sequences and tokens; `sides` labels results by what they are; `judge` compares. Nothing here imports torch
before a relation is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffgdn.verdict.relations.registry import RELATIONS, Relation, get, of

if TYPE_CHECKING:
    from diffgdn.cases.case import Case
    from diffgdn.targets import Target
    from diffgdn.verdict.failures import Verdict

__all__ = ["RELATIONS", "Relation", "get", "of", "run"]


def run(case: Case, target: Target, backend: str, name: str) -> Verdict:
    """The verdict on a case under the relation of a name; refused where it says nothing about the case."""
    from diffgdn.verdict.relations import compare

    return compare.run(case, target, backend, name)
