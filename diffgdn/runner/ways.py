"""Where a kernel runs: in a child process under a watchdog, or in this process.

Both ways answer the same questions (`Runner`). A child is spawned, never forked; it alone imports torch,
holds the CUDA context and takes the blow: its end is a verdict, and another child takes its place. Nothing
here imports torch.
"""

from __future__ import annotations

from pathlib import Path

from diffgdn.runner.in_child import InChild
from diffgdn.runner.messages import About, Familiar, Runner, RunnerError, SetupError, unfamiliar

__all__ = [
    "WAYS",
    "About",
    "Familiar",
    "InChild",
    "Runner",
    "RunnerError",
    "SetupError",
    "chosen",
    "runner",
    "unfamiliar",
]

WAYS = ("child", "none")
FAMILIAR = ("vk", "kv", "eager")  # our own: in the interpreter they have nothing that ends a process


def chosen(asked: str | None, target: str, backend: str) -> str:
    """How a target runs: as asked; else in a child on a GPU and for foreign targets, in this process where
    Triton's interpreter runs our own.
    """
    return asked or ("none" if backend == "interpret" and target in FAMILIAR else "child")


def runner(
    way: str, backend: str, log: Path, hang_seconds: float | None = None, memory_bytes: int | None = None
) -> Runner:
    """A runner of one of the WAYS. This process must have entered the backend and bound its GPU.

    log: where a child writes what it prints. hang_seconds: after which a child's case counts as hung.
    memory_bytes: of host memory, that a child may occupy. None: the usual. Raises SetupError where nothing
    can be run.
    """
    if way == "child":
        return InChild(backend, log, hang_seconds, memory_bytes)
    if way == "none":
        from diffgdn.runner.in_process import InProcess

        return InProcess(backend)
    raise ValueError(f"isolation: expected {' or '.join(WAYS)}, got {way!r}")
