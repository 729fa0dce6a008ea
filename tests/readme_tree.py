"""The README's file tree, made from the first line of every module's docstring.

`python tests/readme_tree.py` rewrites it; a test keeps it true.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FIRST, LAST = "bench/\n", "```"
COLUMN = 24


def phrase(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return said.split("\n\n")[0].split("\n")[0].rstrip(". ")


def lines(folder: Path, depth: int = 0) -> Iterator[str]:
    """One line per file and folder below `folder`, indented by depth."""
    indent = "  " * depth
    about = phrase(folder / "__init__.py") if depth else ""
    yield f"{indent}{folder.name + '/':<{COLUMN - len(indent)}}{about}".rstrip()
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            yield from lines(path, depth + 1)
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield f"  {indent}{path.name:<{COLUMN - 3 - len(indent)}} {phrase(path)}"


def tree() -> str:
    """The block between the README's fences, from `bench/` on."""
    return "\n".join([*lines(ROOT / "bench"), *lines(ROOT / "methods")]) + "\n"


def shown() -> tuple[str, str, str]:
    """The README before its tree, the tree, and what follows."""
    before, _, rest = README.read_text(encoding="utf-8").partition(FIRST)
    inside, _, after = rest.partition(LAST)
    return before, FIRST + inside, LAST + after


if __name__ == "__main__":
    before, _, after = shown()
    README.write_text(before + tree() + after, encoding="utf-8")
