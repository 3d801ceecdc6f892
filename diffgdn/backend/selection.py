"""Choose the backend that kernels run on: Triton's interpreter on CPU tensors, or a GPU.

Imports neither torch nor triton. Triton decides once, when it is imported, whether its functions are
interpreted; CUDA decides once, at its first use, which devices exist. So a process asks for its backend and
its GPU here before anything imports torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

import pynvml

BACKENDS = ("gpu", "interpret")
ENVIRONMENT = "DIFFGDN_BACKEND"
OLD_ENVIRONMENT = "DIFFGDN_LANE"  # what it was called at first
# Seconds after which a case counts as hung, unless the user says otherwise. On a GPU its first compilation is
# included; the interpreter takes a few seconds for the slowest case, and some times that under load.
HANG_SECONDS = {"interpret": 60.0, "gpu": 120.0}


def detect() -> str:
    """Return the backend that DIFFGDN_BACKEND asks for; else `gpu` if torch can use a GPU, else
    `interpret`.

    Raises:
        ValueError: DIFFGDN_BACKEND, or DIFFGDN_LANE in its absence, is neither.
    """
    name = ENVIRONMENT if os.environ.get(ENVIRONMENT) else OLD_ENVIRONMENT
    asked = os.environ.get(name, "")
    if not asked:
        return "interpret" if gpu_missing() else "gpu"
    if asked not in BACKENDS:
        raise ValueError(f"{name}: expected gpu or interpret, got {asked!r}")
    return asked


def gpu_missing() -> str | None:
    """Say why the gpu backend cannot be entered here, in a few words; None if it can."""
    if not visible_gpus():
        if os.environ.get("CUDA_VISIBLE_DEVICES") is not None and devices_found():
            return f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides every GPU"
        return "no NVIDIA GPU is visible"
    if torch_cuda() is None:
        return "the installed torch is a CPU build"
    return None


def enter(backend: str) -> None:
    """Make this process run kernels on a backend; call it before triton is imported. A second call does no
    harm.

    Raises:
        ValueError: the backend is unknown.
        RuntimeError: triton has already been imported for the other one.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected gpu or interpret, got {backend!r}")
    interpret = backend == "interpret"
    imported = _triton_interprets()
    if imported is not None and imported != interpret:
        state = "with" if imported else "without"
        raise RuntimeError(
            f"backend {backend}: triton was already imported {state} TRITON_INTERPRET=1 in this process"
        )
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.pop("TRITON_INTERPRET", None)


def bind(worker_index: int) -> None:
    """Give this process one of the visible GPUs, round robin by worker; call it before torch is imported.

    It is the first that the process sees. The one after it stays visible too, for calls on a second device.
    Without a GPU it does nothing.

    Raises:
        RuntimeError: CUDA is already in use here.
    """
    gpus = visible_gpus()
    if not gpus:
        return
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("bind: CUDA is already initialised in this process")
    first = worker_index % len(gpus)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys((gpus[first], gpus[(first + 1) % len(gpus)])))


def visible_gpus() -> list[str]:
    """List the ids, as in CUDA_VISIBLE_DEVICES, of the GPUs that the caller made visible; no CUDA context
    is created."""
    devices = [device for device, _ in devices_found()]
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None or not devices:
        return devices
    kept: list[str] = []
    for entry in (part.strip() for part in asked.split(",")):
        # As CUDA does: the first entry that names no device ends the list. A repeated one counts once.
        if not (entry.isdigit() and int(entry) < len(devices)) and not entry.startswith(("GPU-", "MIG-")):
            break
        if entry not in kept:
            kept.append(entry)
    return kept


def torch_cuda() -> str | None:
    """Read the CUDA version that the installed torch was built for, None if none; imports nothing."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text()
    found = re.search(r"^cuda\b.*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else None


def _triton_interprets() -> bool | None:
    """Tell whether triton was imported to interpret; None if it was not. Its own library functions show
    which."""
    standard = sys.modules.get("triton.language.standard")
    function = getattr(standard, "cdiv", None)
    return None if function is None else type(function).__name__ == "InterpretedFunction"


def devices_found() -> list[tuple[str, str]]:
    """List all devices of this machine, visible or not, by id and name.

    A partitioned GPU (MIG) counts as its slices. Asks the driver through NVML; no CUDA context is created.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found: list[tuple[str, str]] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                name = pynvml.nvmlDeviceGetName(handle)
                found += [(device, name) for device in _slices(handle) or [str(index)]]
        return found
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _slices(handle: Any) -> list[str]:
    """List the UUIDs of the slices of a partitioned GPU; none if it is whole."""
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
        most = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle) if current else 0
    except pynvml.NVMLError:  # a GPU that cannot be partitioned
        return []
    found = []
    for index in range(most):
        with contextlib.suppress(pynvml.NVMLError):  # a place that holds no slice
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            found.append(pynvml.nvmlDeviceGetUUID(part))
    return found
