"""Which function stands under which name: in torch, in the harness and in dense models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.library

# What forward passes call. Not torch.optim and torch.jit, which torch.compile patches itself.
OF_TORCH = (
    *("torch.nn", "torch.functional", "torch.autograd", "torch.linalg", "torch.fft"),
    *("torch.special", "torch.amp", "torch._tensor", "torch._C", "torch._ops"),
)
OTHERS = ("bench", "time")
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
# What torch.compile exchanges when it is first used, and kernels of torch's own transforms.
OF_COMPILE = (
    *(f"torch.nn.modules.module.Module:{each}" for each in ("__init__", "__setstate__")),
    "torch.manual_seed",
)
OF_TRANSFORMS = ("FuncTorch", "Meta")
KERNEL = "kernel of "
Functions = Mapping[str, Any]  # qualified name -> what identifies the function


def functions_in_force(packages: Sequence[str] = ()) -> Functions:
    """Every function of torch, the harness and `packages` that is loaded, by qualified name.

    Takes about 10 ms. Operations of torch whose kernels were replaced are among them.
    """
    prefixes = (*OF_TORCH, *OTHERS, *packages)
    found: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and (name == "torch" or _is_in(name, prefixes)):
            found.update(_functions_of(name, module))
    # torch keeps the kernels that Python code gave to its own operations.
    kernels: set[str] = getattr(torch.library, "_impls", set())
    return found | {f"{KERNEL}{key}": key for key in kernels if _is_for_all(key)}


def changed_functions(before: Functions, now: Functions) -> list[str]:
    """Names of functions that were replaced, removed, or given to a class that had none.

    Modules may get new functions, and new modules may be loaded.
    """
    replaced = [name for name, old in before.items() if not _is_same(old, now.get(name))]
    classes = {_owner(name) for name in before}
    added = [
        name
        for name in now.keys() - before.keys()
        if name.startswith(KERNEL) or (":" in name and _owner(name) in classes)
    ]
    changed = {*replaced, *added} - {each for each in OF_COMPILE if _is_of_torch(now.get(each))}
    return [name.replace(":", ".").rstrip(".") for name in sorted(changed)]


def _is_for_all(kernel: str) -> bool:
    """Whether it is a kernel of one of torch's own operations, outside transforms."""
    namespace, _, rest = kernel.partition("/")
    return namespace == "aten" and not any(each in rest for each in OF_TRANSFORMS)


def _is_in(name: str, packages: Sequence[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in packages)


def _functions_of(name: str, module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Functions of a module as `module.function`, those of its classes as `module.Class:method`."""
    for key, value in list(vars(module).items()):
        if callable(value):
            yield f"{name}.{key}", _identity(value)
        # Where it was defined, not where it was imported to. Types of C refuse new methods.
        if isinstance(value, type) and value.__module__ == name and _is_of_python(value):
            yield from _methods_of(f"{name}.{key}", value)


def _methods_of(name: str, found: type) -> Iterator[tuple[str, Any]]:
    yield f"{name}:", found  # also of a class without a method, which may get one
    for attribute, method in list(vars(found).items()):
        if callable(_function(method)):
            yield f"{name}:{attribute}", _identity(method)


def _is_of_python(found: type) -> bool:
    return bool(found.__flags__ & HEAP_TYPE) and not found.__module__.startswith("torch._C")


def _owner(name: str) -> str:
    return name.partition(":")[0]


def _function(method: Any) -> Any:
    """The function inside a class or static method or a property."""
    if isinstance(method, property):
        return method.fget
    return getattr(method, "__func__", method)


def _identity(value: Any) -> tuple[Any, ...]:
    """The object, and the code and defaults that it has: both can be exchanged inside it."""
    function: Callable[..., Any] = _function(value)
    found = [getattr(function, name, None) for name in ("__code__", "__defaults__")]
    return (value, *found)


def _is_of_torch(identity: Any) -> bool:
    """Whether the code of a function stands in torch's own folder."""
    code = identity[1] if isinstance(identity, tuple) else None
    return code is not None and Path(code.co_filename).is_relative_to(Path(torch.__file__).parent)


def _is_same(old: Any, new: Any) -> bool:
    if isinstance(old, tuple) and isinstance(new, tuple):
        return all(a is b for a, b in zip(old, new, strict=True))
    return old is new or (isinstance(old, str) and old == new)
