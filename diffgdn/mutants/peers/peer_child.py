"""Runs a peer's tests on a mutant, in a process that may die over it: one line of JSON for each test.

`python -m diffgdn.mutants.peers.peer_child MUTANT PEER BACKEND [--all]`. MUTANT is an id, or - for the
kernels as they are. It ends with the first test that fails, unless all are asked for.
"""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffgdn.mutants.mutant import Mutant

# Files of prefill in two stages, which takes gdn in bf16 with chunks of 64 and K and V of 64 or 128.
TWO_STAGES = ("chunk_matrices.py", "segment_starts.py", "split_inverse.py", "walk.py")


def main(mutant: str, peer: str, backend: str, everything: bool) -> None:
    """Run the tests in the order of their files, as the peer does, in one process."""
    from diffgdn.backend import selection

    selection.enter(backend)
    from diffgdn import kernels
    from diffgdn.mutants import mutated_kernels
    from diffgdn.mutants.catalogue import MUTANTS
    from diffgdn.mutants.peers import peer_run
    from diffgdn.mutants.peers.seen import tests_for

    module = kernels if mutant == "-" else mutated_kernels.load(MUTANTS[mutant])
    if mutant != "-":
        reach(module, MUTANTS[mutant])
    for test in tests_for(None if mutant == "-" else MUTANTS[mutant], peer, backend):
        print(json.dumps({"test": test.name, "failed": None, "begins": True}), flush=True)
        failed = peer_run.failure(module, test, "cuda" if backend == "gpu" else "cpu")
        print(json.dumps({"test": test.name, "failed": failed, "begins": False}), flush=True)
        if failed is not None and not everything:
            return


def reach(module: ModuleType, mutant: Mutant) -> None:
    """Have prefill run in the stages that a mutant is in, which a peer has in their place whatever its dtype
    and sizes. module: the kernels with the mutant's edits.
    """
    files = [edit.file.removeprefix("chunk/") for edit in mutant.edits if edit.file.startswith("chunk/")]
    tiles: Any = importlib.import_module(f"{module.__name__}.chunk.chunk_tiles")
    tiles.TWO_STAGES = all(file in TWO_STAGES for file in files)


if __name__ == "__main__":
    MUTANT, PEER, BACKEND = sys.argv[1:4]
    main(MUTANT, PEER, BACKEND, "--all" in sys.argv[4:])
