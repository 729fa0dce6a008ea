"""What methods declare about their decisions is what they execute."""

from __future__ import annotations

import pytest
import torch

from bench import routing
from bench.check.skipping import spend
from bench.meters.flops import count
from methods.dense import Dense
from methods.early_exit import EarlyExit
from methods.mixture_of_depths import MixtureOfDepths
from methods.shrunk_dense import ShrunkDense


def test_decisions_cost_what_they_declare_to_the_flop(built_in) -> None:
    """At batch 1, executed FLOPs above those with closed gates are the declared ones, exactly."""
    batch = built_in.tiny.batch(1)
    for _, model in built_in.at_points():
        own = spend(built_in, model, batch)
        with routing.force("closed"):
            closed = spend(built_in, model, batch)
        assert own.executed - closed.executed == own.declared


@pytest.mark.parametrize("method", [EarlyExit(), MixtureOfDepths()])
@torch.inference_mode()
def test_a_batch_costs_its_samples(method, tiny_image) -> None:
    """On images a compacted batch executes the sum of what its samples execute alone."""
    model = method.build(tiny_image.spec, tiny_image.backbone).eval()
    for head in getattr(model, "heads", []):
        torch.nn.init.normal_(head.linear.weight, std=0.7)
    method.calibrate(model, [tiny_image.batch(16, seed) for seed in range(3)])
    batch = tiny_image.batch(6)
    alone = [count(model, batch.select(torch.tensor([i]))).total for i in range(6)]
    assert count(model, batch).total == sum(alone)


@torch.inference_mode()
def test_shrunk_dense_executes_its_share(tiny) -> None:
    """Half of the blocks' FLOPs: the difference to dense is two blocks of four."""
    batch, build = tiny.batch(1), (tiny.spec, tiny.backbone)
    small, dense = (count(m.build(*build), batch).total for m in (ShrunkDense(0.5), Dense()))
    assert dense - small == 2 * tiny.backbone.block_flops(tiny.spec)
