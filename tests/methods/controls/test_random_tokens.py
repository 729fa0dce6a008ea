"""Random tokens: as many as another method leaves, by the sample's own pixels."""

from __future__ import annotations

import pytest
import torch

from bench import routing
from bench.plugins.hooks import resolve
from methods.backbone.transformer import Transformer
from methods.controls.random_tokens import RandomTokens, hashed, mixed
from methods.tokens.evit import EViT
from methods.tokens.tome import ToMe

CLASS = Transformer(dim=16, depth=4, num_heads=2, stem="patch", image_stride=2, pool="class")


def kept(model, batch) -> dict[str, torch.Tensor]:
    """The original positions that each gate's decision keeps, sorted, [B, K]."""
    with torch.no_grad(), routing.observe() as seen:
        model(batch)
    found = {}
    for decision in seen.decisions:
        rows = zip(decision.tokens, decision.run, strict=True)
        found[decision.name] = torch.stack([tokens[run].sort().values for tokens, run in rows])
    return found


@pytest.mark.parametrize("of", ["evit", "tome"])
@pytest.mark.parametrize("pool", ["mean", "class"])
def test_as_many_tokens_as_the_other_method(of: str, pool: str, tiny_image) -> None:
    """At every operating point each block's feed-forward layer sees equally many tokens."""
    backbone = CLASS if pool == "class" else tiny_image.backbone
    other = {"evit": EViT, "tome": ToMe}[of]()
    control = RandomTokens(of)
    assert control.points() == other.points()
    models = [each.build(tiny_image.spec, backbone).eval() for each in (control, other)]
    for point in control.points():
        lengths: list[list[int]] = [[], []]
        for method, model, found in zip((control, other), models, lengths, strict=True):
            method.set_point(model, point)
            hooks = [
                block.ffn.register_forward_pre_hook(
                    lambda _, args, found=found: found.append(args[0].shape[1])
                )
                for block in model.trunk.blocks
            ]
            model(tiny_image.batch(2))
            for hook in hooks:
                hook.remove()
        assert lengths[0] == lengths[1]
    assert lengths[0][-1] < model.num_tokens / 2  # at the last point, the smallest share


def test_a_sample_keeps_its_tokens_in_every_batch(tiny_image) -> None:
    """Alone, in a batch and in another order a sample keeps the same ones; samples differ."""
    model = RandomTokens().build(tiny_image.spec, CLASS).eval()
    batch = tiny_image.batch(8)
    together = kept(model, batch)
    turned = kept(model, batch.select(torch.arange(7, -1, -1)))
    for name, tokens in together.items():
        alone = [kept(model, batch.select(torch.tensor([i])))[name] for i in range(8)]
        assert torch.equal(torch.cat(alone), tokens)
        assert torch.equal(turned[name].flip(0), tokens)
    assert len({tuple(row.tolist()) for row in together["drop1"]}) > 4


def test_seeds_and_training_draw_other_tokens(tiny_image) -> None:
    """Another seed keeps others, training others in every pass."""
    build = RandomTokens(seed=0).build(tiny_image.spec, CLASS), tiny_image.batch(8)
    model, batch = build[0].eval(), build[1]
    first = kept(model, batch)["drop1"]
    model.seed = 1
    assert not torch.equal(kept(model, batch)["drop1"], first)
    model.train()
    assert not torch.equal(kept(model, batch)["drop1"], kept(model, batch)["drop1"])


def test_every_token_is_kept_equally_often() -> None:
    """Over 4,000 samples each of 8 tokens is among the first two in a quarter, within 0.03."""
    # Deviation of a share: (0.25 x 0.75 / 4000) ** 0.5 = 0.007.
    pixels = torch.randn(4_000, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    first = hashed(pixels, 8, 0).argsort(1)[:, :2]
    shares = first.flatten().bincount(minlength=8) / 4_000
    assert shares.sub(0.25).abs().max() < 0.03


def test_the_hash_is_splitmix64() -> None:
    """The first number of the published generator with seed 0 is 0xE220A8397B1DCDAF."""
    golden = torch.tensor([-0x61C8864680B583EB])
    assert int(mixed(golden)) % 2**64 == 0xE220A8397B1DCDAF


def test_the_class_token_is_never_dropped(tiny_image) -> None:
    """It is no candidate; closed gates leave it, and without one the first patch of the image."""
    for backbone in (CLASS, tiny_image.backbone):
        model = RandomTokens().build(tiny_image.spec, backbone).eval()
        seen: list[torch.Tensor] = []
        model.trunk.head.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0].positions)
        )
        with routing.force("closed"):
            model(tiny_image.batch(3))
        assert seen[0].tolist() == [[0]] * 3


def test_training_and_points_are_the_other_methods() -> None:
    """The share of training is that of the method that is matched: fair rows."""
    assert resolve(RandomTokens("tome")).flags.train_share == ToMe().train_share == 0
    assert resolve(RandomTokens("evit")).flags.train_share == EViT().train_share


@pytest.mark.parametrize("of", ["moe", "random_tokens", "nothing_like_it"])
def test_only_methods_with_fixed_numbers_can_be_matched(of: str) -> None:
    """A method without `tokens_left`, an unknown one and the control itself are refused."""
    with pytest.raises(ValueError, match=f"of='{of}' is no method with a fixed number"):
        RandomTokens(of)
