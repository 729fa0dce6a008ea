"""Conditions of measuring: in force inside, restored afterwards."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from bench.meters.conditions import evaluation_mode, gc_disabled, pinned_threads


@pytest.mark.parametrize("num_threads", [1, 2])
def test_pinned_threads_are_in_force_and_restored(num_threads: int) -> None:
    """The number is torch's inside, with the cores that may be used; an error restores it too."""
    before = torch.get_num_threads()
    with pinned_threads(num_threads) as threads:
        assert threads.num_threads == torch.get_num_threads() == num_threads
    assert threads.cores
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="inside"), pinned_threads(num_threads):
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before


def test_a_model_runs_on_at_least_one_thread() -> None:
    """Zero threads raise before anything is set."""
    with pytest.raises(ValueError, match="at least one thread"), pinned_threads(0):
        pass


def test_evaluation_mode_restores_each_submodule() -> None:
    """A submodule that was frozen in evaluation mode stays in it; functions are accepted."""
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    model[0].eval()
    with evaluation_mode(model, len):
        assert torch.is_inference_mode_enabled()
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, False, True]


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_off_inside_and_restored(enabled: bool) -> None:
    """A process that had collection switched off keeps it off."""
    (gc.enable if enabled else gc.disable)()
    try:
        with gc_disabled():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
