"""What command-line arguments mean, and what is wrong with them, in one line each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffgdn.backend import selection as backends
from diffgdn.cases import operations, target_names
from diffgdn.runner import duration, ways

if TYPE_CHECKING:
    from diffgdn.findings.known import KnownFailures

MOST_SEED = 2**64 - 1
Option = Callable[[Any], Any]  # a decorator, as click types it
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Problem(click.ClickException):
    """A usage or set-up problem: one line, exit status 2."""

    exit_code = 2


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click alone
    """90, 90s, 1.5m, 8h: seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return duration.seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Workers(click.ParamType):  # type: ignore[type-arg]
    """`auto`, which becomes 0, or a number of processes."""

    name = "workers"
    most = 1024

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto" or isinstance(value, int):
            return 0 if value == "auto" else value
        if not value.isdecimal() or not 1 <= int(value) <= self.most:
            self.fail(f"expected auto or a number from 1 to {self.most}, got {value!r}", param, ctx)
        return int(value)


def chosen_backend(asked: str | None) -> str:
    """The backend that was asked for, or the one this machine has. Raises Problem."""
    try:
        backend = asked or backends.detect()
    except ValueError as error:
        raise Problem(str(error)) from None
    missing = backends.gpu_missing() if backend == "gpu" else None
    if missing is not None:
        raise Problem(f"backend gpu: {missing}; --backend interpret runs kernels on the CPU")
    return backend


def writable_folder(path: Path, option: str) -> None:
    """Raise Problem unless files can be created in the folder, which need not exist yet. Creates nothing."""
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise Problem(f"{option} {path}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise Problem(f"{option} {path}: {existing} is not writable")


def writable_file(path: Path, option: str) -> None:
    """Raise Problem unless the file can be written. Creates nothing."""
    if path.is_dir():
        raise Problem(f"{option} {path}: it is a folder")
    if not path.parent.exists():
        raise Problem(f"{option} {path}: folder {path.parent} does not exist")
    writable_folder(path.parent, option)


def known_failures(run_crashes: bool = False) -> KnownFailures:
    """The known failures of the nearest diffgdn.toml or pyproject.toml that has any. Raises Problem."""
    from diffgdn.findings import known_file

    try:
        return known_file.declared(run_crashes=run_crashes)
    except ValueError as error:
        raise Problem(str(error)) from None


def placed(target: str, place: str | None) -> str:
    """The target whose package lies in a wheel or a folder. Raises Problem where a target has no package."""
    try:
        return target_names.at(target, place)
    except ValueError as error:
        raise Problem(f"--from {place}: {error}") from None


def operations_matching(pattern: str) -> tuple[str, ...]:
    """The operations that a shell pattern names. Raises Problem if it names none."""
    try:
        return operations.matching(pattern)
    except ValueError as error:
        raise Problem(f"--op: {error}") from None


# Options that several commands have. They are spelled alike; what they count differs, and so their help may.

op_option = click.option(
    "--op", "pattern", default="*", show_default=True, help="Operations, as a shell pattern: 'gdn.*'."
)

isolation_option = click.option(
    "--isolation",
    type=click.Choice(ways.WAYS),
    help="Run kernels in a child process that may die, or in the worker itself.  "
    "[default: child on a GPU and for targets that are not built in]",
)

_SECONDS = backends.HANG_SECONDS
hang_option = click.option(
    "--hang-after",
    "hang_seconds",
    type=Duration(),
    help="After how long a case counts as hung.  "
    f"[default: {_SECONDS['interpret']:g}s in the interpreter, {_SECONDS['gpu']:g}s on a GPU]",
)

unreached_option = click.option(
    "--allow-unreached",
    is_flag=True,
    help="Exit 0 also where no case ended, or operations were left unreached.",
)

crashes_option = click.option(
    "--run-known-crashes",
    is_flag=True,
    help="Also run cases that are known to crash or to hang, each of which costs a process.",
)

trust_option = click.option(
    "--trust-targets",
    "trusted",
    is_flag=True,
    help="Also run targets that findings name outside of this folder: their code runs on your machine.",
)

from_option = click.option(
    "--from",
    "place",
    type=click.Path(),
    metavar="WHEEL_OR_FOLDER",
    help="Take the target's package from here, not what is installed (sglang, vllm, fla, ...).",
)

backend_option = click.option(
    "--backend",
    "--lane",  # as it was called at first
    "backend",
    type=click.Choice(backends.BACKENDS),
    help="Where kernels run: a GPU, or Triton's interpreter on the CPU.  [default: a GPU if there is one]",
)


def max_time_option(words: str) -> Option:
    """--max-time TIME, as `max_time` in seconds or None."""
    return click.option("--max-time", type=Duration(), help=words)


def max_cases_option(words: str) -> Option:
    """--max-cases N, as `max_cases` or None."""
    return click.option("--max-cases", type=click.IntRange(min=1), help=words)


def workers_option(words: str) -> Option:
    """--workers N or auto, as `workers`, which is 0 for auto."""
    return click.option("--workers", type=Workers(), default="auto", show_default=True, help=words)


def seed_option(words: str) -> Option:
    """--seed N, as `seed` or None."""
    return click.option("--seed", type=click.IntRange(0, MOST_SEED), help=words)


def json_option(words: str) -> Option:
    """--json FILE, as `json_file` or None."""
    return click.option("--json", "json_file", type=click.Path(path_type=Path), help=words)
