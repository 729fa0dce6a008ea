"""What every built-in method promises (docs/contract.md), on tiny tasks of three kinds."""

from __future__ import annotations

import copy
from dataclasses import asdict

import pytest
import torch
from torch import nn

from bench import routing

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
# Of the others an open gate is not the dense model: all branches or experts at once, or a block's
# change scaled by its score (its own test sets the score to zero).
OPEN_IS_DENSE = {"dense", "early_exit", "topk_ffn"}


def test_skipping_equals_masking(built_in) -> None:
    """At every operating point inference gives what training gives with the same decisions."""
    batch = built_in.tiny.batch(6)
    for model in built_in.at_points(built_in.model()):
        with torch.no_grad(), routing.observe() as seen:
            skipped = model.eval()(batch).logits
        with torch.no_grad(), routing.replay(seen):
            masked = model.train()(batch).logits
        torch.testing.assert_close(skipped, masked, **CLOSE)


def test_alone_equals_in_a_batch(built_in) -> None:
    """A sample alone gets what it gets in a batch, unless the method says that it does not.

    By its own decisions and by replayed ones.
    """
    model, batch = built_in.model(), built_in.tiny.batch(6)
    with torch.no_grad(), routing.observe() as seen:
        together = model(batch).logits
    for i in range(len(batch)):
        one = torch.tensor([i])
        with torch.no_grad(), routing.replay(seen.select(one)):
            replayed = model(batch.select(one)).logits
        torch.testing.assert_close(replayed, together[one], **CLOSE)
        if getattr(built_in.method, "batch_invariant", True):
            with torch.no_grad():
                alone = model(batch.select(one)).logits
            torch.testing.assert_close(alone, together[one], **CLOSE)


def test_open_gates_are_the_dense_model(built_in) -> None:
    """Where it is defined, a converted model with every gate open answers as the dense one did."""
    if built_in.name not in OPEN_IS_DENSE:
        return
    tiny = built_in.tiny
    dense = tiny.backbone.build(tiny.spec).eval()
    weights = copy.deepcopy(dense.state_dict())
    convert = getattr(built_in.method, "convert", lambda dense, batches: dense)
    model = convert(dense, [tiny.batch(4)]).eval()
    with torch.no_grad(), routing.force("open"):
        torch.testing.assert_close(model(tiny.batch(5)).logits, dense(tiny.batch(5)).logits)
    for key, value in dense.state_dict().items():
        assert torch.equal(value, weights[key])  # converting leaves the dense model as it was


@pytest.mark.parametrize("how", ["own", "open", "closed", "random"])
def test_no_layer_is_called_on_nothing(built_in, how: str) -> None:
    """Whatever is forced, no module ever gets an empty tensor, and the logits are finite."""
    model, batch = built_in.model(), built_in.tiny.batch(3)
    calls: list[str] = []

    def look(module: nn.Module, args: tuple) -> None:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        assert all(t.numel() for t in tensors), f"{type(module).__name__} got an empty tensor"
        calls.append(type(module).__name__)

    for module in model.modules():
        module.register_forward_pre_hook(look)
    with torch.no_grad():
        if how == "own":
            output = model(batch)
        else:
            generator = torch.Generator().manual_seed(0)
            with routing.force(how, share=0.3, generator=generator):
                output = model(batch)
    assert calls
    assert output.logits.isfinite().all()


def test_gradients_reach_the_gate(built_in) -> None:
    """A training step gives finite gradients, and every gate and predictor gets one."""
    model = built_in.model().train()
    with routing.observe() as seen:
        built_in.loss(model, built_in.tiny.batch(8)).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all(g.isfinite().all() for g in gradients.values())
    gates = [n for n in gradients if any(w in n for w in ("router", "gate", "predictor", "heads"))]
    assert bool(gates) == bool(seen.decisions)
    assert all(gradients[n].abs().sum() > 0 for n in gates)


def test_weights_and_settings_round_trip(built_in) -> None:
    """A second model with the same settings and the first one's state answers the same."""
    method, model, tiny = built_in.method, built_in.model(), built_in.tiny
    again = type(method)(**asdict(method)).build(tiny.spec, tiny.backbone)
    again.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(tiny.batch(5)).logits, model(tiny.batch(5)).logits)


def test_same_seed_same_training(built_in) -> None:
    """Two training steps from the same seed end in bit-equal weights."""

    def trained() -> dict[str, torch.Tensor]:
        model = built_in.model().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for seed in range(2):
            optimizer.zero_grad()
            built_in.loss(model, built_in.tiny.batch(4, seed)).backward()
            optimizer.step()
        return model.state_dict()

    one, two = trained(), trained()
    assert all(torch.equal(one[key], two[key]) for key in one)
