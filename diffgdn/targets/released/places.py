"""Where a released package lies: installed, in a folder, or in a wheel, which is unpacked once."""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
import re
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from diffgdn.targets.base import TargetError

UNKNOWN = "unknown"
INSIDE = ("", "python", "src")  # where a checkout has its package
SAYS_VERSION = ("version.py", "_version.py", "__init__.py")
MOST_UNPACKED = 4 << 30  # bytes


@dataclass(frozen=True)
class Place:
    """A folder that holds a package.

    root: the folder to import from. version: of the package, UNKNOWN if nothing says so. words: where it is
    from, as findings have it. whole: whether it may be imported as it is; what was unpacked from a wheel
    has none of what the wheel depends on.
    """

    root: Path
    version: str
    words: str
    whole: bool

    def said(self, distribution: str) -> dict[str, str]:
        """Say which package this is and where it is from, as findings have it."""
        return {"package": f"{distribution} {self.version}", "from": self.words}


def installed(distribution: str, package: str) -> Place | None:
    """Find the installed package; None if there is none. Nothing of it is imported."""
    try:
        spec = importlib.machinery.PathFinder.find_spec(package, sys.path)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations))).parent
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        version = _version(root, distribution, package)
    return Place(root, version, "installed", True)


def given(distribution: str, package: str, place: str, wanted: tuple[str, ...]) -> Place:
    """Find a package in a wheel or a folder.

    wanted: the paths in a wheel, by how they begin, that are unpacked; none for all. Raises TargetError.
    """
    path = Path(place)
    if path.is_dir():
        roots = [path / inside for inside in INSIDE if (path / inside / package).is_dir()]
        if not roots:
            raise TargetError(f"{place}: a folder without {package}/")
        whole = (roots[0] / package / "__init__.py").is_file()
        return Place(roots[0].resolve(), _version(roots[0], distribution, package), f"folder {place}", whole)
    if not path.is_file():
        raise TargetError(f"{place}: no such wheel or folder")
    try:
        root = _unpacked(path, wanted)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise TargetError(f"{place}: cannot be unpacked as a wheel: {error}") from None
    if not (root / package).is_dir():
        raise TargetError(f"{place}: a wheel without {package}/")
    return Place(root, _version(root, distribution, package), f"wheel {path.name}", False)


def _version(root: Path, distribution: str, package: str) -> str:
    """Read a version from the name of metadata beside the package, or from a line of its code."""
    stem = re.sub(r"[-_.]+", "_", distribution).lower()
    for folder in sorted(root.glob("*.dist-info")):
        name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
        if re.sub(r"[-_.]+", "_", name).lower() == stem and version:
            return version
    for name in SAYS_VERSION:
        file = root / package / name
        if file.is_file():
            found = re.search(
                r"^__version__\s*(?::[^=]*)?=\s*[\"']([^\"'\n]{1,60})[\"']",
                file.read_text(errors="replace"),
                re.M,
            )
            if found:
                return found.group(1)
    return UNKNOWN


def _cache() -> Path:
    """The user's own folder for what is unpacked."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "diffgdn" / "wheels"


def _unpacked(wheel: Path, wanted: tuple[str, ...]) -> Path:
    """Unpack a wheel, or find it unpacked. Several processes may do so at once: the folder appears whole."""
    about = wheel.stat()
    key = repr((str(wheel.resolve()), about.st_size, about.st_mtime_ns, wanted))
    root = _cache() / f"{wheel.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if root.is_dir():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=root.parent, prefix=".unpacking-"))
    try:
        with zipfile.ZipFile(wheel) as file:
            names = [one for one in file.infolist() if _is_wanted(one.filename, wanted)]
            if sum(one.file_size for one in names) > MOST_UNPACKED:
                raise ValueError(f"more than {MOST_UNPACKED} bytes")
            for one in names:
                file.extract(one, folder)
        try:
            folder.rename(root)
        except OSError:
            if not root.is_dir():  # another process was first
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return root


def _is_wanted(name: str, wanted: tuple[str, ...]) -> bool:
    """Tell whether a file of a wheel is unpacked: what it takes to import, or says its version."""
    parts = PurePosixPath(name).parts
    if name.endswith("/") or not parts or parts[0] == "/" or ".." in parts:
        return False
    if parts[0].endswith(".dist-info"):
        return parts[-1] == "METADATA"
    return not wanted or name.startswith(wanted)
