"""TorchScript's executed plans: which of their nodes compute without torch's dispatcher.

The interpreter hands an `aten::` node to the dispatcher, where a count sees it. What optimisation
puts in its place (`prim::mkldnn_convolution`, fusion groups of oneDNN or NNC), work that it starts
elsewhere (`prim::fork`) and methods of C++ classes it runs itself. A node matters if it returns
tensors and is not known to pass on what others computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

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


def hidden_nodes(graph: Any) -> Iterator[str]:
    """Names of the nodes of a plan that compute without the dispatcher, blocks included."""
    for node in graph.nodes():
        if _returns_tensors(node):
            yield from _hidden(node)
        for block in node.blocks():
            yield from hidden_nodes(block)
        if node.kind() == "prim::DifferentiableGraph":
            yield from hidden_nodes(node.g("Subgraph"))


def is_cpp_method(method: Any) -> bool:
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
