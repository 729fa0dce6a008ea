"""What stands between a model and deployment: compiling, exporting, waiting for the device.

    compile   graph breaks at the largest batch size, and whether what dynamo captured computes the
              same. Without code generation (backend `eager`): no compiled kernel is tried
    export    whether torch.export accepts the model with a fixed batch, or why not
    host_syncs_per_forward   how often a pass makes the host wait for a GPU

Seconds, not minutes: nothing is tuned or compiled to machine code. Never inside a timed region.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from bench.measure.inputs import Inputs
from bench.measure.subject import Subject
from bench.types import Batch

LONGEST_REASON = 300  # characters of a compiler's message
Entry = dict[str, Any]


class _OnTensors(nn.Module):
    """The model as a function of tensors, which is what compilers and exporters take."""

    def __init__(self, model: nn.Module, like: Batch) -> None:
        super().__init__()
        self.model = model
        self.names = [name for name, value in vars(like).items() if value is not None]

    def forward(self, *tensors: Tensor) -> Tensor:
        logits: Tensor = self.model(Batch(**dict(zip(self.names, tensors, strict=True)))).logits
        return logits


def measure_deployability(subject: Subject, inputs: Inputs) -> Entry:
    """The entry `deployability` at the operating point that is set; null comes with a reason.

    The profile `quick` leaves compiling and exporting out: they take several seconds per trial.
    """
    batch = inputs.by_size[max(inputs.by_size)][0]
    if subject.config.profile == "quick":
        return {**_left_out("compile"), **_left_out("export"), **_host_syncs(subject, batch)}
    # A copy: compilers attach hooks and caches to what they compile.
    model = _OnTensors(copy.deepcopy(subject.model).eval(), batch)
    tensors = tuple(getattr(batch, name) for name in model.names)
    with torch.no_grad(), _quiet():
        return {
            **_attempt("compile", _compile, model, tensors),
            **_attempt("export", _export, model, tensors),
            **_host_syncs(subject, batch),
        }


def _left_out(name: str) -> Entry:
    return {name: None, f"{name}_reason": "measure=quick leaves it out: seconds per trial"}


def _attempt(
    name: str, run: Callable[[nn.Module, tuple[Tensor, ...]], Entry], model: Any, tensors: Any
) -> Entry:
    """What `run` found, or null and the reason why it failed."""
    try:
        return {name: run(model, tensors)}
    except Exception as error:  # a compiler's error is a result
        return {name: None, f"{name}_reason": f"{type(error).__name__}: {_short(str(error))}"}


def _short(message: str) -> str:
    """The first line that is not empty."""
    lines = (line.strip() for line in message.splitlines())
    return next((line for line in lines if line), "")[:LONGEST_REASON]


def _compile(model: nn.Module, tensors: tuple[Tensor, ...]) -> Entry:
    expected = model(*tensors)
    torch._dynamo.reset()  # code compiled for earlier models would be reused
    found = torch._dynamo.explain(model)(*tensors)
    torch._dynamo.reset()
    # What dynamo captured, run without code generation: differences are dynamo's.
    captured = torch.compile(model, backend="eager")(*tensors)
    torch._dynamo.reset()
    return {
        "num_graphs": found.graph_count,
        "num_graph_breaks": found.graph_break_count,
        "break_reasons": sorted({_short(each.reason) for each in found.break_reasons}),
        "largest_difference_eager": float((captured - expected).abs().max()),
    }


def _export(model: nn.Module, tensors: tuple[Tensor, ...]) -> Entry:
    program = torch.export.export(model, tensors)
    difference = (program.module()(*tensors) - model(*tensors)).abs().max()
    return {"batch_size": len(tensors[0]), "largest_difference": float(difference)}


def _host_syncs(subject: Subject, batch: Batch) -> Entry:
    name = "host_syncs_per_forward"
    if subject.device.type != "cuda":
        return {name: None, f"{name}_reason": "no GPU: the host has no device to wait for"}
    subject.model.eval()(batch)  # a first pass allocates, which may wait as well
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    # In this mode torch warns at each operation that makes the host wait.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # itself warns: it is a prototype
        caught.clear()
        try:
            subject.model(batch)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return {name: sum("synchroniz" in str(each.message) for each in caught)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Compilers warn, log and print about what is recorded here anyway."""
    loggers = [logging.getLogger(name) for name in ("torch._dynamo", "torch._export", "torch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
