"""Corruptions: reproducible, graded, and they leave the question as it was."""

from __future__ import annotations

import pytest
import torch

from bench.measure.quality.corruptions import KINDS, SEVERITIES, corrupt, garbage
from bench.types import Batch


def batch_for(kind: str) -> Batch:
    """Sixteen random samples that the corruption `kind` is meant for."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(16)
    if kind == "substitution":
        tokens = torch.randint(2, 50, (16, 40), generator=generator)
        mask = torch.arange(40) < torch.arange(25, 41)[:, None]
        return Batch(tokens.masked_fill(~mask, 0), targets, mask)
    shape = (16, 32, 40) if kind == "background" else (16, 1, 16, 16)
    return Batch(torch.randn(shape, generator=generator), targets)


def distance(kind: str, severity: int) -> float:
    """How far a corruption takes the inputs: mean absolute change, or share of symbols changed.

    Of a shift: how far it moves a ramp, whose value is its place.
    """
    before = batch_for(kind)
    if kind == "shift":
        before = Batch(torch.arange(16.0).expand(256, 1, 16, 16), torch.arange(256))
    after = corrupt(before, kind, severity, seed=1)
    if kind == "substitution":
        return (before.inputs != after.inputs).double().mean().item()
    return (before.inputs - after.inputs).abs().mean().item()


every_kind = pytest.mark.parametrize("kind", sorted({k for kinds in KINDS.values() for k in kinds}))


@every_kind
def test_the_seed_fixes_the_corruption(kind: str) -> None:
    """The same seed gives the same inputs; targets, mask and shape never change."""
    before = batch_for(kind)
    first, again = (corrupt(before, kind, 3, seed=5) for _ in range(2))
    assert torch.equal(first.inputs, again.inputs)
    assert first.targets is before.targets
    assert first.mask is before.mask
    assert first.inputs.shape == before.inputs.shape
    assert first.inputs.dtype == before.inputs.dtype


@every_kind
def test_each_severity_is_further_away(kind: str) -> None:
    """From severity 1 to 5 the inputs move away from the original, each time further."""
    distances = [distance(kind, severity) for severity in SEVERITIES]
    assert distances[0] > 0
    assert distances == sorted(distances)
    assert len(set(distances)) == 5


def test_blur_keeps_flat_images_and_spreads_points() -> None:
    """(1 2 1) / 4 twice: a point of 16 becomes 4 in its place, 2 beside it and 1 at the corner."""
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 16.0
    blurred = corrupt(Batch(image, torch.zeros(1)), "blur", 1, seed=0).inputs[0, 0]
    assert blurred[1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    flat = torch.full((1, 2, 5, 5), 3.0)
    assert torch.equal(corrupt(Batch(flat, torch.zeros(1)), "blur", 5, seed=0).inputs, flat)


def test_contrast_draws_towards_the_image_mean() -> None:
    """Severity 1 leaves three quarters of the distance to the mean: (0, 2) becomes (0.25, 1.75)."""
    image = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2)
    reduced = corrupt(Batch(image, torch.zeros(1)), "contrast", 1, seed=0).inputs
    assert reduced.flatten().tolist() == [0.25, 1.75]


def test_shift_moves_each_image_by_up_to_its_severity() -> None:
    """Every image is its original moved by -2 to 2 pixels along both axes, edges drawn out.

    Of 25 moves sixteen images see more than a few; the middle of an image is inside every one.
    """
    before = batch_for("shift").inputs
    after = corrupt(batch_for("shift"), "shift", 2, seed=3).inputs
    moves = set()
    for old, new in zip(before[:, 0], after[:, 0], strict=True):
        fitting = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(new[4:12, 4:12], old[4 - down : 12 - down, 4 - right : 12 - right])
        ]
        assert len(fitting) == 1
        moves |= set(fitting)
    assert len(moves) > 6


def test_substitution_spares_padding_and_uses_real_symbols() -> None:
    """Padding stays; at severity 5 up to 30 % of the real symbols change, to ones of the batch."""
    before = batch_for("substitution")
    after = corrupt(before, "substitution", 5, seed=0)
    assert before.mask is not None
    assert (after.inputs[~before.mask] == 0).all()
    assert set(after.inputs[before.mask].tolist()) <= set(before.inputs[before.mask].tolist())
    changed = (after.inputs != before.inputs)[before.mask].double().mean()
    assert 0.2 < changed < 0.4  # about 500 symbols at 0.3: five standard errors are 0.1


def test_background_masks_what_is_quieter_than_it() -> None:
    """Loud parts stay as they are, silence rises to the level of the noise."""
    quiet_and_loud = torch.tensor([-9.0, 9.0]).view(1, 1, 2).expand(1, 32, 2).contiguous()
    masked = corrupt(Batch(quiet_and_loud, torch.zeros(1)), "background", 5, seed=0).inputs
    assert (masked[..., 1] == 9.0).all()
    assert masked[..., 0].mean().item() == pytest.approx(1.5, abs=0.3)


@pytest.mark.parametrize("kind", ["noise", "substitution"])
def test_garbage_has_no_right_answer(kind: str) -> None:
    """Garbage keeps shape, type and padding, holds nothing of the original and has no target."""
    before = batch_for(kind)
    rubbish = garbage(before, seed=0)
    assert (rubbish.targets == -100).all()
    assert rubbish.inputs.dtype == before.inputs.dtype
    real = torch.ones_like(before.inputs, dtype=torch.bool) if before.mask is None else before.mask
    assert torch.equal(rubbish.inputs[~real], before.inputs[~real])
    assert (rubbish.inputs == before.inputs)[real].double().mean() < 0.1


@pytest.mark.parametrize(
    ("kind", "severity", "message"),
    [("fog", 1, "no corruption 'fog'; there are noise"), ("noise", 6, "1 to 5, not 6")],
)
def test_what_does_not_exist_is_refused(kind: str, severity: int, message: str) -> None:
    """An unknown corruption or severity is named, with the choices."""
    with pytest.raises(ValueError, match=message):
        corrupt(batch_for("noise"), kind, severity, seed=0)
