"""The matrix of a probe as files: JSON for programs, HTML for people."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from diffgdn.findings.finding import today, versions
from diffgdn.probe.cells import FAILED, Cell, Matrix, Row
from diffgdn.probe.fitted_promises import fit
from diffgdn.report import promises_text
from diffgdn.report.probe_table import cell_of, command, names, summary, word

FORMAT_VERSION = 1
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em;
  color: #222 }
table { border-collapse: collapse }
th, td { padding: .1em .6em; border-bottom: 1px solid #ddd; text-align: left }
thead th { position: sticky; top: 0; background: #fff } pre, code { background: #f5f5f5; font-size: 13px }
pre { padding: .8em; overflow-x: auto } td.right { background: #e3f5e3 } td.wrong { background: #f9d0d0 }
td.raises { background: #fbeec5 } td.crashes, td.hangs { background: #ecd0f5 } td.refused { color: #777 }
td.broken { font-weight: bold }
summary { cursor: pointer }
@media (prefers-color-scheme: dark) {
  body, thead th { background: #1c1c1c; color: #ddd } pre, code { background: #2a2a2a }
  th, td { border-color: #444 } td.right { background: #1f3a22 } td.wrong { background: #5a2020 }
  td.raises { background: #50431a } td.crashes, td.hangs { background: #432050 }
}
"""


def to_json(matrix: Matrix) -> dict[str, Any]:
    """Write a matrix as a dict of JSON's types."""
    python, toml = _fitted(matrix)
    return {
        "format_version": FORMAT_VERSION,
        "target": matrix.target,
        "package": matrix.package,
        "date": today(),
        "backend": matrix.backend,
        "versions": versions(matrix.device),
        "seconds": round(matrix.seconds, 1),
        "exit_code": matrix.exit_code,
        "interrupted": matrix.interrupted,
        "operations": {row.op: _row(row, matrix.target) for row in matrix.rows},
        "promises": {"python": python, "toml": toml},
    }


def _fitted(matrix: Matrix) -> tuple[str, str]:
    """Write the promises that fit, in Python and in TOML; nothing where the probe was interrupted."""
    if matrix.interrupted:
        return "", ""
    fitted = fit(matrix)
    return promises_text.python(fitted), promises_text.toml(fitted, matrix.target)


def _row(row: Row, target: str) -> dict[str, Any]:
    return {
        "plain": _cell(row.plain, target),
        "instead": list(row.instead),
        "cells": [_cell(cell, target) for cell in row.cells],
        "pairs": {
            "asked": row.pairs_asked,
            "not_asked": row.pairs_left,
            "not_right": [_cell(cell, target) for cell in row.pairs],
        },
    }


def _cell(cell: Cell, target: str) -> dict[str, Any]:
    out: dict[str, Any] = {"feature": cell.name, "status": cell.status, "promised": cell.promised}
    more = {"kind": cell.kind, "message": cell.message, "known": cell.known}
    out |= {name: value for name, value in more.items() if value is not None}
    out["cases"] = cell.asked
    if cell.case is not None and cell.status in FAILED:
        out |= {"case": cell.case.to_json(), "repr": repr(cell.case), "command": command(cell, target)}
    return out


def text(matrix: Matrix) -> str:
    """Write the JSON of a matrix."""
    return json.dumps(to_json(matrix), indent=1) + "\n"


def html(matrix: Matrix) -> str:
    """Write a page that stands alone: the table, what is not right, and the promises that fit."""
    (python, toml), title = _fitted(matrix), f"diffgdn probe {matrix.target}"
    said = versions(matrix.device)
    where = ", ".join(f"{name} {value}" for name, value in {"backend": matrix.backend, **said}.items())
    failed = [cell for cell in matrix.every if cell.status in FAILED]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>",
        f"<style>{STYLE}</style><h1>{escape(title)}</h1><p>{escape(summary(matrix))}</p>",
        f"<p>{escape(where)}. In parentheses: not promised. Empty: no such thing there.</p>",
        _table(matrix),
        "<h2>What is not right</h2>" if failed else "",
        *(_detail(cell, matrix.target) for cell in failed),
        f"<h2>Promises that fit what was seen</h2><h3>Python</h3><pre>{escape(python)}</pre>"
        if python
        else "",
        f"<h3>diffgdn.toml</h3><pre>{escape(toml)}</pre>" if toml else "",
        "</html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _table(matrix: Matrix) -> str:
    heads = "".join(f"<th>{escape(row.op)}</th>" for row in matrix.rows)
    lines = [f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>"]
    lines.append(_line("plain", [row.plain for row in matrix.rows]))
    lines += [_line(name, [cell_of(row, name) for row in matrix.rows]) for name in names(matrix.rows)]
    return "\n".join([*lines, "</tbody></table>"])


def _line(name: str, cells: list[Cell | None]) -> str:
    return f"<tr><th>{escape(name)}</th>{''.join(map(_data, cells))}</tr>"


def _data(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    kind = cell.status.replace(" ", "-") + (" broken" if cell.breaks_promise else "")
    about = f' title="{escape(cell.message, quote=True)}"' if cell.message else ""
    return f'<td class="{kind}"{about}>{escape(word(cell))}</td>'


def _detail(cell: Cell, target: str) -> str:
    said = "known" if cell.known else "promised" if cell.promised else "not promised"
    head = f"{cell.op}  {cell.name}: {cell.status}, {said}"
    body = "\n".join([cell.message or "no message", repr(cell.case), command(cell, target)])
    opened = " open" if cell.breaks_promise else ""
    return f"<details{opened}><summary>{escape(head)}</summary><pre>{escape(body)}</pre></details>"
