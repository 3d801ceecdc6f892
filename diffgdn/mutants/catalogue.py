"""The bugs that are put back, by id: each shipped elsewhere, or has the shape of one that did."""

from __future__ import annotations

from diffgdn.mutants import chunk_bugs, recurrent_bugs
from diffgdn.mutants.mutant import Mutant

MUTANTS: dict[str, Mutant] = {mutant.id: mutant for mutant in (*chunk_bugs.BUGS, *recurrent_bugs.BUGS)}
