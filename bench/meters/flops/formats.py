"""Number formats of executed FLOPs: a product is as precise as the narrowest of its operands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

PACKED = "packed"  # weights inside an object of a C++ class, of eight or sixteen bits
# Of float32 products, where the process lets the library round them: torch's setting for matmuls.
_REDUCED = {"high": "float32 rounded to tf32 or bf16x3", "medium": "float32 rounded to bfloat16"}
_BITS = {PACKED: 8, **dict.fromkeys(_REDUCED.values(), 16)}


def number_format(operands: Iterable[Any]) -> str:
    """The format of a product by its operands: `bfloat16`, `int8`, `packed`, ..."""
    formats = [_format(each) for each in operands if isinstance(each, (Tensor, torch.ScriptObject))]
    numbers = [each for each in formats if each not in ("int64", "int32", "bool")]  # no indices
    # A product of integers alone is in integers.
    return min(numbers or formats or ["none"], key=bits)


def bits(number_format: str) -> int:
    """Bits of one number; of a complex one, of its parts."""
    if number_format in _BITS:
        return _BITS[number_format]
    kind = getattr(torch, number_format, None)
    if not isinstance(kind, torch.dtype):
        return 0
    return kind.itemsize * 8 // (2 if kind.is_complex else 1)


def narrower(by_format: Mapping[str, int], reference: Mapping[str, int]) -> dict[str, float]:
    """Share of FLOPs by format, of formats with fewer bits than any that the reference uses."""
    total = sum(by_format.values())
    least = min((bits(each) for each, flops in reference.items() if flops), default=0)
    return {
        each: flops / total for each, flops in by_format.items() if flops and bits(each) < least
    }


def _format(operand: Tensor | torch.ScriptObject) -> str:
    if not isinstance(operand, Tensor):
        return PACKED
    name = str(operand.dtype).removeprefix("torch.")
    if name == "float32":
        return _REDUCED.get(torch.get_float32_matmul_precision(), name)
    return name
