"""What makes a trial the same trial: configuration, code, versions, hardware and data.

A trial's key is the SHA-256 of its identity. Code enters as the syntax trees of the method's,
backbone's and task's modules and of everything that they import from their own package, without
comments and docstrings: only what can change a number makes a result stale.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

MEASURING_ROOM = "bench.trial"
TRAINING_ROOM = "bench.train"
# Rooms that a trial imports but that cannot change its numbers. What is not listed counts, so a
# new room makes results stale rather than silently wrong.
UNINVOLVED = (
    "bench",
    "bench.config",
    "bench.record",
    "bench.redaction",
    "bench.environment",
    "bench.publish",
    "bench.plugins",
)
KEY_PACKAGES = ("python", "torch", "pytorch-lightning", "numpy")
# The parts of a configuration that can change a number. The rest says where results go.
KEY_BLOCKS = ("method", "task", "backbone", "seed", "train", "measure", "gpu")
DENSE_BLOCKS = ("task", "backbone", "seed", "train", "gpu")


def key_of(content: Any) -> str:
    """SHA-256, in hex, of canonical JSON. Raises ValueError for NaN and infinity."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(content: Any) -> str:
    """JSON with sorted keys and no spaces. Raises ValueError for NaN and infinity."""
    try:
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"a setting is NaN or infinite, which no record can hold ({error})"
        ) from error


def code_hash(module: str) -> str:
    """Hash of a module's code and of all that it imports from its own top-level package.

    Raises LookupError when the module has no source file.
    """
    sources = closure(module)
    if module not in sources:
        raise LookupError(f"no source file for module {module!r}")
    return key_of(sources)[:16]


def closure(module: str) -> dict[str, str]:
    """{module: hash of its code} for `module` and what it imports from its top-level package."""
    found: dict[str, str] = {}
    waiting = list(_with_parents(module))
    while waiting:
        name = waiting.pop()
        path = source_path(name)
        if name in found or name in UNINVOLVED or path is None:
            continue
        state = path.stat()
        found[name], imports = _read(name, path, state.st_mtime_ns, state.st_size)
        waiting.extend(imports)
    return dict(sorted(found.items()))


def source_path(module: str) -> Path | None:
    """The source file of a module, found without executing anything but its top-level package."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest and spec.origin is not None:
        return Path(spec.origin)
    for location in spec.submodule_search_locations or ():
        inside = Path(location, *rest)
        for path in (inside.with_suffix(".py"), inside / "__init__.py"):
            if path.is_file():
                return path
    return None


@cache
def _read(module: str, path: Path, mtime_ns: int, size: int) -> tuple[str, frozenset[str]]:
    """Hash of the code in `path` and the modules of the same package that it may import.

    Modification time and size are there for the cache: an edited file is read again.
    """
    content = path.read_bytes()
    if path.suffix != ".py":  # a compiled module
        return hashlib.sha256(content).hexdigest(), frozenset()
    tree = ast.parse(content)
    imports = frozenset(_imports(tree, module, is_package=path.name == "__init__.py"))
    _strip_docstrings(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports


def _imports(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    top = module.partition(".")[0]
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        names: Iterable[str] = ()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            # `from a import b` may name a module b; what is none has no source and drops out.
            names = [source, *(f"{source}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.partition(".")[0] == top:
                yield from _with_parents(name)


def _with_parents(module: str) -> Iterator[str]:
    """a.b.c -> a, a.b, a.b.c: importing a module runs its packages' __init__ too."""
    parts = module.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
