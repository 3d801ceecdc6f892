"""Makes .venv ready: what `make test` and `make fuzz` run first. Needs python3 (3.11 or later), no more.

Three kinds of machine, told apart here and nowhere else:

- The python3 it is run with already has a suitable torch (a GPU image): .venv borrows everything from
  it, and only what is missing is installed. If nothing is, no network is used.
- A GPU and no torch: torch with CUDA, which brings the triton it was built with.
- No GPU: the one torch version named below, so that a CPU build of it is taken wherever pip is shown one
  (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL). It brings no triton: that comes with the rest, and its interpreter
  runs the kernels there.

Running it again costs nothing until pyproject.toml, setup.py, this file, the interpreter or the wish
changes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "ready"

MIN_PYTHON = (3, 11)
MIN_TORCH = (2, 11)
# Exact on purpose: pip prefers 2.13.0+cpu, where it can see one, to the plain 2.13.0 with its gigabytes
# of CUDA packages.
CPU_TORCH = "torch==2.13.0"
GPU_TORCH = "torch>=2.11"
ATTEMPTS = 3  # of an installation over the network

# Asked of the outer python3, in its own process: what it has, and where.
PROBE = """
import json, sys
answer = {"sites": [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]}
try:
    import torch
    answer["torch"] = [int(n) for n in torch.__version__.split("+")[0].split(".")[:2]]
    answer["version"] = torch.__version__
    answer["cuda"] = torch.version.cuda is not None or torch.version.hip is not None
    answer["gpu"] = torch.cuda.is_available()
except Exception as error:
    answer["why"] = f"{type(error).__name__}: {error}"
print(json.dumps(answer))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", default=["test"], help="of pyproject.toml (default: test)")
    parser.add_argument("--torch", default="", help="install this torch instead, as pip spells it")
    wish = parser.parse_args()
    extras = sorted({name for word in wish.extras for name in word.split(",") if name})

    if sys.version_info < MIN_PYTHON:
        return fail(
            f"python 3.11 or later is needed, {sys.executable} is {sys.version.split()[0]}.",
            "Name another one: make test PYTHON=python3.12",
        )
    if not sys.platform.startswith("linux"):
        return fail(
            f"Triton is built for Linux only, and this is {sys.platform}.",
            "A Linux container or WSL 2 will do.",
        )
    key = fingerprint(wish.torch)
    if VENV_PYTHON.exists() and all(stamped(name) == key for name in extras):
        return 0

    started = time.monotonic()
    outer = probe()
    gpu = has_gpu(outer)
    suitable = tuple(outer.get("torch", ())) >= MIN_TORCH and (outer["cuda"] or not gpu)
    borrowed = suitable and not wish.torch
    say(f"setting up {VENV.name} for {'a GPU' if gpu else 'the interpreter (no GPU found)'}")
    if not make_venv(borrowed):
        return fail(
            f"{sys.executable} could make no virtual environment: it has neither ensurepip nor pip.",
            "On Debian and Ubuntu: apt install python3-venv",
        )
    lend(outer["sites"] if borrowed else [])
    project = f"{ROOT}[{','.join(extras)}]"
    if borrowed:
        say(f"torch {outer['version']} is already there: borrowed from {sys.executable}")
        done = pip("--no-index", "--no-build-isolation", "--editable", project, quiet=True)
    else:
        torch = wish.torch or (GPU_TORCH if gpu else CPU_TORCH)
        if not holds_torch():
            say(f"installing {torch}: the largest download")
        if not pip_over_network(torch):
            return fail(
                f"{torch} could not be installed; pip says why above.",
                "Without a network, name a python3 that has torch: make test PYTHON=...",
            )
        done = False
    if not done:
        say("installing diffgdn and what it needs")
        if not pip_over_network("--editable", project):
            return fail("the installation failed; pip says why above.")
    STAMPS.mkdir(exist_ok=True)
    for name in extras:
        (STAMPS / name).write_text(key)
    say(f"ready after {time.monotonic() - started:.0f} s")
    return 0


def fingerprint(torch: str) -> str:
    """Everything that decides what .venv must hold."""
    digest = hashlib.sha256(f"{ROOT} {sys.version} {sys.executable} {torch}".encode())
    for path in (ROOT / "pyproject.toml", ROOT / "setup.py", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def stamped(extra: str) -> str:
    """The fingerprint of the set-up that last installed an extra."""
    stamp = STAMPS / extra
    return stamp.read_text() if stamp.exists() else ""


def probe() -> dict[str, Any]:
    """What the python3 that runs this has: {sites, torch?, version?, cuda?, gpu?}."""
    answer = subprocess.run([sys.executable, "-P", "-c", PROBE], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def has_gpu(outer: dict[str, Any]) -> bool:
    """Any one sign is enough: containers can lack nvidia-smi or the device file."""
    if outer.get("gpu") or Path("/dev/nvidia0").exists():
        return True
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True).stdout.startswith(b"GPU 0")


def make_venv(borrowed: bool) -> bool:
    """Keep a .venv that works; else make one.

    One that borrows is first tried without pip: pip is borrowed too, and the old setuptools that Python
    3.11 would put beside it cannot build this project and would hide the borrowed one. Otherwise that way
    serves where ensurepip is not installed.
    """
    if works():
        return True
    ways: list[list[str]] = [[], ["--without-pip"]]
    for options in reversed(ways) if borrowed else ways:
        command = [sys.executable, "-m", "venv", "--clear", *options, str(VENV)]
        made = subprocess.run(command, capture_output=True)
        if made.returncode == 0 and works():
            return True
    return False


def works() -> bool:
    """.venv runs, and some pip can install into it."""
    try:
        return subprocess.run([*pip_command(), "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def holds_torch() -> bool:
    """.venv has some torch, from an earlier set-up."""
    look = "import importlib.metadata; importlib.metadata.version('torch')"
    return subprocess.run([str(VENV_PYTHON), "-c", look], capture_output=True).returncode == 0


def pip_command() -> list[str]:
    """The pip inside .venv, or where python3 came without ensurepip, python3's own."""
    inside = subprocess.run([str(VENV_PYTHON), "-m", "pip", "--version"], capture_output=True)
    if inside.returncode == 0:
        return [str(VENV_PYTHON), "-m", "pip"]
    return [sys.executable, "-m", "pip", "--python", str(VENV_PYTHON)]


def lend(sites: list[str]) -> None:
    """Let .venv see these site-packages, after its own.

    Not `venv --system-site-packages`: when the python3 that has torch is itself in a virtual environment,
    that shows the packages of the interpreter below it, and not torch.
    """
    [own] = VENV.glob("lib/python3*/site-packages")
    path = own / "diffgdn-borrowed.pth"
    if sites:
        path.write_text("".join(f"import site; site.addsitedir({site!r})\n" for site in sites))
    else:
        path.unlink(missing_ok=True)


def pip(*arguments: str, quiet: bool = False) -> bool:
    """pip install into .venv. quiet: a refusal is an answer, not a trouble to show."""
    command = [*pip_command(), "install", "--disable-pip-version-check", *arguments]
    if not sys.stdout.isatty():
        command.append("-q")
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, stdout=output, stderr=output).returncode == 0


def pip_over_network(*arguments: str) -> bool:
    """Try, and try again; in a log only the last attempt says what is wrong."""
    for attempt in range(1, ATTEMPTS + 1):
        if pip(*arguments, quiet=attempt < ATTEMPTS and not sys.stdout.isatty()):
            return True
        if attempt < ATTEMPTS:
            pause = 5 * attempt
            say(f"attempt {attempt} of {ATTEMPTS} failed; once more in {pause} s, in case it was the network")
            time.sleep(pause)
    return False


def say(line: str) -> None:
    print(f"[setup] {line}", flush=True)


def fail(*lines: str) -> int:
    for line in lines:
        print(f"[setup] {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
