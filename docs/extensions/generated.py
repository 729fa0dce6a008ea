"""Parts of pages that are made from the code when the pages are built.

    ```{generated} fields bench.config:TrainConfig
    ```

becomes the Markdown that PARTS["fields"]("bench.config:TrainConfig") returns. Pages that repeat by
hand what stands in the code go stale; these parts cannot.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from docs.extensions import api, listings

PARTS: dict[str, Callable[[str], list[str]]] = {
    "module": api.module_page,
    "fields": listings.fields_page,
    "plugins": listings.plugins_page,
    "group": listings.group_page,
    "compared": listings.compared_page,
    "verbs": listings.verbs_page,
    "metrics": listings.metrics_page,
}
# A directive's spelling, so that editors and code hosts show a code block.
FENCE = re.compile(r"^```\{generated\} (\w+) ?(.*)\n```$", re.MULTILINE)


def expand(text: str) -> str:
    """`text` with every generated part in place. Raises ExtensionError for an unknown or empty one.

    This happens before parsing and is no directive: a directive's headings would lie outside of
    the section in which it stands.
    """

    def replace(found: re.Match[str]) -> str:
        part, argument = found.groups()
        # An empty part would be a hole in the page that no warning shows.
        lines = PARTS[part](argument) if part in PARTS else []
        if not lines:
            raise ExtensionError(f"{{generated}} {part} {argument}: nothing to show")
        return "\n".join(lines)

    return FENCE.sub(replace, text)


def _on_read(app: Sphinx, name: str, content: list[str]) -> None:
    expanded = expand(content[0])
    if expanded != content[0]:
        # The code behind a part may change while its page does not: read it in every build.
        app.env.note_reread()
    content[0] = expanded


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handler."""
    app.connect("source-read", _on_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
