"""A module's public names as Markdown: signatures, docstrings, fields."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from docs.extensions.fields import class_fields
from docs.extensions.markdown import code, prose, table

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def module_page(name: str) -> list[str]:
    """Every public class and function of a module, and its public constants, in source order."""
    module = importlib.import_module(name)
    # The page gives a module its heading at level 2, so its names are at level 3.
    lines = [*prose(inspect.getdoc(module) or ""), ""]
    lines += table(["name", "value", ""], _constants(module))
    for public, thing in _members(module):
        node = _definition(thing)
        lines += [f"### {code(public)}", "", code(_signature(node)), ""]
        lines += [*prose(inspect.getdoc(thing) or ""), ""]
        if isinstance(thing, type):
            lines += [*fields_table(thing), *_methods(node)]
    return lines


def fields_table(cls: type) -> list[str]:
    """The fields of a class: name, type, default, comment."""
    fields = class_fields(cls)
    rows = [(code(f.name), code(f.type), code(f.default), f.comment) for f in fields]
    return table(["field", "type", "default", ""], rows)


def _members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Classes and functions that `__all__` names, or else that the module itself defines."""
    exported = getattr(module, "__all__", None)
    for name in exported or vars(module):
        thing = getattr(module, name)
        # Without `__all__`, what a module imports is in its namespace like what it defines.
        own = exported is not None or getattr(thing, "__module__", "") == module.__name__
        is_definition = inspect.isclass(thing) or inspect.isfunction(thing)
        if own and is_definition and not name.startswith("_"):
            yield name, thing


def _definition(thing: Any) -> Definition:
    # `getsource` looks through decorators such as contextmanager, whose wrapper has no arguments.
    node = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    assert isinstance(node, Definition)
    return node


def _signature(node: Definition) -> str:
    """As in the source: annotations are names here and not the objects behind them."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def _methods(node: Definition) -> Iterator[str]:
    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or method.name.startswith("_"):
            continue
        # Also `cached_property`: both are read without parentheses.
        is_property = any("property" in ast.unparse(each) for each in method.decorator_list)
        shown = method.name if is_property else _signature(method)
        yield from [f"**{code(f'{node.name}.{shown}')}**", ""]
        yield from [*prose(ast.get_docstring(method) or ""), ""]


def _constants(module: ModuleType) -> Iterator[tuple[str, str, str]]:
    """Assignments to public names at the top of a module: name, value, the comment beside it.

    A package's are also those that it imports from its own modules and names in `__all__`.
    """
    exported = set(getattr(module, "__all__", ()))
    source = inspect.getsource(module)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(module.__name__):
            names = {alias.name for alias in node.names} & exported
            part = importlib.import_module(str(node.module))
            yield from (row for name, row in _assignments(inspect.getsource(part)) if name in names)
    yield from (row for _, row in _assignments(source))


def _assignments(source: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        elif isinstance(node, ast.AnnAssign):
            target = node.target
        else:
            continue
        # A tuple of targets has no name of its own, and an annotation alone no value.
        if isinstance(target, ast.Name) and node.value and not target.id.startswith("_"):
            comment = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2]
            yield target.id, (code(target.id), code(ast.unparse(node.value)), comment)
