"""TorchScript optimised for inference: its own operators bypass the dispatcher.

`torch.jit.optimize_for_inference` replaces convolutions by `prim::mkldnn_convolution` and the like,
which the interpreter runs itself. A count cannot see them; the module's graph lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

# A graph is inlined anew at every access, so its operators are listed once per module.
_hidden: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


@contextmanager
def report_hidden_ops(report: Callable[[str], None]) -> Iterator[None]:
    """Inside, call `report(op)` for each hidden operator of each scripted module that is called."""

    def look(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            for name in sorted(_hidden_ops(module)):
                report(name)

    # A global hook, so that modules created during the call are covered too.
    hook = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


def _hidden_ops(module: torch.jit.ScriptModule) -> frozenset[str]:
    if module not in _hidden:
        graph = getattr(module, "inlined_graph", None)
        _hidden[module] = frozenset(_hidden_nodes(graph)) if graph is not None else frozenset()
    return _hidden[module]


def _hidden_nodes(block: Any) -> Iterator[str]:
    """Kinds of the nodes that compute without the dispatcher, branches and loops included."""
    for node in block.nodes():
        name = node.kind()
        # Constants hold prepacked weights under the same prefix and compute nothing.
        if name.startswith("prim::") and "mkldnn" in name.lower() and "Constant" not in name:
            yield name
        for inner in node.blocks():
            yield from _hidden_nodes(inner)
