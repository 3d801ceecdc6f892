"""Metamorphic relations: what must hold between the results of several calls, whatever is right.

`registry` names them and says to which cases each applies; `transforms` makes the other calls, of sequences
and tokens that `subsets` picks; `labelled_results` says of each row what it is; `compare` compares. Nothing
here imports torch before a relation is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffgdn.verdict.relations.registry import RELATIONS, Relation, applicable, get

if TYPE_CHECKING:
    from diffgdn.cases.case import Case
    from diffgdn.targets import Target
    from diffgdn.verdict.failures import Verdict

__all__ = ["RELATIONS", "Relation", "applicable", "get", "run"]


def run(case: Case, target: Target, backend: str, name: str) -> Verdict:
    """Ask the relation of a name of a case; the verdict is refused if it says nothing about the case.

    Raises ValueError for an unknown relation.
    """
    from diffgdn.verdict.relations import compare

    return compare.run(case, target, backend, name)
