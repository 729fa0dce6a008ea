"""Modes that inspect every torch function of a method: empty products, numbers leaving torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.check.contract import Broken
from bench.check.source_lines import current_line
from bench.meters.flops.exits import watch_exits

# By the names under which torch hands functions and methods to a function mode.
PRODUCTS = {
    *("linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm"),
    *("addbmm", "baddbmm", "einsum", "tensordot", "conv1d", "conv2d", "conv3d"),
    *("scaled_dot_product_attention", "grouped_mm", "_grouped_mm"),
}


class _Refusing(TorchFunctionMode):
    """Raises what `judge(name, tensors)` returns for a function's name and its tensors."""

    def __init__(self, judge: Callable[[str, list[Tensor]], Broken | None]) -> None:
        super().__init__()
        self.judge = judge

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # Lists of tensors (cat, stack) are left out: they are no products.
        tensors = [arg for arg in (*args, *(kwargs or {}).values()) if isinstance(arg, Tensor)]
        broken = self.judge(getattr(func, "__name__", ""), tensors)
        if broken is not None:
            raise broken
        return func(*args, **(kwargs or {}))


def refusing_empty_products(how: str, cls: type) -> TorchFunctionMode:
    """While it is open, a product with a tensor without elements raises Broken.

    `how` says what was decided, `cls` is the method, whose line is named.
    """

    def judge(name: str, tensors: list[Tensor]) -> Broken | None:
        # Indexing and copying nothing is legitimate; a product of nothing is a wasted launch.
        if name not in PRODUCTS or all(tensor.numel() for tensor in tensors):
            return None
        return Broken(f"{how} decisions: {name} is called on nothing", line=current_line(cls))

    return _Refusing(judge)


@contextmanager
def staying_in_torch(cls: type) -> Iterator[None]:
    """While it is open, counted code that takes several floats out of torch raises Broken.

    At once in the thread of the caller, with the line of the method `cls`; at the end for other
    threads. A custom operation's implementation may: its formula gives the cost.
    """

    def refuse(how: str, num_floats: int) -> None:
        raise Broken(_leaving(how, num_floats), line=current_line(cls))

    with watch_exits(refuse) as found:
        yield
    for how, num_floats in found.items():
        raise Broken(_leaving(how, num_floats))


def _leaving(how: str, num_floats: int) -> str:
    if not num_floats:
        return f"starts {how}, where no operation is counted"
    return (
        f"{how} takes {num_floats:,} floats out of torch, where no operation is counted "
        "(an op of torch.library with a bench.routing.register_formula would be)"
    )
