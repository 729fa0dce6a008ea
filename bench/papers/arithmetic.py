"""Arithmetic of a row's column `counted`: numbers, names of counts, + - * / and parentheses.

evaluate("macs + 2 * 11_112", {"macs": 1_814_073_344})     Fraction(1814095568, 1)

Exact: a count of 4.7e10 must not be rounded before it is compared digit by digit.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def evaluate(expression: str, counts: Mapping[str, Fraction]) -> Fraction:
    """The value of `expression`, in which `counts` stand by their names.

    Raises ValueError for anything but arithmetic, and for a name that is not among the counts.
    """
    return _value(_parsed(expression), counts)


def names_in(expression: str) -> Iterator[str]:
    """The names of the counts that `expression` needs. Raises ValueError as `evaluate` does."""
    return (node.id for node in ast.walk(_parsed(expression)) if isinstance(node, ast.Name))


def _parsed(expression: str) -> ast.expr:
    # Parsed and walked, never run: the file is data that anyone may send.
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is no arithmetic: {error.msg}") from error


def _value(node: ast.expr, counts: Mapping[str, Fraction]) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            # By its text: 0.1 is one tenth here.
            return Fraction(str(number))
        case ast.Name(id=name) if name in counts:
            return counts[name]
        case ast.Name(id=name):
            raise ValueError(f"no count {name!r}; there are {', '.join(sorted(counts)) or 'none'}")
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, counts)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            return BINARY[type(op)](_value(left, counts), _value(right, counts))
    raise ValueError(f"{ast.unparse(node)!r}: only numbers, names, + - * / and parentheses")
