"""BlockDrop: one policy decides for all blocks; reward, curriculum and thresholds by hand."""

from __future__ import annotations

import pytest
import torch

from bench import routing
from bench.meters.flops.counter import count
from bench.types import Batch, Output, Point, TaskSpec, Unsupported
from methods.backbone.mobilenet import MobileNetV2
from methods.backbone.resnet import ResNet
from methods.skipping.skip_blocks_policy import (
    ImagePolicy,
    PolicyModel,
    SkipBlocksPolicy,
    reward_of,
)

IMAGE = TaskSpec("i", "image", (1, 8, 8), 5)


def make_model(tiny, bias: list[float] | None = None, **settings) -> PolicyModel:
    """The tiny transformer of four blocks; with `bias`, the policy's logits whatever the input."""
    model = SkipBlocksPolicy(**settings).build(tiny.spec, tiny.backbone).eval()
    if bias is not None:
        torch.nn.init.zeros_(model.policy.head.weight)
        model.policy.head.bias.data.copy_(torch.tensor(bias))
    return model


def ran(model: PolicyModel, batch: Batch) -> list[list[bool]]:
    """What runs, [gates][B]."""
    with routing.observe() as seen:
        model(batch)
    return [decision.run.tolist() for decision in seen.decisions]


def test_all_decisions_come_before_the_first_block(tiny_image) -> None:
    """Four gates have decided when the first block is called, with the samples that run it."""
    model, events = make_model(tiny_image), list[str]()
    for i, block in enumerate(model.trunk.blocks):
        block.register_forward_hook(lambda *_, i=i: events.append(f"call{i}"))

    def note(decision: routing.Decision) -> torch.Tensor:
        events.append(decision.name)
        return decision.run

    with routing.override(note):
        model(tiny_image.batch(3))
    gates = [f"block{i}" for i in range(4)]
    assert events == gates + [f"call{i}" for i in range(4)]


def test_only_what_the_policy_runs_is_called(tiny_image) -> None:
    """Logits above 0 run: the first and the third of four blocks, also for a single sample."""
    model = make_model(tiny_image, [1.0, -1.0, 1.0, -1.0])
    calls: list[int] = []
    for i, block in enumerate(model.trunk.blocks):
        block.register_forward_hook(lambda *_, i=i: calls.append(i))
    for num_samples in (1, 3):
        calls.clear()
        model(tiny_image.batch(num_samples))
        assert calls == [0, 2]


def test_a_sample_takes_its_own_path(tiny_image) -> None:
    """With paths forced sample by sample, a batch gives what each sample gives alone."""
    model, batch = make_model(tiny_image), tiny_image.batch(3)
    paths = torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()

    def follow(rows: torch.Tensor, x: Batch) -> torch.Tensor:
        gates = iter(rows.t())
        with routing.override(lambda decision: next(gates)):
            return model(x).logits

    together = follow(paths, batch)
    for i in range(3):
        one = follow(paths[i : i + 1], batch.select(torch.tensor([i])))
        torch.testing.assert_close(together[i : i + 1], one)


def test_open_is_dense_and_the_policy_is_all_it_adds(tiny_image) -> None:
    """With every block running: the trunk's logits, and the FLOPs of trunk and policy."""
    model, batch = make_model(tiny_image), tiny_image.batch(2)
    with routing.force("open"):
        torch.testing.assert_close(
            model(batch), model.trunk(batch)._replace(stats=model(batch).stats)
        )
        opened = count(model, batch)
    # 8 x 8 pixels: 16 maps of 4 x 4, 32 of 2 x 2, 64 of 1 x 1, and 4 logits.
    macs = 16 * 9 * 16 + 4 * 16 * 9 * 32 + 1 * 32 * 9 * 64 + 64 * 4
    assert opened.by_region["router"] == 2 * 2 * macs
    assert opened.total == count(model.trunk, batch).total + 2 * 2 * macs


def test_reward_by_hand() -> None:
    """Right with two of four blocks: 1 - (2/4)^2 = 0.75; right with none: 1; wrong: -5."""
    run = torch.tensor([[True, True, False, False], [False] * 4, [True] * 4])
    output = Output(torch.eye(3), stats={"run": run})  # says 0, 1, 2
    batch = Batch(torch.zeros(3, 1), torch.tensor([0, 1, 0]))
    assert reward_of(output, batch, 5.0).tolist() == [0.75, 1.0, -5.0]


def test_training_samples_the_squeezed_probabilities(tiny_image) -> None:
    """Logits of 20 are p = 1: training runs a block with probability 0.8, inference always."""
    model, batch = make_model(tiny_image, [20.0] * 4), tiny_image.batch(256)
    assert torch.tensor(ran(model, batch)).all()
    output = model.train()(batch)
    torch.testing.assert_close(output.stats["sampled_logits"].sigmoid(), torch.full((256, 4), 0.8))
    # 1,024 draws: 0.8 with a deviation of 0.0125.
    assert output.stats["run"].float().mean().item() == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(("progress", "first"), [(0.0, 3), (0.25, 2), (0.3, 1), (0.5, 0), (1.0, 0)])
def test_the_curriculum_frees_the_last_blocks_first(tiny_image, progress, first) -> None:
    """Of four blocks ceil(4 progress / 0.5), at least one, are decided about; the others run."""
    method = SkipBlocksPolicy()
    model = make_model(tiny_image, [-20.0] * 4).train()
    with routing.observe() as seen:
        method.loss(model, tiny_image.batch(64), tiny_image.criterion, progress)
    # The sampled pass, then the greedy one.
    sampled, greedy = seen.decisions[:4], seen.decisions[4:]
    assert [bool(d.run.all()) for d in sampled] == [i < first for i in range(4)]
    assert [bool(d.run.any()) for d in greedy] == [i < first for i in range(4)]


def test_blocks_that_are_not_decided_about_teach_nothing(tiny_image) -> None:
    """At the start of the curriculum only the last block's logit gets a gradient."""
    model = make_model(tiny_image, [0.1] * 4).train()
    batch = tiny_image.batch(64)
    SkipBlocksPolicy().loss(model, batch, tiny_image.criterion, 0.0).backward()
    gradient = model.policy.head.bias.grad
    assert gradient[:3].tolist() == [0, 0, 0]
    assert gradient[3] != 0


def test_what_always_answers_right_learns_to_skip(tiny_image) -> None:
    """Where every answer is right, running less is rewarded: the policy closes."""
    method, batch = SkipBlocksPolicy(), tiny_image.batch(32)
    batch = Batch(batch.inputs, torch.zeros_like(batch.targets))
    model = make_model(tiny_image)
    model.trunk.head.linear.bias.data[0] = 100.0  # class 0 whatever runs
    optimizer = torch.optim.SGD(model.policy.parameters(), lr=0.1)
    before = model.policy(batch).mean()
    for _ in range(20):
        optimizer.zero_grad()
        method.loss(model.train(), batch, tiny_image.criterion, 1.0).backward()
        optimizer.step()
    assert model.policy(batch).mean() < before - 0.5


def test_budgets_are_met_on_held_out_data(tiny_image) -> None:
    """With thresholds found on a batch, the share of its blocks that run is the budget."""
    method = SkipBlocksPolicy(budgets=[0.75, 0.5, 1.0])
    model, batch = make_model(tiny_image), tiny_image.batch(32)
    torch.nn.init.normal_(model.policy.head.weight)  # samples and blocks differ
    with torch.no_grad():
        method.calibrate(model, [batch])
    for point in method.points()[1:]:
        method.set_point(model, point)
        assert torch.tensor(ran(model, batch)).float().mean() == point["budget"]


def test_the_default_point_is_the_policys_own(tiny_image) -> None:
    """It decides by p > 1/2, also after another point was set."""
    method = SkipBlocksPolicy(budgets=[0.5])
    model, batch = make_model(tiny_image, [1.0, -1.0, 1.0, 1.0]), tiny_image.batch(2)
    own: Point = {"budget": "own"}
    assert method.points() == [own, {"budget": 0.5}]
    model.thresholds.fill_(10.0)
    method.set_point(model, {"budget": 0.5})
    assert not torch.tensor(ran(model, batch)).any()
    method.set_point(model, own)
    assert torch.tensor(ran(model, batch))[:, 0].tolist() == [True, False, True, True]


@pytest.mark.parametrize("backbone", [ResNet(), MobileNetV2()], ids=["resnet", "mobilenet"])
def test_blocks_that_change_the_shape_always_run(backbone) -> None:
    """On maps the policy decides about the blocks that keep their shape, and training masks."""
    model = SkipBlocksPolicy().build(IMAGE, backbone)
    assert 0 < model.num_gates < len(model.trunk.blocks)
    assert model.masks
    with routing.force("closed"):
        assert model.eval()(Batch(torch.randn(2, 1, 8, 8), torch.zeros(2))).logits.isfinite().all()


def test_the_policy_is_light_at_published_sizes() -> None:
    """3 x 224 x 224: averaged by 3 to 74 x 74, then 37, 19 and 10 along each side; 4.1 M MAC."""
    policy = ImagePolicy(TaskSpec("i", "image", (3, 224, 224), 1000), 16, 12)
    macs = 37**2 * 27 * 16 + 19**2 * 144 * 32 + 10**2 * 288 * 64 + 64 * 12
    batch = Batch(torch.zeros(1, 3, 224, 224), torch.zeros(1))
    assert count(policy, batch).total == 2 * macs
    assert macs == pytest.approx(4.1e6, rel=0.01)


def test_what_cannot_work_is_refused(tiny_text) -> None:
    """Text would be looked ahead in; settings out of range get a sentence."""
    with pytest.raises(Unsupported, match="causal"):
        SkipBlocksPolicy().build(tiny_text.spec, tiny_text.backbone)
    with pytest.raises(ValueError, match="squeeze"):
        SkipBlocksPolicy(squeeze=0.5)
    with pytest.raises(ValueError, match="budgets"):
        SkipBlocksPolicy(budgets=[0.0])
