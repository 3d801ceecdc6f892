"""The bugs that are put back, by id: each shipped elsewhere, or has the shape of one that did."""

from __future__ import annotations

from diffgdn.mutants import chunk_bugs, launch_bugs, memory_bugs, numeric_bugs, recurrent_bugs
from diffgdn.mutants.mutant import Mutant

_FILES = (chunk_bugs, numeric_bugs, memory_bugs, recurrent_bugs, launch_bugs)

MUTANTS: dict[str, Mutant] = {mutant.id: mutant for file in _FILES for mutant in file.BUGS}
