"""Sum a report of `coverage json` up by folder, the least covered first."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

FIELDS = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def folders(report: dict[str, Any]) -> dict[str, Counter[str]]:
    """FIELDS of the files of each folder, summed; a file at the top of a package counts to that package."""
    found: dict[str, Counter[str]] = {}
    for name, file in report["files"].items():
        total = found.setdefault(Path(name).parent.as_posix(), Counter())
        total.update({field: file["summary"][field] for field in FIELDS})
    return found


def share(total: Counter[str]) -> float:
    """Percent of lines and branches that were reached."""
    possible = total["num_statements"] + total["num_branches"]
    return 100 * (total["covered_lines"] + total["covered_branches"]) / possible if possible else 100.0


def main() -> None:
    found = folders(json.loads(Path(sys.argv[1]).read_text()))
    found["all"] = sum(found.values(), Counter())
    width = max(map(len, found))
    print(f"{'folder':{width}}  lines  branches  reached")
    for name, total in sorted(found.items(), key=lambda item: (item[0] == "all", share(item[1]))):
        print(
            f"{name:{width}}  {total['num_statements']:5}  {total['num_branches']:8}  {share(total):5.1f} %"
        )


if __name__ == "__main__":
    main()
