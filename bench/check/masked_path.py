"""The training path with nothing random in it: only masking makes it differ from inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def masked_path(model: nn.Module) -> Iterator[nn.Module]:
    """The model in training mode, with every noise at its mean.

    Normalisation by batch statistics and dropout stay as at inference; afterwards everything,
    buffers included, is as before.
    """
    # Buffers too: a pass in training mode counts loads and moves running means.
    before = copy.deepcopy(model.state_dict())
    model.train()
    for module in model.modules():
        # Batch statistics would make a sample depend on its batch, which inference does not.
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)):
            module.eval()
    try:
        with _Noiseless():
            yield model
    finally:
        model.load_state_dict(before)
        model.eval()


class _Noiseless(TorchFunctionMode):
    """Random numbers are the mean of their distribution: jitter multiplies by one, noise adds 0."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # Drawn all the same, so that shape, dtype and device are those of the real call.
        drawn = func(*args, **(kwargs or {}))
        mean = _MEANS.get(getattr(func, "__name__", ""))
        return drawn if mean is None else mean(drawn, args, kwargs or {})


Mean = Callable[[Tensor, tuple[Any, ...], dict[str, Any]], Tensor]


def _always(value: float) -> Mean:
    return lambda drawn, args, kwargs: _filled(drawn, value)


def _uniform(drawn: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    low = args[1] if len(args) > 1 else kwargs.get("from", 0.0)
    high = args[2] if len(args) > 2 else kwargs.get("to", 1.0)
    return _filled(drawn, (low + high) / 2)


def _normal(drawn: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return _filled(drawn, kwargs.get("mean", args[1] if len(args) > 1 else 0.0))


def _undropped(drawn: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    kept: Tensor = args[0] if args else kwargs["input"]
    return kept


def _filled(drawn: Tensor, mean: float) -> Tensor:
    with torch.no_grad():
        return drawn.fill_(mean)


# By the names under which torch hands functions and methods to a function mode. randint is left
# out: the kit itself draws directions with it, and a random integer has no neutral value.
_MEANS: dict[str, Mean] = {
    "rand": _always(0.5),
    "rand_like": _always(0.5),
    "randn": _always(0.0),
    "randn_like": _always(0.0),
    "uniform_": _uniform,
    "normal_": _normal,
    "dropout": _undropped,
}
