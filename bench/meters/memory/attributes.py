"""Weights that a model keeps outside its parameters and buffers, and torch does not list.

    self.experts = [torch.randn(...) for _ in range(8)]     a plain attribute, or a container
    class Layer: table = torch.randn(...)                   an attribute of the class
    self.run = partial(F.linear, weight=weight)             an argument or a variable of a function
    self.teacher = [module]                                 a module that is not registered
    torch.jit.freeze(...)                                   a constant of a script's plan
    quantize_dynamic(...)                                   a packed parameter of a C++ class

A module may also keep what its last pass computed. That is no weight: the next pass replaces it or
writes to it, so weights are what a pass leaves as it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from bench.meters.memory.storages import is_plain, parts

_MAX_DEPTH = 4  # of containers and objects inside one another
_LISTED = ("_parameters", "_buffers", "_modules")  # what torch lists, by attribute of a module
_SCALARS = (bool, int, float, complex, str, bytes, type, ModuleType, torch.dtype, torch.device)


def find_kept_tensors(model: nn.Module, run: Callable[[], object] | None = None) -> list[Tensor]:
    """Tensors outside parameters and buffers that stay what they are while `run` passes.

    Without `run`, all of them that have no gradient history. Packed ones are not among them.
    """
    # Alive until the end: no address is used again, and a replaced tensor differs.
    holders = [tensor for tensor in _unlisted(model) if isinstance(tensor, Tensor)]
    if run is None:
        return [tensor for tensor in holders if tensor.grad_fn is None]
    before = {_identity(tensor): _version(tensor) for tensor in holders}
    run()
    after = (tensor for tensor in _unlisted(model) if isinstance(tensor, Tensor))
    return [each for each in after if before.get(_identity(each)) == _version(each)]


def unpack_tensors(model: nn.Module) -> list[Tensor]:
    """What packed parameters hold, which only their C++ class can show: each a copy."""
    packed: list[Any] = [x for x in _unlisted(model) if isinstance(x, torch.ScriptObject)]
    shown = [each.unpack() for each in packed if each._has_method("unpack")]
    return [tensor for tensor in _found(shown, set(), 0) if isinstance(tensor, Tensor)]


def is_weight(tensor: Tensor) -> bool:
    """Whether a kept tensor looks like a weight: numbers, not indices, in two or more dimensions.

    Vectors are too often masks, steps and scales.
    """
    is_number = tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized
    return (is_number or tensor.dtype == torch.int8) and tensor.dim() > 1


def _unlisted(model: nn.Module) -> Iterator[Tensor | torch.ScriptObject]:
    """Every tensor that the modules hold besides parameters and buffers, once per storage.

    And every object of a C++ class, which may have tensors packed inside.
    """
    listed = [*model.parameters(), *model.buffers()]
    known = {_identity(part) for tensor in listed for part in parts(tensor)}
    # Modules of the model are visited by themselves; others hide in lists and objects.
    visited = {id(module) for module in model.modules()}
    for module in model.modules():
        for value in _attributes(module):
            for each in _found(value, visited, 0):
                if _identity(each) not in known:
                    known.add(_identity(each))
                    yield each


def _attributes(module: nn.Module) -> Iterator[Any]:
    """Values of a module's own attributes and of its classes', up to nn.Module."""
    yield from (value for name, value in vars(module).items() if name not in _LISTED)
    for kind in type(module).__mro__:
        if kind.__module__.partition(".")[0] == "torch":
            break
        yield from (value for value in vars(kind).values() if not callable(value))
    if isinstance(module, torch.jit.ScriptModule):
        yield list(_constants(module))


def _constants(module: torch.jit.ScriptModule) -> Iterator[Tensor]:
    """Tensors that freezing made constants of the plan."""
    graph = getattr(module, "inlined_graph", None)
    for node in graph.findAllNodes("prim::Constant", True) if graph is not None else ():
        if str(node.output().type()).endswith("Tensor") and node.hasAttribute("value"):
            yield node.t("value")


def _found(value: Any, visited: set[int], depth: int) -> Iterator[Tensor | torch.ScriptObject]:
    if isinstance(value, (Tensor, torch.ScriptObject)):
        yield value
        return
    if isinstance(value, _SCALARS) or value is None or depth > _MAX_DEPTH or id(value) in visited:
        return
    if type(value).__module__.startswith("bench.") and not isinstance(value, nn.Module):
        return  # batches and recorded decisions, which the harness hands to a model
    visited.add(id(value))
    for inner in _inside(value):
        yield from _found(inner, visited, depth + 1)


def _inside(value: Any) -> Iterable[Any]:
    """What a container, a function or an object holds."""
    if isinstance(value, nn.Module):
        return [*value.parameters(), *value.buffers(), vars(value)]
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        return [cell.cell_contents for cell in cells if _is_filled(cell)]
    # Slots, C types and the like have no dictionary, and hold no weights of a model.
    return list(getattr(value, "__dict__", {}).values())


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _identity(value: Tensor | torch.ScriptObject) -> int:
    """The address of a tensor's memory, or of the object where there is none to see."""
    if isinstance(value, Tensor) and is_plain(value):
        return value.untyped_storage().data_ptr()
    return id(value)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
