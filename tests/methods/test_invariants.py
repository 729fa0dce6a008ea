"""What every built-in method promises (docs/contract.md), on tiny tasks of both kinds."""

from __future__ import annotations

import copy
from dataclasses import asdict
from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

from bench import routing

DOORS = entry_points(group="condbench.methods")
METHODS = {door.name: door for door in DOORS if door.value.startswith("methods.")}
IMAGE_ONLY = {"expert_choice", "soft_moe"}  # they compare tokens with later ones
BATCH_DEPENDENT = {"expert_choice", "random_skip"}  # with the default settings
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
each = pytest.mark.parametrize(
    ("name", "tiny"),
    [(n, kind) for n in METHODS for kind in ("image", "text")[: 1 if n in IMAGE_ONLY else 2]],
    indirect=["tiny"],
)


def _made(name: str, tiny):
    """The method with its defaults and a model, calibrated, that starts from a dense one."""
    method = METHODS[name].load()()
    torch.manual_seed(1)
    if hasattr(method, "convert"):
        dense = tiny.backbone.build(tiny.spec).eval()
        model = method.convert(dense, [tiny.batch(4)])
    else:
        model = method.build(tiny.spec, tiny.backbone)
    _spread(model)
    model.eval()
    if hasattr(method, "calibrate"):
        with torch.no_grad():
            method.calibrate(model, [tiny.batch(16, seed) for seed in range(3)])
    return method, model


def _spread(model: nn.Module) -> None:
    """Wider final weights: untrained heads would be equally unsure about every input."""
    for name, parameter in model.named_parameters():
        if name.endswith("linear.weight"):
            nn.init.normal_(parameter, std=0.7)


def _loss(method, model, batch, tiny) -> torch.Tensor:
    if hasattr(method, "loss"):
        return method.loss(model, batch, tiny.criterion, 0.5)
    output = model(batch)
    return tiny.criterion(output, batch) + output.aux_loss


def _points(method) -> list:
    return method.points() if hasattr(method, "points") else [None]


@each
def test_skipping_equals_masking(name: str, tiny) -> None:
    """At every operating point inference gives what training gives with the same decisions."""
    method, model = _made(name, tiny)
    for point in _points(method):
        if point is not None:
            method.set_point(model, point)
        with torch.no_grad(), routing.observe() as seen:
            skipped = model.eval()(tiny.batch(6)).logits
        with torch.no_grad(), routing.replay(seen):
            masked = model.train()(tiny.batch(6)).logits
        torch.testing.assert_close(skipped, masked, **CLOSE)


@each
def test_alone_equals_in_a_batch(name: str, tiny) -> None:
    """A sample alone gets what it gets in a batch, by replayed decisions and by its own ones.

    By its own only where the method does not declare that they depend on the batch.
    """
    method, model = _made(name, tiny)
    assert getattr(method, "batch_invariant", True) == (name not in BATCH_DEPENDENT)
    batch = tiny.batch(6)
    with torch.no_grad(), routing.observe() as seen:
        together = model(batch).logits
    for i in range(len(batch)):
        one = torch.tensor([i])
        with torch.no_grad(), routing.replay(seen.select(one)):
            replayed = model(batch.select(one)).logits
        torch.testing.assert_close(replayed, together[one], **CLOSE)
        if name not in BATCH_DEPENDENT:
            with torch.no_grad():
                alone = model(batch.select(one)).logits
            torch.testing.assert_close(alone, together[one], **CLOSE)


# Of the others an open gate is not the dense model: all branches or experts at once, or a block's
# change scaled by its score (its own test sets the score to zero).
@pytest.mark.parametrize("name", ["dense", "early_exit", "topk_ffn"])
def test_open_gates_are_the_dense_model(name: str, tiny) -> None:
    """A converted model with every gate open answers as the dense model that it came from."""
    method = METHODS[name].load()()
    dense = tiny.backbone.build(tiny.spec).eval()
    weights = copy.deepcopy(dense.state_dict())
    convert = getattr(method, "convert", lambda dense, batches: dense)
    model = convert(dense, [tiny.batch(4)]).eval()
    with torch.no_grad(), routing.force("open"):
        torch.testing.assert_close(model(tiny.batch(5)).logits, dense(tiny.batch(5)).logits)
    for key, value in dense.state_dict().items():
        assert torch.equal(value, weights[key])  # converting leaves the dense model as it was


@pytest.mark.parametrize("how", ["own", "open", "closed", "random"])
@each
def test_no_layer_is_called_on_nothing(name: str, how: str, tiny) -> None:
    """Whatever is forced, no module ever gets an empty tensor, and the logits are finite."""
    _, model = _made(name, tiny)
    calls: list[str] = []

    def look(module: nn.Module, args: tuple) -> None:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        assert all(t.numel() for t in tensors), f"{type(module).__name__} got an empty tensor"
        calls.append(type(module).__name__)

    for module in model.modules():
        module.register_forward_pre_hook(look)
    with torch.no_grad():
        if how == "own":
            output = model(tiny.batch(3))
        else:
            generator = torch.Generator().manual_seed(0)
            with routing.force(how, share=0.3, generator=generator):
                output = model(tiny.batch(3))
    assert calls
    assert output.logits.isfinite().all()


@each
def test_gradients_reach_the_gate(name: str, tiny) -> None:
    """A training step gives finite gradients, and every gate and predictor gets one."""
    method, model = _made(name, tiny)
    with routing.observe() as seen:
        _loss(method, model.train(), tiny.batch(8), tiny).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all(g.isfinite().all() for g in gradients.values())
    gates = [n for n in gradients if any(w in n for w in ("router", "gate", "predictor", "heads"))]
    assert bool(gates) == bool(seen.decisions)
    assert all(gradients[n].abs().sum() > 0 for n in gates)


@each
def test_weights_and_settings_round_trip(name: str, tiny) -> None:
    """A second model with the same settings and the first one's state answers the same."""
    method, model = _made(name, tiny)
    again = type(method)(**asdict(method)).build(tiny.spec, tiny.backbone)
    again.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(tiny.batch(5)).logits, model(tiny.batch(5)).logits)


@each
def test_same_seed_same_training(name: str, tiny) -> None:
    """Two training steps from the same seed end in bit-equal weights."""

    def trained() -> dict[str, torch.Tensor]:
        method, model = _made(name, tiny)
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
        for seed in range(2):
            optimizer.zero_grad()
            _loss(method, model, tiny.batch(4, seed), tiny).backward()
            optimizer.step()
        return model.state_dict()

    one, two = trained(), trained()
    assert all(torch.equal(one[key], two[key]) for key in one)
