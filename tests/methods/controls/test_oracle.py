"""The best decisions in hindsight: the cheapest route that is right, else the cheapest of all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench import routing
from bench.meters.flops.counter import count
from bench.plugins.hooks import resolve
from bench.routing import SAMPLES, decide
from bench.types import Batch, Output, TaskSpec, Unsupported
from methods.branches.branches import Branches
from methods.controls.oracle import Oracle, with_hindsight
from methods.skipping.early_exit import EarlyExit

SPEC = TaskSpec("two-pixels", "image", (1, 1, 2), 2)


def batch_of(*labels: int) -> Batch:
    """Different inputs with these classes."""
    inputs = torch.arange(2.0 * len(labels)).view(len(labels), 1, 1, 2)
    return Batch(inputs, torch.tensor(labels))


class TwoGates(nn.Module):
    """Two gates on samples, of 10 and 1 FLOPs; predicts 1 if exactly one of them is open."""

    def forward(self, batch: Batch) -> Output:
        half = torch.full((len(batch),), 0.4)
        dear = decide("dear", axes=SAMPLES, probabilities=half, run=half > 0.5, cost=10.0)
        cheap = decide("cheap", axes=SAMPLES, probabilities=half, run=half > 0.5, cost=1.0)
        one = (dear ^ cheap).float()
        return Output(torch.stack([1 - one, one], 1))


def runs(model: nn.Module, batch: Batch) -> dict[str, list[bool]]:
    with torch.no_grad(), routing.observe() as seen:
        model(batch)
    return {decision.name: decision.run.tolist() for decision in seen.decisions}


def test_the_cheapest_right_route_is_taken() -> None:
    """For class 1 the cheap gate alone is right; for class 0 none is needed; 2 is out of reach."""
    model = with_hindsight(TwoGates().eval(), SPEC)
    found = runs(model, batch_of(1, 0, 2))
    assert found == {"dear": [False, False, False], "cheap": [True, False, False]}


def test_a_known_sample_costs_its_route_alone() -> None:
    """The search runs once per sample; afterwards a pass is one pass, alone and in a batch."""
    model, passes = TwoGates().eval(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    with_hindsight(model, SPEC)
    batch = batch_of(1, 0)
    model(batch)
    passes.clear()
    assert runs(model, batch.select(torch.tensor([1])))["cheap"] == [False]
    assert runs(model, batch)["cheap"] == [True, False]
    assert len(passes) == 2


def test_training_and_the_harness_decide_for_themselves() -> None:
    """Hindsight leaves training alone, and gates that are forced."""
    model, batch = with_hindsight(TwoGates(), SPEC), batch_of(1, 0)
    assert runs(model.train(), batch)["cheap"] == [False, False]
    with routing.force("open"):
        assert runs(model.eval(), batch)["dear"] == [True, True]


@pytest.fixture
def exits(tiny_image) -> tuple[nn.Module, nn.Module, Batch]:
    """An early-exit model, the same model with hindsight, and inputs that it has not seen."""
    torch.manual_seed(0)
    plain = EarlyExit(every=1).build(tiny_image.spec, tiny_image.backbone)
    for module in plain.modules():
        if isinstance(module, nn.Linear) and module.out_features == 5:
            nn.init.normal_(module.weight, std=0.7)
    torch.manual_seed(0)
    oracle = Oracle("early_exit")
    oracle.inner.every = 1
    model = resolve(oracle).hooks.build(tiny_image.spec, tiny_image.backbone)
    model.load_state_dict(plain.state_dict())
    return plain.eval(), model.eval(), tiny_image.batch(32)


def test_an_exit_is_the_first_that_is_right(exits) -> None:
    """A sample leaves at its earliest right exit, and at the very first where none is right."""
    plain, model, batch = exits
    with torch.no_grad():
        predicted = torch.stack(plain.train()(batch).stats["exits"]).argmax(-1)  # [exits, B]
        plain.eval()
        right = predicted == batch.targets
        first = torch.where(right.any(0), right.int().argmax(0), 0)
        assert len(first.unique()) > 1
        logits = model(batch).logits
        assert torch.equal(logits.argmax(-1), predicted.gather(0, first[None])[0])


def test_hindsight_is_a_ceiling(exits) -> None:
    """It is right wherever any exit is, so no threshold does better, and it costs less than all."""
    plain, model, batch = exits
    with torch.no_grad():
        model(batch)
        reached = float((model(batch).logits.argmax(-1) == batch.targets).float().mean())
        whole = count(plain, batch).total  # an uncalibrated model runs to the end
        for threshold in (0.0, 0.3, 0.5, 0.8, 2.0):
            plain.threshold.fill_(threshold)
            got = float((plain(batch).logits.argmax(-1) == batch.targets).float().mean())
            assert reached >= got
        assert count(model, batch).total < whole


def test_branches_are_chosen_layer_by_layer(tiny_image) -> None:
    """Each sample runs one branch per layer, and is right at least as often as with the gate."""
    torch.manual_seed(0)
    model = resolve(Oracle("branches")).hooks.build(tiny_image.spec, tiny_image.backbone).eval()
    torch.manual_seed(0)
    plain = Branches().build(tiny_image.spec, tiny_image.backbone).eval()
    batch = tiny_image.batch(16)
    with torch.no_grad(), routing.observe() as seen:
        best = (model(batch).logits.argmax(-1) == batch.targets).sum()
        own = (plain(batch).logits.argmax(-1) == batch.targets).sum()
    assert best >= own
    layer = seen.named("branches.0")[0].run
    assert torch.equal(layer.sum(-1), torch.ones(16).long())


@pytest.mark.parametrize(
    ("of", "task", "why"),
    [
        ("moe", "image", "decides about tokens"),
        ("mixture_of_depths", "image", "decides about tokens"),
        ("early_exit", "text", "one class per sample"),
        ("dense", "image", "announces no decision"),
    ],
)
def test_what_cannot_be_known_is_refused(of: str, task: str, why: str, request) -> None:
    """Exponentially many routes, many targets, or nothing to decide: Unsupported names which."""
    tiny = request.getfixturevalue(f"tiny_{task}")
    with pytest.raises(Unsupported, match=why):
        resolve(Oracle(of)).hooks.build(tiny.spec, tiny.backbone)


def test_it_controls_another_method() -> None:
    """An unknown name, or itself, is refused; other hooks are those of the controlled method."""
    with pytest.raises(ValueError, match="no other method"):
        Oracle("oracle")
    assert resolve(Oracle("early_exit")).flags.train_share == EarlyExit().train_share
    assert resolve(Oracle("early_exit")).hooks.points is None
