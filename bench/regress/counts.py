"""Counts that no training and no machine changes: judged without a control, by being equal.

Executed FLOPs and parameters of the dense model, of models without a gate, and of models that no
step has trained. What gates decide after training may change with the training: such counts are
listed and not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.records import catalogue
from bench.regress.verdict import Row

DENSE = "dense"
NAMES = {catalogue.PARAMS.key: "parameters", catalogue.FLOPS.key: "executed FLOPs"}


def is_fixed(method: str, config: Mapping[str, Any], routing: Mapping[str, Any] | None) -> bool:
    """Whether a model's counts depend on its code and settings alone.

    `routing`: the record's diagnostics of gates; None where they are unknown.
    """
    no_gates = routing is not None and routing.get("num_gates") == 0
    return method == DENSE or no_gates or (config.get("train") or {}).get("steps") == 0


def count_rows(
    model: str, before: Mapping[str, float | None], now: Mapping[str, float | None]
) -> Iterator[Row]:
    """A row for every fixed count that both sides have and that is not the same: more is worse."""
    for key, name in NAMES.items():
        old, new = before.get(key), now.get(key)
        if old is not None and new is not None and old != new:
            yield Row(
                model,
                name,
                "regressed" if new > old else "improved",
                baseline=float(old),
                candidate=float(new),
                reason=f"{old:,.10g} -> {new:,.10g}",
            )
