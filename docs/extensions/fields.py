"""The fields of a class as its source shows them: type, default and the comment beside each."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """One annotated field of a class."""

    name: str
    type: str
    default: str  # "" where the field is required
    comment: str


def class_fields(cls: type) -> list[Field]:
    """The fields of a dataclass, a named tuple or a pydantic model, base classes first."""
    bases = [base for base in cls.__bases__ if getattr(base, "__annotations__", None)]
    inherited = [each for base in bases if _is_ours(base) for each in class_fields(base)]
    return inherited + list(_own_fields(cls))


def _is_ours(cls: type) -> bool:
    # pydantic's BaseModel has annotations too; they describe pydantic and not a record.
    return cls.__module__.partition(".")[0] in ("bench", "methods")


def _own_fields(cls: type) -> Iterator[Field]:
    source = textwrap.dedent(inspect.getsource(cls))
    comments = _comments(source)
    # Line numbers of the tree and of the comments both count from the first line of the class.
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        # A ClassVar belongs to the class and is no setting.
        kind = ast.unparse(node.annotation)
        if node.target.id.startswith("_") or kind.startswith("ClassVar"):
            continue
        yield Field(node.target.id, kind, _default(node.value), _comment_of(node, comments))


def _comments(source: str) -> dict[int, tuple[bool, str]]:
    """Line number -> (whether the comment stands alone on its line, its text)."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            found[token.start[0]] = (token.line.lstrip().startswith("#"), text)
    return found


def _comment_of(node: ast.AnnAssign, comments: dict[int, tuple[bool, str]]) -> str:
    """The comment at the end of the field's line, else the lines of comment right above it."""
    # A field may take several lines; its trailing comment is on the last one.
    trailing = comments.get(node.end_lineno or node.lineno)
    if trailing is not None:
        return trailing[1]
    above: list[str] = []
    line = node.lineno - 1
    while line in comments and comments[line][0]:
        above.insert(0, comments[line][1])
        line -= 1
    return " ".join(above)


def _default(value: ast.expr | None) -> str:
    """The default as a reader would write it: [1, 64] for a factory that makes this list."""
    if value is None:
        return ""
    # dataclasses spell it `field`, pydantic `Field`.
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "Field"):
        named = {keyword.arg: keyword.value for keyword in value.keywords}
        factory = named.get("default_factory")
        if isinstance(factory, ast.Lambda):
            return ast.unparse(factory.body)
        if factory is not None:
            made = ast.unparse(factory) + "()"
            return {"list()": "[]", "dict()": "{}"}.get(made, made)
        return ast.unparse(named["default"]) if "default" in named else ""
    return ast.unparse(value)
