"""Links from a page to a file of the repository that is not a page.

On a code host such a link opens the file. In the built pages it becomes a download of a copy. A
link to a folder becomes plain text, because built pages have no such folder beside them. A link to
what does not exist is left as it is, and Sphinx warns about it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

# [text](../target) or [text](../target#anchor), no image
LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(((?:\.\./)+[^)\s#]+)(?:#[^)\s]*)?\)")


def rewrite(text: str, page: Path, docs: Path) -> str:
    """`text` of `page` with its links out of `docs` made downloads or plain text."""

    def replace(found: re.Match[str]) -> str:
        label, target = found.groups()
        path = (page.parent / target).resolve()
        # Links between pages are Sphinx's own business, anchors included.
        if path.is_relative_to(docs) or not path.exists():
            return found[0]
        # `path:` is MyST's download; without it a Markdown file would be taken for a missing page.
        return label if path.is_dir() else f"[{label}](path:{target})"

    return LINK.sub(replace, text)


def _on_read(app: Sphinx, name: str, content: list[str]) -> None:
    content[0] = rewrite(content[0], Path(app.env.doc2path(name)), Path(app.srcdir))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handler."""
    app.connect("source-read", _on_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
