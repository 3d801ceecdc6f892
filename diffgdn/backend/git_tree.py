"""Asks git about a repository, and lays out the files of a commit. The repository is left as it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


class GitError(ValueError):
    """Raised for what git does not do, in one line of its own words. missing: there is no git."""

    def __init__(self, said: str, missing: bool = False) -> None:
        super().__init__(said)
        self.missing = missing


def git(folder: Path, *words: str, environment: Mapping[str, str] | None = None) -> str:
    """Return what a command of git says in a folder. Raises GitError."""
    command = ["git", "-C", str(folder), *words]
    told = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env=told
        )
    except FileNotFoundError:
        raise GitError("git is not installed", missing=True) from None
    except OSError as error:
        raise GitError(error.strerror or str(error)) from None
    if done.returncode:
        raise GitError((done.stderr.strip().splitlines() or ["no message"])[0])
    return done.stdout.strip()


def lay_out(repository: Path, commit: str, copy: Path) -> None:
    """Write all files of a commit into a new folder, by an index of its own beside it. Raises GitError."""
    copy.mkdir()
    own = {"GIT_INDEX_FILE": str(copy.parent / f"{copy.name}.index")}
    git(repository, "read-tree", commit, environment=own)
    git(repository, "checkout-index", "--all", f"--prefix={copy}/", environment=own)
