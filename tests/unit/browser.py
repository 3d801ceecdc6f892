"""Loads pages in a headless Chromium, that of Qt, and prints what a reader would see of each, as JSON.

A program: browser.py light|dark WIDTH,WIDTH,... PAGE... Without what a browser needs it says so and ends with
CANNOT.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

CANNOT = 77
MOST_SECONDS = 60
HEIGHT = 700
# What lies right of the window though it is in no box that scrolls; how colours come out; what has no size.
LOOK = """JSON.stringify({
  width: document.documentElement.scrollWidth, room: document.documentElement.clientWidth,
  outside: [...document.querySelectorAll("body *")].filter(one => !one.closest(".wide, pre, svg") &&
    one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(one => one.outerHTML.slice(0, 80)),
  page: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
  images: [...document.images].map(one => one.naturalWidth),
  bars: [...document.querySelectorAll("svg .bar, svg .beyond")].map(one => one.getBoundingClientRect().width),
  title: document.title, text: document.body.innerText.length,
})"""


def look(theme: str, widths: list[int], pages: list[str]) -> list[dict[str, Any]]:
    """What each page looks like in each width, in that order. Raises ImportError."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    os.environ["QTWEBENGINE_DISABLE_SANDBOX"] = "1"  # containers run as root
    scheme = f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = f"--disable-gpu {scheme}"
    from PySide6.QtCore import QTimer, QUrl
    from PySide6.QtWebEngineCore import QWebEngineUrlRequestInterceptor
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication

    asked: list[str] = []

    class Requests(QWebEngineUrlRequestInterceptor):  # type: ignore[misc,unused-ignore]
        def interceptRequest(self, info: Any) -> None:
            asked.append(info.requestUrl().scheme())

    application = QApplication(sys.argv[:1])
    view, interceptor = QWebEngineView(), Requests()
    view.page().profile().setUrlRequestInterceptor(interceptor)
    todo = [(page, width) for page in pages for width in widths]
    seen: list[dict[str, Any]] = []

    def load() -> None:
        page, width = todo[len(seen)]
        asked.clear()
        view.resize(width, HEIGHT)
        view.show()
        view.load(QUrl.fromLocalFile(os.path.abspath(page)))

    def told(answer: str) -> None:
        seen.append({**json.loads(answer), "asked": sorted(set(asked)), "window": todo[len(seen)][1]})
        if len(seen) == len(todo):
            application.quit()
        else:
            load()

    view.loadFinished.connect(lambda well: view.page().runJavaScript(LOOK, told))
    QTimer.singleShot(MOST_SECONDS * 1000, application.quit)
    load()
    application.exec()
    return seen


if __name__ == "__main__":
    try:
        found = look(sys.argv[1], [int(width) for width in sys.argv[2].split(",")], sys.argv[3:])
    except ImportError as error:
        print(error)
        sys.exit(CANNOT)
    Path("seen.json").write_text(json.dumps(found))
    os._exit(0)  # Chromium's own shutdown is of no interest, and slow
