"""Run every idiom and write what it left behind: python tests/idioms/record.py [--out FILE] [--only PART].

On a GPU the kernels are compiled and FILE (record.json beside this script) becomes the record that
test_idioms.py compares with. With TRITON_INTERPRET=1 the same is run in the interpreter: a dry run, for which
--out must be given. A kernel that does not compile is recorded with its error line and stops no other.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECORD = HERE / "record.json"
THEMES = tuple(
    sorted(
        path.stem
        for path in HERE.glob("*.py")
        if "idiom(" in path.read_text() and path.stem not in ("registry", "record", "judge", "test_idioms")
    )
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="where to write; default: record.json beside this script")
    parser.add_argument("--repaired", action="store_true", help="in the interpreter: with diffgdn's repairs")
    parser.add_argument("--only", default="", help="idioms whose name holds this alone")
    wish = parser.parse_args()
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted and wish.out is None:
        parser.error("in the interpreter --out must be given: the record is a GPU's")

    sys.path.insert(0, str(HERE.parent))
    import torch
    import triton

    if wish.repaired:
        from diffgdn.backend import interpreter

        interpreter.repair()
    for theme in THEMES:
        importlib.import_module(f"idioms.{theme}")
    from idioms.registry import IDIOMS

    device = "cpu" if interpreted else "cuda"
    started = time.monotonic()
    found = {name: outcome(one, device) for name, one in IDIOMS.items() if wish.only in name}
    record = {
        "machine": "interpreter" if interpreted else torch.cuda.get_device_name(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "triton": triton.__version__,
        "idioms": found,
    }
    out = wish.out or RECORD
    # One line an idiom, so that a difference between two records is read at a glance.
    untrue = {name: one.pop("untrue") for name, one in found.items() if "untrue" in one}
    head = {key: value for key, value in record.items() if key != "idioms"}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in found.items())
    out.write_text(json.dumps(head, indent=0)[:-2] + ',\n"idioms": {\n' + lines + "\n}\n}\n")
    failed = [name for name, one in found.items() if "error" in one]
    print(f"{len(found)} idioms in {time.monotonic() - started:.0f} s, {out.stat().st_size} bytes: {out}")
    print(f"{len(failed)} with an error, {len(untrue)} against their own truth")
    for name in failed:
        print(f"  {name}: {found[name]['error']}")
    for name, said in untrue.items():
        print(f"  {name}: {said}")
    return 0


def outcome(one: Any, device: str) -> dict[str, Any]:
    """The outputs of an idiom, or its error line; and what its own truth says against it."""
    import torch

    from idioms import judge

    try:
        outputs = one.run(device)
        if device == "cuda":
            torch.cuda.synchronize()
    except Exception as error:
        return {"error": error_line(error)}
    found: dict[str, Any] = {"outputs": [judge.to_text(tensor) for tensor in outputs]}
    truths = one.truths()
    if truths is not None and (said := judge.complaint(one, outputs, truths)):
        found["untrue"] = said
    return found


def error_line(error: BaseException) -> str:
    """The class and the message of the innermost error, on one line of at most 300 characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]


if __name__ == "__main__":
    sys.exit(main())
