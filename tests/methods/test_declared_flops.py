"""What methods declare about their decisions is what they execute."""

from __future__ import annotations

import pytest
import torch

from bench import routing
from bench.check.contracts.flops import count_pass
from bench.meters.flops.counter import count
from methods.controls.dense import Dense
from methods.controls.shrunk_dense import ShrunkDense
from methods.skipping.early_exit import EarlyExit
from methods.skipping.mixture_of_depths import MixtureOfDepths


def test_decisions_cost_what_they_declare_to_the_flop(built_in) -> None:
    """At batch 1, executed FLOPs above those with closed gates are the declared ones, exactly."""
    batch = built_in.tiny.batch(1)
    for _, model in built_in.at_points():
        own = count_pass(built_in, model, batch)
        with routing.force("closed"):
            closed = count_pass(built_in, model, batch)
        assert own.executed - closed.executed == own.declared - closed.declared


@pytest.mark.parametrize("method", [EarlyExit(every=2), MixtureOfDepths()])
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


@pytest.mark.parametrize("method", [EarlyExit(every=2), MixtureOfDepths()])
@torch.inference_mode()
def test_a_ragged_batch_pads_attention_alone(method, tiny_text) -> None:
    """Beyond its samples a batch pays 4 D FLOPs for every padded pair of a query and a key.

    Of the longest sample's K tokens a sample has k: Mixture-of-Depths pads k x k pairs to K x K,
    early exit k queries to K, each looking at all T tokens, in each of two blocks.
    """
    model, batch = method.build(tiny_text.spec, tiny_text.backbone).eval(), tiny_text.batch(6)
    random = torch.Generator().manual_seed(0)
    with routing.force("random", share=0.5, generator=random), routing.observe() as seen:
        model(batch)
    pairs = 0
    for decision in seen.decisions:
        run = decision.run[decision.run.any(1)] if isinstance(method, EarlyExit) else decision.run
        per_sample, most = run.sum(1), int(run.sum(1).max())
        if isinstance(method, EarlyExit):
            pairs += int((most - per_sample).sum()) * run.shape[1] * 2
        else:
            pairs += int((most**2 - per_sample**2).sum())
    assert pairs > 0  # ragged
    with routing.replay(seen):
        together = count(model, batch).total
    alone = 0
    for one in torch.arange(6)[:, None]:
        with routing.replay(seen.select(one)):
            alone += count(model, batch.select(one)).total
    assert together - alone == 4 * tiny_text.backbone.dim * pairs


@torch.inference_mode()
def test_shrunk_dense_executes_its_share(tiny) -> None:
    """Half of the blocks' FLOPs: the difference to dense is two blocks of four."""
    batch, build = tiny.batch(1), (tiny.spec, tiny.backbone)
    small, dense = (count(m.build(*build), batch).total for m in (ShrunkDense(0.5), Dense()))
    assert dense - small == 2 * tiny.backbone.block_flops(tiny.spec)
