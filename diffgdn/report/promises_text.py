"""Write promises that a probe fitted, ready to paste: in Python, and as tables of diffgdn.toml.

What is in doubt stands beside as a comment, with what would be promised without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from diffgdn.cases.spans import Span
from diffgdn.probe.fitted_promises import Fitted, Line

DECIDE = "a fault, or not promised? If not:"
NOTHING_ELSE = "a fault, or not promised? No field says it without what is right"


def python(fitted: Fitted) -> str:
    """Write a Python expression, with `Promises` and `Span` imported from diffgdn."""
    if not (fitted.common or fitted.own or fitted.pairs):
        return "from diffgdn import Promises\n\nPROMISES = Promises()  # everything"
    lines = ["from diffgdn import Promises, Span", "", "PROMISES = Promises("]
    lines += _indented(fitted.common, lambda line, value: f"{line.axis}={_python(value)},", 4)
    if fitted.own:
        lines.append("    operations={")
        for op, own in fitted.own.items():
            lines.append(f'        "{op}": {{')
            lines += _indented(own, lambda line, value: f'"{line.axis}": {_python(value)},', 12)
            lines.append("        },")
        lines.append("    },")
    lines += [f"    # {pair}: promises cannot say it; `refuses=` can" for pair in fitted.pairs]
    return "\n".join([*lines, ")"])


def toml(fitted: Fitted, target: str) -> str:
    """Write tables of diffgdn.toml for a target."""
    name = json.dumps(target)
    lines = [f"[targets.{name}]"]
    lines += _indented(fitted.common, lambda line, value: f"{line.axis} = {_toml(value)}", 0)
    for op, own in fitted.own.items():
        lines += ["", f'[targets.{name}."{op}"]']
        lines += _indented(own, lambda line, value: f"{line.axis} = {_toml(value)}", 0)
    lines += [f"# {pair}: promises cannot say it; `refuses=` can" for pair in fitted.pairs]
    return "\n".join(lines)


def _indented(lines: Iterable[Line], write: Callable[[Line, Any], str], indent: int) -> Iterator[str]:
    """Iterate over the lines of fields, each with what is in doubt above it."""
    for line in lines:
        for text in _field(line, write):
            yield " " * indent + text


def _field(line: Line, write: Callable[[Line, Any], str]) -> Iterator[str]:
    if line.doubts:
        yield f"# {'; '.join(line.doubts)}: {DECIDE if line.stricter is not None else NOTHING_ELSE}"
    if line.stricter is not None:
        yield f"# {write(line, line.stricter)}"
    if line.value is not None:
        why = f"  # {'; '.join(line.why)}" if line.why else ""
        yield f"{write(line, line.value)}{why}"


def _python(value: Any) -> str:
    return repr(value).replace("'", '"')


def _toml(value: Any) -> str:
    """Write a value of an axis as TOML has it."""
    if isinstance(value, Span):
        given = (("least", value.least), ("most", value.most), ("multiple", value.multiple))
        kept = [f"{name} = {n}" for name, n in given if n is not None and (name, n) != ("multiple", 1)]
        return "{ " + ", ".join(kept) + " }" if kept else "{}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
