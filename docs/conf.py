"""How Sphinx builds these pages: `make docs`. They stay Markdown; the API page is made from docstrings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

os.environ.setdefault("DIFFGDN_BACKEND", "interpret")  # no GPU is needed to read docstrings

import diffgdn

project = "diffgdn"
copyright = "the diffgdn authors"
version = release = diffgdn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
smartquotes = False  # `--op` and [...] are meant as they stand
html_theme = "furo"
html_title = f"diffgdn {release}"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # pages link to each other's headings as GitHub spells them

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
nitpicky = True
# Types of other projects, whose pages are not asked over the network, and types of ours that are not public.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|Tensor|hypothesis|st|pytest|collections|pathlib|Path|Callable|Mapping|Any)(\..*)?"),
    ("py:.*", r"(.*\.)?Arguments"),
]

ROOT = Path(__file__).parent.parent
# Pages that lie at the root of the repository, where they are looked for, by their names in the site.
ROOT_PAGES = {
    name.lower(): ROOT / f"{name}.md" for name in ("ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY")
}


def read_from_the_root(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the text of a file at the root in the place of its page; let links to such files lead there."""
    if page in ROOT_PAGES:
        app.env.note_dependency(str(ROOT_PAGES[page]))
        source[0] = ROOT_PAGES[page].read_text().replace("](docs/", "](")
    source[0] = re.sub(r"\]\((?:\.\./)*([A-Z]+)\.md", lambda link: f"](/{link[1].lower()}.md", source[0])


def read_sections(app: Sphinx, what: str, name: str, thing: object, options: Any, lines: list[str]) -> None:
    """Turn Args:, Returns: and Raises: of a docstring into fields.

    Not through napoleon as an extension: it takes what stands before a colon in a property's first sentence
    for the property's type.
    """
    if what not in ("property", "attribute"):
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, thing, options).lines()


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", read_sections)
    app.connect("source-read", read_from_the_root)
