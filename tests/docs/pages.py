"""The Markdown pages of this repository, and what tests look for in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Images are links too: their files have to exist as well.
LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """Every page that is written by hand."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*top, ROOT / "results" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    """The page's path from the top of the repository."""
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[str]:
    """The targets of links and images that do not lead to other sites."""
    for target in LINK.findall(prose(page)):
        if not target.startswith(("http://", "https://")):
            yield target


def anchors(page: Path) -> set[str]:
    """The anchors that a code host gives to the page's headings."""
    found: list[str] = []
    # GitHub's rule, which MyST follows: letters, digits, hyphens; repeated headings are numbered.
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return set(found)


def commands(page: Path) -> Iterator[str]:
    """The lines of the page's shell blocks without comments; a continued line is one."""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "sh":
            for line in block.replace("\\\n", " ").splitlines():
                command = line.partition("#")[0].strip()
                if command:
                    yield command
