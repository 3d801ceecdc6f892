"""Writes requirements.lock, for `make lock`: a version of all that work on diffgdn needs, with its hashes.

torch and triton are looked at, so that what they share with the rest fits them, and left out with the CUDA
packages below them: which build of torch is installed, tools/bootstrap.py decides on each machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
EXTRAS = ("test", "lint", "docs", "coverage")
OLDEST_PYTHON = "3.11"
PRERELEASES = ("sphinx-basic-ng>=1.0.0b2",)  # furo needs it, and it has no release
LEFT_OUT = re.compile(r"(torch|triton|cuda-.*|nvidia-(?!ml-py).*)==")  # nvidia-ml-py is ours
HEAD = f"""\
# Made by `make lock` from pyproject.toml, of the extras {", ".join(EXTRAS)}; not by hand.
# `make setup LOCKED=1` installs these. torch and triton are chosen by tools/bootstrap.py.
"""


def wanted() -> list[str]:
    """Requirements of the project and of these extras, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*PRERELEASES, *project["dependencies"], *(line for name in EXTRAS for line in extras[name])]


def resolved(requirements: list[str]) -> str:
    """What uv makes of them: pins with hashes, for every Python from OLDEST_PYTHON on."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "-"]
    command += ["--universal", "--python-version", OLDEST_PYTHON, "--prerelease", "explicit"]
    command += ["--generate-hashes", "--no-header", "--no-annotate"]
    asked = "\n".join(requirements)
    return subprocess.run(command, input=asked, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def kept(pins: str) -> str:
    """The pins that the lock holds; one starts at the left margin, and its hashes are indented below it."""
    blocks = re.split(r"^(?=\S)", pins, flags=re.MULTILINE)
    return "".join(block for block in blocks if not LEFT_OUT.match(block))


def main() -> int:
    try:
        pins = resolved(wanted())
    except subprocess.CalledProcessError as error:
        print(f"[lock] uv found no versions that fit together:\n{error.stderr}", file=sys.stderr)
        return 2
    LOCK.write_text(HEAD + kept(pins))
    print(f"[lock] {LOCK.name}: {len(re.findall(r'^[a-z]', kept(pins), re.MULTILINE))} pins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
