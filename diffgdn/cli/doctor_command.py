"""`diffgdn doctor`: what this machine has, what it lacks, and how to get that."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
from importlib import metadata
from pathlib import Path

import click

from diffgdn.backend import interpreter
from diffgdn.backend import selection as backends
from diffgdn.cli.options import CONTEXT

REQUIRED = ("torch", "triton", "numpy", "hypothesis", "click", "rich")
OPTIONAL = {  # package: what it is for, how to get it
    "fla-core": ("the target fla", "pip install fla-core"),
    "matplotlib": ("pictures of findings as images instead of text", "pip install matplotlib"),
    "pytest": ("make test", "pip install 'diffgdn[test]'"),
}


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@click.command(context_settings=CONTEXT)
def doctor() -> int:
    """Tell the backend, versions and GPUs of this machine, and what is missing.

    Exit status 2 if fuzz cannot run.
    """
    problems: list[str] = []
    try:
        backend = backends.detect()
    except ValueError as error:
        problems.append(str(error))
        backend = "interpret"
    missing_gpu = backends.gpu_missing()
    reason = ""
    if os.environ.get(backends.ENVIRONMENT):
        reason = f" (from {backends.ENVIRONMENT})"
    elif missing_gpu:
        reason = f" ({missing_gpu})"
    _line("backend", backend + reason)
    if backend == "gpu" and missing_gpu:
        problems.append(f"backend gpu: {missing_gpu}")
    _gpus()
    _line("python", platform.python_version())
    for package in REQUIRED:
        found = version(package)
        build = ""
        if package == "torch" and found is not None:
            cuda = backends.torch_cuda()
            build = f" (CUDA {cuda})" if cuda else " (CPU build)"
        _line(package, (found or "missing") + build)
        if found is None:
            problems.append(f"{package} is not installed: pip install {package}")
    for package, (purpose, command) in OPTIONAL.items():
        _line(package, version(package) or f"not installed; for {purpose}: {command}")
    _toolchain(backend, problems)
    if backend == "interpret":
        for line in interpreter.EMULATED:
            _line("emulated", line)
        for line in interpreter.NOT_EMULATED:
            _line("not emulated", line)
    for problem in problems:
        click.echo(f"diffgdn: {problem}", err=True)
    return 2 if problems else 0


def _line(name: str, value: str) -> None:
    click.echo(f"{name:<15} {value}")


def _gpus() -> None:
    visible = backends.visible_gpus()
    every = backends.devices_found()
    if not every:
        _line("GPUs", "none")
    for device, name in every:
        hidden = (
            ""
            if not visible or device in visible or not visible[0].isdigit()
            else " (hidden by CUDA_VISIBLE_DEVICES)"
        )
        _line(f"GPU {device}", name + hidden)


def _toolchain(backend: str, problems: list[str]) -> None:
    """What Triton needs to build the launcher of a GPU kernel."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    needs = {
        "C compiler": (compiler, "apt-get install gcc"),
        "Python headers": (str(header.parent) if header.exists() else None, "apt-get install python3-dev"),
    }
    for name, (found, command) in needs.items():
        _line(name, found or f"not found; Triton needs it on backend gpu: {command}")
        if found is None and backend == "gpu":
            problems.append(f"{name}: not found, Triton cannot launch a kernel without: {command}")
