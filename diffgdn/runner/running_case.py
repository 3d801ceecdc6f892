"""The case that is being run, on disk before its launch: whoever finds the process dead knows what it died
of, and what the process had run before.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from diffgdn.cases.case import Case
from diffgdn.cases.prelude import Call, History
from diffgdn.cases.trace import call_of

MOST_BYTES = 1 << 20  # of a file of calls; then another is begun, and the one before is kept
CALLS, OLDER_CALLS = ".calls", ".older"  # suffixes


class CurrentCase:
    """A file that names the case being run, empty while none is; beside it the calls that this process has
    run, one a line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._calls = self._begun()
        path.with_suffix(OLDER_CALLS).unlink(missing_ok=True)

    def write(self, call: Call, target: str, in_child: bool, **about: Any) -> None:
        """About to run a call on a target. in_child: not in this process, so that nothing of it stays here.
        about: what else a reader should know, of JSON's types.
        """
        case, told = call_of(call.subject), {"target": target, "in_child": in_child, **about}
        line = json.dumps({"case": case.to_json(), **told}).encode()
        os.pwrite(self._file, line, 0)
        if in_child:
            return
        if call != Call(case):
            line = json.dumps({"call": call.to_json(), **told}).encode()
        os.write(self._calls, line + b"\n")
        if os.lseek(self._calls, 0, os.SEEK_CUR) > MOST_BYTES:
            os.close(self._calls)
            os.replace(self._path.with_suffix(CALLS), self._path.with_suffix(OLDER_CALLS))
            self._calls = self._begun()

    def clear(self) -> None:
        os.ftruncate(self._file, 0)

    def _begun(self) -> int:
        return os.open(self._path.with_suffix(CALLS), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def current(path: Path) -> tuple[Case, dict[str, Any]] | None:
    """The case that was running when the file's writer was last heard of, and what was told about it."""
    try:
        about = json.loads(path.read_bytes())
        return Case.from_json(about.pop("case")), about
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def calls(path: Path, target: str) -> tuple[Call, ...]:
    """The calls that the file's writer itself has run on a target, the one that was running the last of
    them."""
    history = History()
    for suffix in (OLDER_CALLS, CALLS):
        try:
            lines = path.with_suffix(suffix).read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            try:
                told = json.loads(line)
                history.add(told["target"], Call.from_json(told.get("call") or {"case": told["case"]}))
            except (ValueError, KeyError, AttributeError):
                continue  # half a line
    return history.of(target)
