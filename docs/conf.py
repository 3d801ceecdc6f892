"""How Sphinx builds these pages: `make docs`. They stay Markdown; the page of the API is made from docstrings."""

from __future__ import annotations

import os

os.environ.setdefault("DIFFGDN_LANE", "interpret")  # no GPU is needed to read docstrings

import diffgdn

project = "diffgdn"
copyright = "the diffgdn authors"
version = release = diffgdn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"diffgdn {release}"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # pages link to each other's headings as GitHub spells them

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
nitpicky = True
# Types of other projects, whose pages are not asked over the network, and types inside diffgdn that are no part of
# its public names.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|Tensor|hypothesis|st|pytest|collections|pathlib|Path|Callable|Mapping|Any)(\..*)?"),
    ("py:.*", r"(diffgdn\.)?(arena\.)?Arguments"),
]
