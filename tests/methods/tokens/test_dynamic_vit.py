"""DynamicViT: tokens dropped stage by stage, hidden in training and gathered at inference."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench import routing
from bench.plugins import construct
from bench.types import Output, Unsupported
from methods.backbone.resnet import ResNet
from methods.parts.tokens.predictor import Predictor, score_kept
from methods.tokens.dynamic_vit import DynamicViT
from methods.trunk.selection import Selection
from methods.trunk.state import State

POOLS = ("mean", "class")


def _model(tiny, pool: str = "mean", **settings):
    """A dense trunk and its converted model, both in inference mode."""
    dense = replace(tiny.backbone, pool=pool).build(tiny.spec).eval()
    return dense, DynamicViT(**settings).convert(dense, []).eval()


@pytest.mark.parametrize(("depth", "starts"), [(12, [3, 6, 9]), (6, [1, 3, 4]), (4, [1, 2, 3])])
def test_stages_are_at_equal_distances(tiny_image, depth: int, starts: list[int]) -> None:
    """Three stages of 12 blocks begin at 3, 6 and 9, as published."""
    backbone = replace(tiny_image.backbone, depth=depth)
    model = DynamicViT().build(tiny_image.spec, backbone)
    assert model.bounds == [0, *starts, depth]


@pytest.mark.parametrize(("rate", "kept"), [(0.7, [11, 7, 5]), (0.5, [8, 4, 2]), (0.1, [1, 1, 1])])
@torch.no_grad()
def test_a_stage_keeps_its_share_of_all_tokens(tiny_image, rate, kept) -> None:
    """16 tokens x 0.7, 0.49, 0.343 = 11.2, 7.84, 5.488, rounded down; one at least."""
    _, model = _model(tiny_image, keep_rate=rate)
    with routing.observe() as seen:
        model(tiny_image.batch(3))
    assert [d.run.sum(1).tolist() for d in seen.decisions] == [[number] * 3 for number in kept]
    for one, later in zip(seen.decisions, seen.decisions[1:], strict=False):
        assert not (later.run & ~one.run).any()  # what is dropped never comes back


@torch.no_grad()
def test_padding_is_no_token_to_keep(tiny_labels) -> None:
    """Half of 16, 9 and 4 real tokens: 8, 4 and 2."""
    _, model = _model(tiny_labels, keep_rate=0.5, num_stages=1)
    mask = torch.arange(16) < torch.tensor([[16], [9], [4]])
    with routing.observe() as seen:
        model(replace(tiny_labels.batch(3), mask=mask))
    assert seen.decisions[0].run.sum(1).tolist() == [8, 4, 2]
    assert not (seen.decisions[0].run & ~mask).any()


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_keep_rate_one_is_dense(tiny_image, pool: str) -> None:
    """All tokens of every stage: the dense model."""
    dense, model = _model(tiny_image, pool, keep_rate=1.0)
    batch = tiny_image.batch(3)
    torch.testing.assert_close(model(batch).logits, dense(batch).logits)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("how", ["own", "random"])
@torch.no_grad()
def test_gathering_equals_hiding(tiny_image, pool: str, how: str) -> None:
    """The training path on the same decisions gives the same logits, within 1e-5."""
    _, model = _model(tiny_image, pool)
    share = 0.6 if how == "random" else None
    choosing = routing.force("random", share=share, generator=torch.Generator().manual_seed(1))
    if how == "own":
        with routing.observe() as seen:
            gathered = model(tiny_image.batch(4)).logits
    else:
        with choosing, routing.observe() as seen:
            gathered = model(tiny_image.batch(4)).logits
        assert len(set(seen.decisions[0].run.sum(1).tolist())) > 1  # ragged
    with routing.replay(seen):
        hidden = model.train()(tiny_image.batch(4)).logits
    torch.testing.assert_close(gathered, hidden, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_class_token_is_never_lost(tiny_image) -> None:
    """With everything dropped after the first block, the class token goes on alone."""
    dense, model = _model(tiny_image, "class")
    batch = tiny_image.batch(2)
    with routing.force("closed"):
        found = model(batch).logits
    state = dense.blocks[0](dense.stem(batch))
    state = State(state.x[:, :1])
    for block in dense.blocks[1:]:
        state = block(state)
    torch.testing.assert_close(found, dense.head(state))


def test_a_score_reads_a_token_and_the_mean_of_those_left() -> None:
    """Tokens (1 2 3 4) and (5 6 7 8), scored by the sum of the first half and of the mean.

    Both left: means 5 and 6, so 1 + 2 + 11 = 14 and 5 + 6 + 11 = 22. The second alone: 26.
    """
    predictor = Predictor(4)
    predictor.features = nn.Identity()
    predictor.score = nn.Linear(4, 1, bias=False)
    nn.init.ones_(predictor.score.weight)
    x = torch.arange(1.0, 9.0).view(1, 2, 4)
    both = Selection(torch.tensor([[0, 1]]), torch.tensor([0, 1]))
    assert score_kept(predictor, x, both).tolist() == [[14.0, 22.0]]
    second = Selection(torch.tensor([[1]]), torch.tensor([1]))
    assert score_kept(predictor, x, second).tolist() == [[-torch.inf, 26.0]]


class _Answer(nn.Module):
    """A model that answers with what it was made with."""

    def __init__(self, output: Output, teacher: list) -> None:
        super().__init__()
        self.output, self.teacher = output, teacher

    def forward(self, batch) -> Output:
        return self.output


def test_the_loss_worked_out_by_hand() -> None:
    """Shares 1.0 and 0.5 against 0.7, and tokens 2 away from the teacher's in one of two kept.

    2 mean(0.3^2, 0.2^2) = 0.13; MSE over kept tokens (4 + 0) / 2, times 0.5 = 1. Equal logits: no
    divergence. A dropped token is as far away as it likes.
    """
    logits, x = torch.randn(1, 3), torch.zeros(1, 3, 4)
    stats = {
        "kept": [torch.tensor([1.0, 0.5])],
        "x": x,
        "live": torch.tensor([[True, True, False]]),
    }
    far = torch.tensor([2.0, 0.0, 9.0])[None, :, None].expand(1, 3, 4)
    teacher = SimpleNamespace(stem=lambda batch: State(far), blocks=[], head=lambda state: logits)
    teacher.to = lambda device: teacher
    method = DynamicViT(num_stages=1)
    criterion = lambda output, batch: torch.tensor(10.0)  # noqa: E731
    for teachers, wanted in (([], 10.13), ([teacher], 11.13)):
        model = _Answer(Output(logits, 0.0, stats), teachers)
        assert float(method.loss(model, None, criterion, 0.5)) == pytest.approx(wanted)


def test_the_teacher_is_no_part_of_the_model(tiny_image) -> None:
    """The dense start teaches, gets no gradient, and is let go after training."""
    method = DynamicViT(trunk_lr_share=0.01)
    dense, model = _model(tiny_image)
    assert len(model.teacher) == 1
    assert model.teacher[0] is not dense
    assert not any("teacher" in name for name in model.state_dict())
    groups = method.param_groups(model, 0.1)
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.001])
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    method.loss(model.train(), tiny_image.batch(4), tiny_image.criterion, 0.5).backward()
    assert all(p.grad is None for p in model.teacher[0].parameters())
    method.calibrate(model, [])
    assert model.teacher == []


def test_bad_settings_get_a_sentence(tiny_image, tiny_text) -> None:
    """Rates outside (0, 1], more stages than blocks allow, causal models and maps are refused."""
    for settings in ({"keep_rate": 0.0}, {"keep_rates": [1.5]}, {"num_stages": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            construct(DynamicViT, settings)
    with pytest.raises(ValueError, match=r"num_stages=4 needs more than 4 blocks.*at most 3"):
        DynamicViT(num_stages=4).build(tiny_image.spec, tiny_image.backbone)
    with pytest.raises(Unsupported, match="not causal"):
        DynamicViT().build(tiny_text.spec, tiny_text.backbone)
    with pytest.raises(Unsupported, match="feature maps"):
        DynamicViT().build(tiny_image.spec, ResNet([2, 2], [8, 16]))


def test_points_are_keep_rates() -> None:
    """The trained rate first, and not twice."""
    points = DynamicViT(keep_rate=0.5, keep_rates=[0.5, 0.8]).points()
    assert points == [{"keep_rate": 0.5}, {"keep_rate": 0.8}]
