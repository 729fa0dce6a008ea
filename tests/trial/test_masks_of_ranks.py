"""Masks of dynamic sparse training in two processes: the same after every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.records.record import TRIAL_NAME
from tests.trial.test_ranks import plan_trial, read_result, run_in_two

WATCHED = """
import os
from dataclasses import dataclass
from pathlib import Path
import torch
from methods.parts.sparse.layers import matrices
from methods.sparsity.rigl import RigL

@dataclass
class Method(RigL):
    def after_step(self, model, progress):
        super().after_step(model, progress)
        # Before the next forward pass, which sends the first process's buffers to all.
        masks = [each.mask for each in matrices(model) if each.mask is not None]
        rank, number = os.environ["RANK"], model.clock.num_steps
        torch.save(masks, Path(__file__).parent / f"masks-{rank}-{number}.pt")
"""
NUM_STEPS = 4  # of `plan_trial`


@pytest.mark.soak
@pytest.mark.parametrize(("growth", "updates"), [("gradient", 2), ("random", 2), ("top_kast", 0)])
def test_masks_are_the_same_in_all_processes(tmp_path: Path, growth: str, updates: int) -> None:
    """Each process sees its share of a batch, has its own seed, and moves the same weights.

    With three updates in four steps masks move after the second and the third: 2/4 and 3/4 of the
    training are past 1/3 and 2/3, and none moves at the end. Top-KAST stores the largest weights,
    which need not change in so few steps.
    """
    (tmp_path / "watched.py").write_text(WATCHED)
    settings = [f"method.growth={growth}", "method.num_updates=3", "method.end=1"]
    folder = plan_trial(tmp_path, "method=rigl", *settings)
    content = json.loads((folder / TRIAL_NAME).read_text())
    content["entry_points"]["method"] = "watched:Method"
    (folder / TRIAL_NAME).write_text(json.dumps(content))
    record = read_result(folder, run_in_two(folder, more_paths=tmp_path))
    assert (record.status, record.reason) == ("ok", None)
    masks = [
        [torch.load(tmp_path / f"masks-{rank}-{step}.pt") for step in range(1, NUM_STEPS + 1)]
        for rank in (0, 1)
    ]
    for first, second in zip(*masks, strict=True):
        assert first
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    moved = [
        any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        for before, after in zip(masks[0], masks[0][1:], strict=False)
    ]
    assert sum(moved) >= updates
