"""AdaViT's gates: tokens, heads and halves of blocks, each alone and all together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from bench.plugins import construct
from bench.routing import Decision
from bench.types import Unsupported
from methods.backbone.resnet import ResNet
from methods.parts.blocks.gates import BlockGates, Opened
from methods.tokens.vit_gates import VitGates

POOLS = ("mean", "class")
ALONE = {
    "all": {},
    "tokens": {"heads": None, "halves": None},
    "heads": {"tokens": None, "halves": None},
    "halves": {"tokens": None, "heads": None},
}


def _model(tiny, pool: str = "mean", **settings):
    """A dense trunk and its converted model, both in inference mode."""
    dense = replace(tiny.backbone, pool=pool).build(tiny.spec).eval()
    return dense, VitGates(**settings).convert(dense, []).eval()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ALONE)
@torch.no_grad()
def test_open_gates_are_dense(tiny_image, kind: str, pool: str) -> None:
    """Every token, head and half: the dense model."""
    dense, model = _model(tiny_image, pool, **ALONE[kind])
    batch = tiny_image.batch(3)
    with routing.force("open"):
        torch.testing.assert_close(model(batch).logits, dense(batch).logits)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ALONE)
@torch.no_grad()
def test_skipping_equals_masking(tiny_image, tiny_labels, kind: str, pool: str) -> None:
    """The training path on the same random decisions gives the same logits, within 1e-5."""
    for tiny in (tiny_image, tiny_labels):
        _, model = _model(tiny, pool, **ALONE[kind])
        batch, generator = tiny.batch(9), torch.Generator().manual_seed(1)
        with routing.force("random", share=0.6, generator=generator), routing.observe() as seen:
            skipped = model.eval()(batch).logits
        with routing.replay(seen):
            masked = model.train()(batch).logits
        torch.testing.assert_close(skipped, masked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("kind", ALONE)
@torch.inference_mode()
def test_declared_flops_are_the_executed_ones(tiny_image, kind: str, pool: str) -> None:
    """Above closed gates, random decisions of one sample cost what they declare, to the FLOP."""
    method = VitGates(**ALONE[kind])
    _, model = _model(tiny_image, pool, **ALONE[kind])
    batch, costs = tiny_image.batch(1), []
    generator = torch.Generator().manual_seed(1)
    for choosing in (
        routing.force("random", share=0.6, generator=generator),
        routing.force("closed"),
    ):
        with choosing, routing.observe() as seen:
            executed = count(model, batch).total
        costs.append((executed, method.declared_flops(model, seen)))
    (executed, declared), (closed, least) = costs
    assert executed - closed == declared - least > 0


def _only(**runs: list[bool]):
    """Override: gates of block 1 as given by kind, everything else closed."""

    def choose(decision: Decision) -> torch.Tensor:
        given = {f"{kind}1": run for kind, run in runs.items()}.get(decision.name)
        if given is None:
            return torch.zeros_like(decision.run)
        return torch.tensor(given).expand_as(decision.run)

    return routing.override(choose)


FOUR = [True, False] * 4 + [False] * 8  # of 16 tokens


@pytest.mark.parametrize(
    ("runs", "flops"),
    [
        # Width 16, two heads of 8, H = 32. Attention of k tokens: k 8 D^2 + 4 D k^2.
        ({"tokens": FOUR, "heads": [1, 1], "mix": True, "feed": False}, 4 * 2048 + 64 * 16),
        ({"tokens": FOUR, "heads": [0, 1], "mix": True, "feed": False}, 4 * 1024 + 32 * 16),
        # The feed-forward half: 4 D H = 2048 for each token, heads or none.
        ({"tokens": FOUR, "heads": [0, 0], "mix": True, "feed": True}, 4 * 2048),
        ({"tokens": [False] * 16, "heads": [1, 1], "mix": True, "feed": True}, 0),
    ],
)
@torch.inference_mode()
def test_decisions_cost_their_product(tiny_image, runs, flops: int) -> None:
    """Running tokens x running heads x running halves of one block, by hand."""
    _, model = _model(tiny_image)
    batch = tiny_image.batch(1)
    runs = {kind: torch.tensor(run).bool().tolist() for kind, run in runs.items()}
    with routing.force("closed"):
        closed = count(model, batch).total
    with _only(**runs):
        assert count(model, batch).total - closed == flops


@torch.no_grad()
def test_tokens_that_are_not_chosen_pass_unchanged(tiny_image) -> None:
    """They keep their state bit for bit, and the next block may choose them again."""
    _, model = _model(tiny_image, **ALONE["tokens"])
    state = model.trunk.stem(tiny_image.batch(1))
    with _only(tokens=FOUR):
        new, _ = model.trunk.blocks[1](state, torch.zeros(()))
    chosen = torch.tensor(FOUR)
    assert torch.equal(new.x[:, ~chosen], state.x[:, ~chosen])
    assert (new.x[:, chosen] != state.x[:, chosen]).any(-1).all()


def test_the_distance_from_the_targets_worked_out_by_hand(tiny_image) -> None:
    """3 of 4 tokens against 0.5, 1 of 2 heads against 0.7, halves 1 and 0 against 0.5.

    2 (0.25^2 + 0.2^2 + 0) = 0.205, over the gates of all blocks together.
    """
    _, model = _model(tiny_image, tokens=0.5, heads=0.7, halves=0.5)

    def opened(*values: float) -> Opened:
        value = torch.tensor([values])
        return Opened(value > 0, value, torch.tensor(value.numel()))

    first = BlockGates(opened(1, 1), opened(1), opened(1), opened(0))
    second = BlockGates(opened(1, 0), opened(0), opened(0), opened(1))
    assert float(model._distance([first, second])) == pytest.approx(0.205)


def test_every_kind_of_gate_learns(tiny_image) -> None:
    """The targets alone give each gate a gradient: too much runs, so every bias goes down."""
    _, model = _model(tiny_image, tokens=0.1, heads=0.1, halves=0.1)
    model.train()(tiny_image.batch(8)).aux_loss.backward()
    for block in model.gated_blocks():
        for gate in (block.token_gate, block.sample_gate):
            assert (gate.bias.grad > 0).all()


@torch.no_grad()
def test_budgets_are_met_on_held_out_data(tiny_image) -> None:
    """Every point spends its budget's share of the gated FLOPs, at most 2 points less."""
    method = VitGates(budgets=[0.5, 0.3, 0.8])
    _, model = _model(tiny_image, budgets=method.budgets)
    for block in model.gated_blocks():  # untrained gates all have nearly one logit
        for gate in (block.token_gate, block.sample_gate):
            torch.nn.init.normal_(gate.weight)
    held_out = [tiny_image.batch(32, 5)]
    method.calibrate(model, held_out)
    with routing.force("open"):
        whole = method._spent(model, held_out)
    for point in method.points():
        method.set_point(model, point)
        share = method._spent(model, held_out) / whole
        assert point["budget"] - 0.02 <= share <= point["budget"]


def test_bad_settings_get_a_sentence(tiny_image, tiny_text, tiny_pairs) -> None:
    """Nothing gated, no budget, targets outside (0, 1], and trunks that do not fit are refused."""
    with pytest.raises(ValueError, match="all null"):
        VitGates(tokens=None, heads=None, halves=None)
    with pytest.raises(ValueError, match="budgets is empty"):
        VitGates(budgets=[])
    with pytest.raises(ValueError, match="tokens"):
        construct(VitGates, {"tokens": 1.5})
    image, backbone = tiny_image.spec, tiny_image.backbone
    for spec, given, reason in (
        (image, ResNet([2, 2], [8, 16]), "feature maps"),
        (tiny_pairs.spec, backbone, "cross-attention"),
        (tiny_text.spec, backbone, "not causal"),
        (image, replace(backbone, depth=1), "second block"),
        (image, replace(backbone, num_kv_heads=1), "share keys"),
    ):
        with pytest.raises(Unsupported, match=reason):
            VitGates().build(spec, given)
    VitGates(**ALONE["tokens"]).build(tiny_text.spec, backbone)  # reads a token's own state only
