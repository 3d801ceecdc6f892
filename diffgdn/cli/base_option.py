"""What --against names: a revision of the target's repository, a wheel or a folder, or another target."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffgdn.backend import git_tree
from diffgdn.backend.git_tree import GitError
from diffgdn.backend.revision import INSTALLED, Revision
from diffgdn.cases import target_names
from diffgdn.cases.target_names import BUILT_IN, RELEASED
from diffgdn.cli.options import Problem

if TYPE_CHECKING:
    from diffgdn.runner.baseline import Base

OWN = ("vk", "kv")  # whose kernels may be those of another revision

against_option = click.option(
    "--against",
    metavar="REF",
    help="Only what this does not fail too counts: a git revision of the target's repository, a wheel or a "
    "folder of a released package, or another target.",
)


@contextmanager
def base_of(target: str, ref: str | None) -> Iterator[Base | None]:
    """Give the base that a REF names for a target; None without one. A revision lies in a temporary folder
    meanwhile. Raises Problem.
    """
    if ref is None:
        yield None
        return
    from diffgdn.runner.baseline import Base

    other = _other_target(target, ref)
    if other is not None:
        if other == target:
            raise Problem(f"--against {ref}: it is the target itself")
        yield Base(ref, other)
        return
    place = _place(target, ref)
    root = _root(place, ref)
    commit = _commit(root, ref)
    with tempfile.TemporaryDirectory(prefix="diffgdn-base-") as folder:
        copy = Path(folder).resolve() / "copy"
        try:
            git_tree.lay_out(root, commit, copy)
        except GitError as error:
            raise Problem(f"--against {ref}: {commit[:10]} cannot be laid out: {error}") from None
        revision = Revision(str(root), str(copy), _package_folder(target, place))
        yield Base(ref, _moved(target, revision), revision, commit)


def _other_target(target: str, ref: str) -> str | None:
    """Return the target that a REF names; None if it is to be a revision."""
    name, _ = target_names.split(target)
    if ref in BUILT_IN or ":" in ref or target_names.split(ref)[1] is not None:
        return ref  # no revision has a colon in its name
    if name not in RELEASED:
        return None
    if not Path(ref).exists():
        raise Problem(f"--against {ref}: there is no such wheel or folder of {name}, nor such a target")
    return target_names.at(target, ref)


def _place(target: str, ref: str) -> Path:
    """Return the file or the folder of a target's code. Imports nothing. Raises Problem."""
    if target in OWN:
        found = importlib.util.find_spec("diffgdn.kernels")
        assert found is not None
        assert found.origin is not None
        return Path(found.origin).resolve()
    module, _, _ = target.rpartition(":")
    if module.endswith(".py"):
        if not Path(module).is_file():
            raise Problem(f"target file {module!r} does not exist")
        return Path(module).resolve()
    top = module.partition(".")[0]
    if not module or top == "diffgdn":
        raise Problem(
            f"--against {ref}: it would be a revision, which a target has that is a file or a module of "
            f"yours, {' or '.join(OWN)}; for {target} name another target"
        )
    found = importlib.machinery.PathFinder.find_spec(top, [os.getcwd(), *sys.path])
    found = found or importlib.util.find_spec(top)
    places = [] if found is None else [*(found.submodule_search_locations or ()), found.origin or ""]
    place = next((place for place in places if Path(place).exists()), None)
    if place is None:
        raise Problem(f"--against {ref}: target module {top!r} lies nowhere")
    return Path(place).resolve()


def _root(place: Path, ref: str) -> Path:
    """Return the top folder of the repository in which a place lies. Raises Problem."""
    folder = place if place.is_dir() else place.parent
    told = _git(folder, ref, "rev-parse", "--show-toplevel")
    if told is None or INSTALLED & set(place.parts):
        raise Problem(
            f"--against {ref}: {place} lies in no git repository, and {ref!r} is neither a target nor, of a "
            "released package, a wheel or a folder"
        )
    return Path(told).resolve()


def _commit(root: Path, ref: str) -> str:
    """Return the commit that a REF stands for in a repository. Raises Problem."""
    told = _git(root, ref, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if told is None:
        hint = ""
        if _git(root, ref, "rev-parse", "--is-shallow-repository") == "true":
            hint = "; the clone is shallow: fetch all of it (fetch-depth: 0 of actions/checkout)"
        raise Problem(f"--against {ref}: {root} has no such revision{hint}")
    return told


def _git(folder: Path, ref: str, *command: str) -> str | None:
    """Run git in a folder: what it says, or None where it fails. Raises Problem where there is no git."""
    try:
        return git_tree.git(folder, *command)
    except GitError as error:
        if error.missing:
            raise Problem(f"--against {ref}: {error}") from None
        return None


def _package_folder(target: str, place: Path) -> str:
    """Return the folder from which a target that is a module is imported; "" for others."""
    if target in OWN or target.rpartition(":")[0].endswith(".py"):
        return ""
    return str(place.parent)


def _moved(target: str, revision: Revision) -> str:
    """Return a target's name in the copy: a file that is named by its full path has another there."""
    module, _, name = target.rpartition(":")
    if module.endswith(".py") and Path(module).is_absolute():
        return f"{revision.moved(module)}:{name}"
    return target
