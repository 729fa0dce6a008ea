"""The conditions that a model is measured under: threads, evaluation mode, garbage collection.

Each is a context manager that restores the previous setting, also after an error.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Threads:
    """The settings in force: intra-op threads, and the cores that the process may use."""

    num_threads: int
    cores: tuple[int, ...]


@contextmanager
def pinned_threads(num_threads: int) -> Iterator[Threads]:
    """Use `num_threads` intra-op threads inside, and the previous number afterwards.

    Raises ValueError below one.
    """
    if num_threads < 1:
        raise ValueError(f"a model runs on at least one thread, not {num_threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        # Read back: records hold the number in force, not the one requested.
        yield Threads(torch.get_num_threads(), tuple(sorted(os.sched_getaffinity(0))))
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluation_mode(*models: object) -> Iterator[None]:
    """Evaluation mode for those of `models` that are modules, inference mode for the block."""
    modules = [model for model in models if isinstance(model, nn.Module)]
    # `model.train()` afterwards would unfreeze submodules that were in evaluation mode before.
    # A frozen script has no mode at all.
    every = [module for root in modules for module in root.modules()]
    training = [module for module in every if getattr(module, "training", False)]
    for module in modules:
        module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Collect garbage once on entry, and not inside: a collection is tens of milliseconds."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
