"""Pages that stand alone: one HTML file each, with its style and images in it and no script.

Templates lie beside this file. Everything that is put into one is escaped.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=PackageLoader("diffgdn.report.page", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder; each value that it names must be given."""
    return _TEMPLATES.get_template(template).render(**values)
