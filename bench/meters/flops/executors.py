"""Executors that run whole programs outside torch's dispatcher, where no mode sees their products.

    TorchScript            interprets a plan: nodes that its optimiser made are flagged by name
    AOTInductor packages   compiled code: flagged
    compiled graphs        of Inductor, called without torch.compile's own entry: flagged
    GPU graphs             replay recorded kernels: flagged
    other interpreters     (static runtime, lite modules, NNC kernels): flagged

The interpreter of TorchScript hands an `aten::` node to the dispatcher, where a count sees it. A
node of another kind matters if it returns tensors and does more than pass on what others computed.

While a count is in progress the types' own entries are replaced, so that a method or function that
a model took hold of earlier (`run = module.forward`) is covered too.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bench.meters.flops.tally import OUTSIDE, Tally
from bench.meters.flops.threads import ledger_here

# Entries of classes of torch._C by the module that holds them; a build has those of its devices.
EXECUTORS = (
    ("torch._C", "StaticModule", ("__call__", "runAsync", "run_async")),
    ("torch._C", "LiteScriptModule", ("forward", "run_method", "__call__")),
    ("torch._C", "_CUDAGraph", ("replay",)),
    ("torch._C", "_XPUGraph", ("replay",)),
    ("torch._C", "_MTIAGraph", ("replay",)),
    ("torch._C", "_acceleratorGraph", ("replay",)),
    ("torch._C._te", "TensorExprKernel", ("run", "fallback")),
    ("torch._C._te", "CodeGen", ("call",)),
    ("torch._C._aoti", "AOTIModelPackageLoader", ("run", "boxed_run")),
    ("torch._C._aoti", "AOTIModelContainerRunnerCpu", ("run",)),
    ("torch._C._aoti", "AOTIModelContainerRunnerCuda", ("run",)),
    ("torch._C._aoti", "AOTIModelContainerRunnerXpu", ("run",)),
    ("torch._C._aoti", "AOTIModelContainerRunnerMps", ("run",)),
    # Python classes; loaded only where something was compiled.
    ("torch._inductor.output_code", "CompiledFxGraph", ("__call__",)),
    ("torch._inductor.output_code", "CompiledAOTI", ("__call__",)),
)
SCRIPTED = (("torch._C", "ScriptMethod"), ("torch._C", "ScriptFunction"))

# They return tensors and compute none: constants, control flow, containers, and calls and graphs
# whose own nodes reach the dispatcher.
_PASSING_NAMES = """
    AutogradAdd AutogradZero BailOut CallFunction CallMethod Constant ConstantChunk
    ConstantMKLDNNTensor CreateObject DictConstruct DictIndex DifferentiableGraph FallbackGraph
    GetAttr If IfThenElse ListConstruct ListUnpack Load Loop NumToTensor PythonOp
    RequiresGradCheck Store TupleConstruct TupleIndex TupleSlice TupleUnpack TypeCheck
    Uninitialized data grad oneDNNFusionGuard profile profile_ivalue unchecked_cast
    unchecked_unwrap_optional
"""
_PASSING = frozenset(f"prim::{name}" for name in _PASSING_NAMES.split())
_CPP_CLASSES = "__torch__.torch.classes."  # the prefix of classes that C++ registers

_patching = threading.RLock()
_num_inside = 0
_originals: list[tuple[type, str, Any]] = []


@contextmanager
def report_executors() -> Iterator[None]:
    """Inside, whatever runs outside the dispatcher in a counted thread is flagged in its count."""
    _patch(+1)
    try:
        yield
    finally:
        _patch(-1)


def _patch(change: int) -> None:
    """The first in replaces the entries, the last out restores them: counts share one patch."""
    global _num_inside
    with _patching:
        before, _num_inside = _num_inside, _num_inside + change
        if before == 0:
            for module, name, entries in EXECUTORS:
                for entry in entries:
                    _replace(module, name, entry, _flagging)
            for module, name in SCRIPTED:
                _replace(module, name, "__call__", _looking_at_the_plan)
        elif _num_inside == 0:
            while _originals:
                owner, entry, original = _originals.pop()
                setattr(owner, entry, original)


def _replace(module: str, name: str, entry: str, by: Callable[[Any, str], Any]) -> None:
    owner: Any = getattr(sys.modules.get(module), name, None)
    original = None if owner is None else vars(owner).get(entry)
    if original is not None:
        _originals.append((owner, entry, original))
        setattr(owner, entry, by(original, f"{name}.{entry}".removesuffix(".__call__")))


def _flagging(original: Any, name: str) -> Any:
    @wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        tally = _tally_here()
        if tally is not None:
            tally.flag(f"{OUTSIDE}::{name}")
        return original(*args, **kwargs)

    return run


def _looking_at_the_plan(original: Any, name: str) -> Any:
    @wraps(original)
    def run(method: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(method, *args, **kwargs)
        tally = _tally_here()
        if tally is not None:
            for hidden in sorted(set(_hidden_in(method, args, output))):
                tally.flag(hidden if hidden.startswith("prim::") else f"{OUTSIDE}::{hidden}")
        return output

    return run


def _hidden_in(method: Any, args: tuple[Any, ...], output: Any) -> Iterator[str]:
    """What the call that just ended computed without the dispatcher."""
    if _is_cpp_method(method):
        # Without a tensor on either side it packs, unpacks or describes.
        if _has_tensors(args) and _has_tensors(output):
            yield f"{method.owner._type().name()}.{method.name}"
        return
    # Plans depend on the inputs; torch keeps the one that ran last in this thread.
    yield from _hidden_nodes(torch._C._last_executed_optimized_graph())


def _has_tensors(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def _tally_here() -> Tally | None:
    ledger = ledger_here()
    return None if ledger is None else ledger.tally


def _hidden_nodes(graph: Any) -> Iterator[str]:
    """Names of the nodes of a plan that compute without the dispatcher, blocks included."""
    for node in graph.nodes():
        if _returns_tensors(node):
            yield from _hidden(node)
        for block in node.blocks():
            yield from _hidden_nodes(block)
        if node.kind() == "prim::DifferentiableGraph":
            yield from _hidden_nodes(node.g("Subgraph"))


def _is_cpp_method(method: Any) -> bool:
    """Whether a `ScriptMethod` is a C++ function of a registered class, and has no plan."""
    owner = getattr(method, "owner", None)
    return owner is not None and str(owner._type()).startswith(_CPP_CLASSES)


def _hidden(node: Any) -> Iterator[str]:
    kind = node.kind()
    namespace = kind.partition("::")[0]
    if kind == "prim::CallMethod":
        called = str(next(iter(node.inputs())).type())
        if called.startswith(_CPP_CLASSES):
            yield f"{called}.{node.s('name')}"
    elif namespace == "prim":
        if kind not in _PASSING and not kind.startswith("prim::Constant"):
            yield kind
    # Of aten's own, what only the interpreter has works on numbers and lists.
    elif namespace != "aten" and not kind.startswith("^") and kind not in _dispatched():
        yield kind


def _returns_tensors(node: Any) -> bool:
    return any("Tensor" in str(output.type()) for output in node.outputs())


@cache
def _dispatched() -> frozenset[str]:
    """Names of all ops of the dispatcher, without their overloads."""
    return frozenset(name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names())
