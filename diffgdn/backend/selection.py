"""Which lane kernels run on: Triton's interpreter on CPU tensors, or a GPU. Imports neither torch nor triton.

Triton decides once, when it is imported, whether its functions are interpreted; CUDA decides once, at its
first use, which devices exist. So a process asks for its lane and its GPU here before anything imports torch.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import sys
from pathlib import Path

LANES = ("gpu", "interpret")
ENVIRONMENT = "DIFFGDN_LANE"
# Seconds after which a case counts as hung, unless the user says otherwise. On a GPU its first compilation is
# included; the interpreter takes a few seconds for the slowest case, and some times that under load.
HANG_SECONDS = {"interpret": 60.0, "gpu": 120.0}


def detect() -> str:
    """The lane that DIFFGDN_LANE asks for; else `gpu` where torch can use a GPU, else `interpret`.

    Raises ValueError if DIFFGDN_LANE is neither.
    """
    asked = os.environ.get(ENVIRONMENT, "")
    if not asked:
        return "interpret" if gpu_missing() else "gpu"
    if asked not in LANES:
        raise ValueError(f"{ENVIRONMENT}: expected gpu or interpret, got {asked!r}")
    return asked


def gpu_missing() -> str | None:
    """Why the gpu lane cannot be entered here, or None."""
    if not visible_gpus():
        if os.environ.get("CUDA_VISIBLE_DEVICES") is not None and devices_found():
            return f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides every GPU"
        return "no NVIDIA GPU is visible"
    if torch_cuda() is None:
        return "the installed torch is a CPU build"
    return None


def enter(lane: str) -> None:
    """Make this process run kernels on a lane. Call it before triton is imported; twice does no harm.

    Raises ValueError for an unknown lane, RuntimeError if triton has already been imported for the other one.
    """
    if lane not in LANES:
        raise ValueError(f"lane: expected gpu or interpret, got {lane!r}")
    interpret = lane == "interpret"
    imported = _triton_interprets()
    if imported is not None and imported != interpret:
        state = "with" if imported else "without"
        raise RuntimeError(
            f"lane {lane}: triton was already imported {state} TRITON_INTERPRET=1 in this process"
        )
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.pop("TRITON_INTERPRET", None)


def bind(worker_index: int) -> None:
    """Give this process one of the visible GPUs, round robin by worker. Call it before torch is imported.

    Without a GPU it does nothing. Raises RuntimeError if CUDA is already in use here.
    """
    gpus = visible_gpus()
    if not gpus:
        return
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("bind: CUDA is already initialised in this process")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[worker_index % len(gpus)]


def visible_gpus() -> list[str]:
    """Ids, as in CUDA_VISIBLE_DEVICES, of the GPUs the caller made visible; no CUDA context is created."""
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
    """The CUDA version that the installed torch was built for, or None. Reads a file, imports nothing."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text()
    found = re.search(r"^cuda\b.*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else None


def _triton_interprets() -> bool | None:
    """True or False as triton was imported; None if it was not. Its own library functions show which."""
    standard = sys.modules.get("triton.language.standard")
    function = getattr(standard, "cdiv", None)
    return None if function is None else type(function).__name__ == "InterpretedFunction"


def devices_found() -> list[tuple[str, str]]:
    """All devices of this machine, visible or not: id and name.

    A partitioned GPU (MIG) counts as its slices.
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        found: list[tuple[str, str]] = []
        for index in range(count.value):
            handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
                nvml.nvmlDeviceGetName(handle, name, len(name))
                ids = _slices(nvml, handle) or [str(index)]
                found += [(device, name.value.decode()) for device in ids]
        return found
    finally:
        nvml.nvmlShutdown()


def _slices(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> list[str]:
    """UUIDs of the slices of a partitioned GPU; none if it is whole."""
    current, pending, most = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    if (
        nvml.nvmlDeviceGetMigMode(handle, ctypes.byref(current), ctypes.byref(pending)) != 0
        or not current.value
    ):
        return []
    nvml.nvmlDeviceGetMaxMigDeviceCount(handle, ctypes.byref(most))
    found = []
    for index in range(most.value):
        part, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(96)
        if (
            nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index, ctypes.byref(part)) == 0
            and nvml.nvmlDeviceGetUUID(part, uuid, len(uuid)) == 0
        ):
            found.append(uuid.value.decode())
    return found
