"""How Sphinx builds these pages (`make docs`).

Nothing here reads the network: no intersphinx, and links to other sites are not followed.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# `docs.extensions` and, for the generated parts, `bench` and `methods` are imported from here.
sys.path.insert(0, str(ROOT))

project = "condbench"
copyright = "the condbench authors, Apache License 2.0"
extensions = ["myst_parser", "docs.extensions.generated", "docs.extensions.repository_links"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4  # links to a heading use the anchor that GitHub gives it
html_theme = "furo"
html_title = "condbench"
html_copy_source = False
highlight_language = "text"  # a block without a language is output, not Python
