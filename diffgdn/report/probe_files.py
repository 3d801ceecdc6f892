"""The matrix of a probe as files: JSON for programs, HTML for people."""

from __future__ import annotations

import json
from typing import Any

from diffgdn.findings.finding import today, versions
from diffgdn.probe.cells import FAILED, Cell, Matrix, Row
from diffgdn.probe.fitted_promises import fit
from diffgdn.report import promises_text
from diffgdn.report.page import render
from diffgdn.report.probe_table import cell_of, command, names, summary, word

FORMAT_VERSION = 1


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
    python, toml = _fitted(matrix)
    said = {"backend": matrix.backend, **versions(matrix.device)}
    return render(
        "probe.html",
        matrix=matrix,
        summary=summary(matrix),
        where=", ".join(f"{name} {value}" for name, value in said.items()),
        lines=[(name, [cell_of(row, name) for row in matrix.rows]) for name in names(matrix.rows)],
        failed=[cell for cell in matrix.every if cell.status in FAILED],
        python=python,
        toml=toml,
        word=word,
        command=lambda cell: command(cell, matrix.target),
    )
