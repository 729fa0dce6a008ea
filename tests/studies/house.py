"""The house in numbers: rooms, arrows, circles, sizes of files and functions, comments.

    python -m tests.studies.house [FOLDER]        a checkout; this one without an argument

A room is a folder or file at the top of `bench/`, and `methods/` as one; an arrow is an import of
one room by another, on whatever line. An arrow points upwards where it closes a circle of rooms.
Comments are counted as lines that hold one, per 100 lines of code without blank lines and
docstrings.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class House:
    """The counts of one checkout."""

    files: dict[str, int] = field(default_factory=dict)  # path -> lines
    code: dict[str, int] = field(default_factory=dict)  # lines that are no docstring, nor blank
    comments: dict[str, int] = field(default_factory=dict)
    functions: list[int] = field(default_factory=list)  # lines of each
    imports: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def folders(self) -> Counter[str]:
        """Python files per folder, `__init__` left out."""
        return Counter(
            str(Path(path).parent) for path in self.files if not path.endswith("__init__.py")
        )

    def arrows(self) -> set[tuple[str, str]]:
        """(importing room, imported room)."""
        pairs = {(room(a), room(b)) for a, found in self.imports.items() for b in found}
        return {(a, b) for a, b in pairs if a != b}

    def rooms(self) -> set[str]:
        """Every folder or file at the top of bench/, and methods/."""
        return {room(path) for path in self.files if path != "bench/__init__.py"}


def room(path: str) -> str:
    """The room that a file lies in."""
    parts = Path(path).parts
    return parts[0] if parts[0] == "methods" else "/".join(parts[:2])


def count(root: Path) -> House:
    """Read every source file below `root`/bench and `root`/methods."""
    house = House()
    sources = [*(root / "bench").rglob("*.py"), *(root / "methods").rglob("*.py")]
    for path in sources:
        name, text = str(path.relative_to(root)), path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        house.files[name] = text.count("\n")
        house.code[name] = len(code_lines(text, tree))
        house.comments[name] = len(set(comment_lines(text)))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        functions = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        house.functions += [(f.end_lineno or f.lineno) - f.lineno + 1 for f in functions]
        house.imports[name] = {found for each in imported(tree) if (found := file_of(root, each))}
    return house


def comment_lines(text: str) -> Iterator[int]:
    """Numbers of the lines that hold a comment; directives to tools do not count."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        directive = token.string.startswith(("# type:", "# noqa", "# fmt:"))
        if token.type == tokenize.COMMENT and not directive:
            yield token.start[0]


def code_lines(text: str, tree: ast.AST) -> set[int]:
    """Numbers of the lines that are neither blank nor in a docstring; comment lines count."""
    lines = {number for number, line in enumerate(text.splitlines(), 1) if line.strip()}
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names that may be modules, without imports under TYPE_CHECKING."""
    hidden = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(root: Path, dotted: str) -> str | None:
    """The file of this checkout that `import dotted` reads; None for other packages."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        inside = root.joinpath(*parts[:end])
        for path in (inside.with_suffix(".py"), inside / "__init__.py"):
            if path.is_file() and parts[0] in ("bench", "methods"):
                return str(path.relative_to(root))
    return None


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, empty without any."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def upward(arrows: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Arrows that lie on a circle of rooms: no order of floors puts all of them downwards."""
    graph: dict[str, set[str]] = defaultdict(set)
    for a, b in arrows:
        graph[a].add(b)

    def reaches(start: str, goal: str) -> bool:
        seen, waiting = set(), [start]
        while waiting:
            here = waiting.pop()
            if here == goal:
                return True
            if here not in seen:
                seen.add(here)
                waiting.extend(graph[here])
        return False

    return sorted((a, b) for a, b in arrows if reaches(b, a))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.house", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="a checkout")
    house = count(parser.parse_args().folder)
    lines, code = sum(house.files.values()), sum(house.code.values())
    comments = sum(house.comments.values())
    folders = house.folders().most_common(3)
    print(f"lines                    {lines:,} in {len(house.files)} files")
    print(f"rooms                    {len(house.rooms())}: {', '.join(sorted(house.rooms()))}")
    print(f"arrows between rooms     {len(house.arrows())}")
    print(f"arrows on circles        {upward(house.arrows()) or 'none'}")
    print(f"circles of files         {' -> '.join(circle(house.imports)) or 'none'}")
    print(f"fullest folders          {', '.join(f'{name} {n}' for name, n in folders)}")
    print(f"files over 200 lines     {sum(n > 200 for n in house.files.values())}")
    print(f"files over 300 lines     {sum(n > 300 for n in house.files.values())}")
    print(f"functions over 20 lines  {sum(n > 20 for n in house.functions)}")
    print(f"functions over 60 lines  {sum(n > 60 for n in house.functions)}")
    print(f"comments per 100 lines   {100 * comments / code:.1f}")
    by_room: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path, number in house.code.items():
        by_room[room(path)][0] += number
        by_room[room(path)][1] += house.comments[path]
    for name, (code, comments) in sorted(by_room.items()):
        print(f"  {name:<22} {code:>6} lines of code, {100 * comments / max(1, code):5.1f}")


if __name__ == "__main__":
    main()
