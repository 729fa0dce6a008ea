"""What makes a trial the same trial: configuration, code, versions, hardware and data.

A trial's key is the SHA-256 of its identity. Code enters as the syntax trees of the method's,
backbone's and task's modules and of everything that they import from their own distribution and
from `methods`, without comments and docstrings: only what can change a number makes a result stale.
A method that works on another one names it by its setting `of`, and that one's code enters too.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

MEASURING_ROOM = "bench.trial.run"
# What makes a stored dense model and the costs beside it.
TRAINING_ROOMS = (
    "bench.trial.train",
    "bench.trial.flop_budget",
    "bench.measure.training_probe",
    "bench.measure.energy.training",
)
CONTROLLED = "of"  # the setting by which a method names the method that it works on
# Rooms that a trial imports but that cannot change its numbers. What is not listed counts, so a
# new room makes results stale rather than silently wrong.
UNINVOLVED = (
    "bench",
    "bench.config",
    "bench.records",
    "bench.records.record",
    "bench.records.contradiction",
    "bench.records.files",
    "bench.records.replacing",
    "bench.records.catalogue",
    "bench.records.entry",
    "bench.records.redaction",
    "bench.records.environment",
    "bench.records.layout",
    "bench.plugins",
)
# Packages whose version may change a number. Hydra, pandas and W&B cannot.
KEY_PACKAGES = ("python", "torch", "pytorch-lightning", "numpy")
# Blocks of the configuration that a trained dense model depends on.
DENSE_BLOCKS = ("task", "backbone", "seed", "train", "gpu")
NOT_OF_DENSE = ("fine_tune_lr_share",)  # of those blocks: what its training does not read


def key_of(content: Any) -> str:
    """SHA-256, in hex, of canonical JSON. Raises ValueError for NaN and infinity."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(content: Any) -> str:
    """JSON with sorted keys and no spaces. Raises ValueError for NaN and infinity."""
    try:
        # Without allow_nan=False json writes NaN, which other readers of JSON reject.
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"a setting is NaN or infinite, which no record can hold ({error})"
        ) from error


def code_hash(module: str, distribution: str = "") -> str:
    """Hash of a module's code and of all that it imports from its distribution and `methods`.

    Raises LookupError when the module has no source file.
    """
    sources = closure(module, distribution)
    if module not in sources:
        raise LookupError(f"no source file for module {module!r}")
    return key_of(sources)[:16]


def closure(module: str, distribution: str = "") -> dict[str, str]:
    """{module: hash of its code} for `module` and what it imports of its own and of `methods`.

    Its own is its top-level package, whatever `distribution` installs, and what lies beside it in
    a source folder. Packages count with their `__init__`.
    """
    home = module.partition(".")[0]
    return _follow(_with_parents(module), _Own(home, distribution), parents=True)


def training_closure() -> dict[str, str]:
    """{module: hash of its code} of what trains a dense model and measures what that costs.

    A package's `__init__` counts only where it is imported itself: that of `bench.measure` would
    bring in every meter, and each of their changes would train all dense models again.
    """
    return _follow(TRAINING_ROOMS, _Own("bench", ""), parents=False)


def _follow(start: Iterable[str], own: _Own, *, parents: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    waiting = list(start)  # a worklist, because imports may be circular
    while waiting:
        name = waiting.pop()
        path = source_path(name)
        if name in found or name in UNINVOLVED or path is None:
            continue
        state = path.stat()  # part of the cache's key: an edited file is parsed again
        found[name], imports = _read(name, path, state.st_mtime_ns, state.st_size)
        for each in imports:
            if own(each.partition(".")[0]):
                waiting.extend(_with_parents(each) if parents else [each])
    return dict(sorted(found.items()))


class _Own:
    """Which top-level modules count as code of a plugin that lives in the module `home`."""

    def __init__(self, home: str, distribution: str) -> None:
        self._known = {"bench": False, "methods": home != "bench", home: True}
        self._listed = _installed_modules(distribution)
        self._place = _place(home)

    def __call__(self, top: str) -> bool:
        if top not in self._known:
            self._known[top] = top not in sys.stdlib_module_names and (
                top in self._listed or (self._place is not None and _place(top) == self._place)
            )
        return self._known[top]


def _installed_modules(distribution: str) -> set[str]:
    """The top-level modules that a distribution installs; of an editable one nothing is listed."""
    try:
        files = metadata.files(distribution) if distribution else None
    except metadata.PackageNotFoundError:
        files = None
    code = [path for path in files or () if path.suffix in (".py", ".so")]
    return {path.parts[0].partition(".")[0] for path in code}


def _place(top: str) -> Path | None:
    """The source folder of a top-level module; None for what is installed among others."""
    path = source_path(top)
    if path is None:
        return None
    folder = path.parent.parent if path.name == "__init__.py" else path.parent
    # Next to one another in site-packages lie packages of different distributions.
    return None if folder.name in ("site-packages", "dist-packages") else folder


def source_path(module: str) -> Path | None:
    """The source file of a module, found without executing anything but its top-level package."""
    top, *rest = module.split(".")
    try:
        # Of a dotted name find_spec would import the parents: only the top is looked up.
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module in memory that came from no file
        return None
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
    """Hash of the code in `path` and the modules that it may import.

    Modification time and size are there for the cache: an edited file is read again.
    """
    content = path.read_bytes()
    if path.suffix != ".py":  # a compiled module
        return hashlib.sha256(content).hexdigest(), frozenset()
    # The syntax tree: comments, docstrings and formatting do not make results stale.
    tree = ast.parse(content)
    imports = frozenset(_imports(tree, module, is_package=path.name == "__init__.py"))
    _strip_docstrings(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports


def _imports(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        names: Iterable[str] = ()
        if isinstance(node, ast.Import):  # inside functions too: heavy imports stand there
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            # `from a import b` may name a module b; what is none has no source and drops out.
            names = [source, *(f"{source}.{alias.name}" for alias in node.names)]
        yield from names


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
