"""FLOP formulas of custom operations: what a plugin declares about its own kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Formula = Callable[..., int]
_formulas: dict[Any, Formula] = {}  # op -> formula, for the whole process


def register_formula(op: Any, formula: Formula) -> None:
    """Declare what one call of a custom op costs.

    `op` is an OpOverloadPacket or OpOverload such as `torch.ops.mylib.fused_experts`;
    `formula(args, kwargs, output) -> int` returns executed FLOPs (2 x MAC) of one call. Only for
    ops without a formula of the meter's own, which always has precedence. Raises TypeError for an
    op that is a name, or a formula that cannot be called.
    """
    # A misspelt name would never match a dispatched op; an op object exists or fails on lookup.
    if isinstance(op, str) or not callable(op):
        raise TypeError(
            f"a formula belongs to an op such as torch.ops.mylib.experts, not to {op!r}"
        )
    if not callable(formula):
        raise TypeError(f"the formula of {op} is {formula!r}, which cannot be called")
    _formulas[op] = formula


def formulas() -> dict[Any, Formula]:
    """The registered formulas by op (a copy)."""
    return dict(_formulas)
