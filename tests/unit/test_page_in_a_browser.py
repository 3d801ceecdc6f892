"""Pages as a headless Chromium shows them: on a phone and on a desktop, light and dark.

Where there is none they are skipped, unless DIFFGDN_BROWSER is set, as in the workflow that has one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

from diffgdn.cases.case import Case
from diffgdn.probe.cells import Cell, Matrix, Row
from diffgdn.report import probe_files
from diffgdn.report.page.html_file import HtmlFile

PROGRAM = Path(__file__).with_name("browser.py")
WIDTHS = (320, 1280)


@pytest.fixture(scope="module")
def pages(beside: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A campaign's, a replay's and a probe's."""
    folder, made = tmp_path_factory.mktemp("pages"), beside("told_events")
    found = []
    for name, happened in (("campaign", made.campaign), ("replay", made.replay)):
        report = HtmlFile(folder / f"{name}.html")
        for event in happened(folder / "findings"):
            report(event)
        found.append(folder / f"{name}.html")
    ops = ("gdn.decode", "kda.decode", "gdn.update", "kda.update", "gdn.verify", "kda.verify")
    wrong = [
        Cell(op, f"{made.HOSTILE}{'x' * 90}", "K", 1, "wrong", case=Case("gdn.decode"), message=made.HOSTILE)
        for op in ops
    ]
    rows = [Row(cell.op, Cell(cell.op, "plain", "", "", "right"), cells=(cell,)) for cell in wrong]
    matrix = Matrix("my_kernel.py:t", "interpret", "cpu", tuple(rows), 1.0)
    (folder / "probe.html").write_text(probe_files.html(matrix))
    return [*found, folder / "probe.html"]


@pytest.fixture(scope="module", params=["light", "dark"])
def seen(request: pytest.FixtureRequest, pages: list[Path]) -> tuple[str, list[dict[str, Any]]]:
    """The theme, and what was seen of each page in each width. Skips where there is no browser."""
    missing = "no headless Chromium: pip install 'diffgdn[browser]'"
    if importlib.util.find_spec("PySide6") is None:
        _without(missing)
    command = [sys.executable, str(PROGRAM), request.param, ",".join(map(str, WIDTHS)), *map(str, pages)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=pages[0].parent)
    if ran.returncode == 77:
        _without(f"{missing} ({ran.stdout.strip()})")
    assert ran.returncode == 0, ran.stderr
    return request.param, json.loads((pages[0].parent / "seen.json").read_text())


def _without(reason: str) -> NoReturn:
    if os.environ.get("DIFFGDN_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


Seen = tuple[str, list[dict[str, Any]]]


def test_no_page_is_wider_than_its_window(seen: Seen, pages: list[Path]) -> None:
    assert [one["window"] for one in seen[1]] == [*WIDTHS] * len(pages)
    assert [(one["title"], one["outside"]) for one in seen[1] if one["outside"]] == []
    assert [one["title"] for one in seen[1] if one["width"] > one["room"]] == []


def test_pages_follow_the_theme_of_the_reader(seen: Seen) -> None:
    theme, looks = seen
    for one in looks:
        page, ink = (sum(map(int, re.findall(r"\d+", one[name])[:3])) for name in ("page", "ink"))
        assert (page < ink) is (theme == "dark")


def test_pictures_and_drawings_are_there_and_nothing_is_loaded(seen: Seen) -> None:
    for one in seen[1]:
        assert set(one["asked"]) <= {"file", "data"}
        assert one["text"] > 200
        assert all(width > 0 for width in (*one["images"], *one["bars"]))
    campaign = seen[1][0]
    assert len(campaign["images"]) == 1
    assert len(campaign["bars"]) == 6
