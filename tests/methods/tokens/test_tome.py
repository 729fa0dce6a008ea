"""Token Merging: who merges, what a merged token is, and how many are left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench import routing
from bench.plugins import construct
from bench.types import TaskSpec, Unsupported
from methods.backbone.resnet import ResNet
from methods.backbone.transformer import Transformer
from methods.tokens.tome import MergedTrunk, ToMe, match, merge_equally, merge_into, num_merged
from methods.trunk.state import State

CLASS = Transformer(dim=16, depth=4, num_heads=2, stem="patch", image_stride=2, pool="class")


def lengths(model: MergedTrunk, batch) -> list[int]:
    """The tokens that go through each block's feed-forward layer."""
    found: list[int] = []
    for block in model.trunk.blocks:
        block.ffn.register_forward_pre_hook(lambda _, args: found.append(args[0].shape[1]))
    with torch.no_grad():
        model(batch)
    return found


def last_state(model: MergedTrunk, batch) -> State:
    """What the head reads."""
    seen: list[State] = []
    model.trunk.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(batch)
    return seen[0]


def test_schedules_by_hand() -> None:
    """96 of 197 tokens over 12 blocks are 8 each; 12 of 24 over 4 decreasing: 6, 4, 2, 0."""
    constant = num_merged(197, 12, 101 / 197, decreasing=False, fixed=True)
    assert constant == [8] * 12
    # 12 x 3/6, 2/6, 1/6 and 0/6: twice the mean of 3 in the first block, none in the last.
    assert num_merged(24, 4, 0.5, decreasing=True, fixed=False) == [6, 4, 2, 0]


def test_numbers_add_up_where_they_are_not_whole() -> None:
    """10 of 16 tokens over 4 blocks: after them 2.5, 5, 7.5 and 10 have left, rounded to even."""
    assert num_merged(16, 4, 6 / 16, decreasing=False, fixed=False) == [2, 3, 3, 2]


def test_half_of_the_tokens_is_the_most() -> None:
    """4 of 8 tokens merge; a fifth, or the class token among 8, is refused with the way out."""
    assert num_merged(8, 1, 0.5, decreasing=False, fixed=False) == [4]
    for kept, fixed in ((3 / 8, False), (0.5, True)):
        with pytest.raises(Unsupported, match="pairs there are; use a larger share"):
            num_merged(8, 1, kept, decreasing=False, fixed=fixed)


def test_a_schedule_that_cannot_be_is_refused_when_the_model_is_made(tiny_image) -> None:
    """16 tokens to 1 in 4 blocks: 4, 4, 3 and then 4 of the last 5, which are two pairs."""
    with pytest.raises(Unsupported, match="merges 4 of the 5 tokens in block 3"):
        ToMe(more_kept=[1 / 16]).build(tiny_image.spec, tiny_image.backbone)


def test_the_most_similar_token_of_the_other_set_is_found() -> None:
    """Cosines of (1, 0) and (1, 1) with (2, 0) and (0, 3): 1 and 0, then 0.707 twice the same."""
    keys = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.1], [0.0, 3.0]])[None, None]
    best, partner = match(keys, None)
    torch.testing.assert_close(best, torch.tensor([[1.0, 1.1 / 2.21**0.5]]))
    assert partner.tolist() == [[0, 1]]


def test_heads_are_averaged() -> None:
    """Two heads that point apart: their mean (1, 0) decides, neither head alone."""
    keys = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[1.0, -1.0], [1.0, 0.0]]])[None]
    torch.testing.assert_close(match(keys, None)[0], torch.tensor([[1.0]]))


@pytest.fixture
def four() -> State:
    """Tokens 1, 2, 4 and 8 wide sizes 1, 3, 1 and 1."""
    x = torch.tensor([1.0, 2.0, 4.0, 8.0])[None, :, None]
    return State(x, sizes=torch.tensor([[1.0, 3.0, 1.0, 1.0]]))


def test_a_merged_token_is_the_mean_by_size(four: State) -> None:
    """Tokens 0 and 2 into 1: (1 + 3 x 2 + 4) / 5 = 2.2 of size 5; token 3 stays as it is."""
    none = torch.zeros(1, 0, dtype=torch.int64)
    found = merge_equally(four, none, torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
    torch.testing.assert_close(found.x.flatten(), torch.tensor([2.2, 8.0]))
    assert found.sizes.tolist() == [[5.0, 1.0]]
    assert found.positions.tolist() == [[1, 3]]


def test_both_ways_of_merging_agree(four: State) -> None:
    """What forced decisions merge in place is what own decisions gather."""
    found = merge_into(four, torch.tensor([[1, 1, 1, 3]]))
    torch.testing.assert_close(found.x[0, [1, 3], 0], torch.tensor([2.2, 8.0]))
    assert found.sizes[0, [1, 3]].tolist() == [5.0, 1.0]


@pytest.mark.parametrize("backbone", [None, CLASS], ids=["mean", "class"])
def test_sizes_and_sums_are_conserved(backbone, tiny_image) -> None:
    """Sizes sum to the number of tokens, and one merge conserves the sum of size x feature."""
    model = ToMe().build(tiny_image.spec, backbone or tiny_image.backbone).eval()
    state = last_state(model, tiny_image.batch(3))
    assert state.sizes.sum(1).tolist() == [model.num_tokens] * 3
    block = model.trunk.blocks[0]
    with torch.no_grad():
        view = model.make_view()
        before = block.mix(model.trunk.stem(tiny_image.batch(3)), view=view)
        after = model.reduce(0, before, view)
    assert after.x.shape[1] == before.x.shape[1] - 2
    sums = (after.x * after.sizes[..., None]).sum(1)
    torch.testing.assert_close(sums, before.x.sum(1), atol=1e-5, rtol=1e-5)


def test_identical_tokens_merge_exactly(tiny_image) -> None:
    """Pairs of equal tokens become one each: with their sizes the result is dense, without not."""
    dense = tiny_image.backbone.build(tiny_image.spec).eval()
    for parameter in dense.parameters():  # larger weights: else every token attends alike
        parameter.data *= 1.5
    model = ToMe(kept=0.5, more_kept=[]).convert(dense, [])
    model.set_schedule([8, 0, 0, 0])
    x = torch.randn(2, 8, 16)
    weights = torch.tensor([1, 1, 1, 3, 1, 1, 1, 7])  # of 16 tokens
    # Token a of A is a copy of b of B, and the last ones of B have several copies.
    pairs = torch.stack([x[:, [0, 1, 2, 3, 3, 7, 7, 7]], x], 2).flatten(1, 2)
    assert weights.sum() == 16
    wanted = dense.head(run_blocks(dense, State(pairs)))
    model.begin = lambda batch: State(pairs)
    with torch.no_grad():
        merged = last_state(model, tiny_image.batch(2))
        found = model(tiny_image.batch(2)).logits
    assert merged.x.shape[1] == 8
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    reduced = model.reduce

    def without_sizes(*args) -> State:
        return replace(reduced(*args), sizes=None)

    model.reduce = without_sizes
    assert not torch.allclose(model(tiny_image.batch(2)).logits, wanted, atol=1e-4)


@torch.no_grad()
def run_blocks(trunk, state: State) -> State:
    for block in trunk.blocks:
        state = block(state)
    return state


def test_the_class_token_is_never_merged(tiny_image) -> None:
    """It stays first and of size 1, even where its key equals another's, and closed gates too."""
    model = ToMe(more_kept=[0.3]).build(tiny_image.spec, CLASS).eval()
    model.trunk.stem.class_token.data.zero_()
    model.set_schedule([8, 4, 2, 1])  # of 16 other tokens, all that can merge
    for how in ("own", "closed"):
        with routing.force("closed") if how == "closed" else routing.observe():
            state = last_state(model, tiny_image.batch(3))
        assert state.x.shape[1] == 2
        assert state.positions[:, 0].tolist() == [0, 0, 0]
        assert state.sizes.tolist() == [[1.0, 16.0]] * 3


def test_no_merge_is_dense(tiny_image) -> None:
    """kept = 1 leaves the dense model, bit for bit, and announces nothing."""
    dense = tiny_image.backbone.build(tiny_image.spec).eval()
    model = ToMe(kept=1.0, more_kept=[]).convert(dense, []).eval()
    with routing.observe() as seen:
        found = model(tiny_image.batch(3)).logits
    assert torch.equal(found, dense(tiny_image.batch(3)).logits)
    assert seen.decisions == []


def test_the_points_leave_their_share(tiny_image) -> None:
    """16 tokens: 12 leave in four blocks at 0.25 (3 each), 8 at the default of 0.5 (2 each)."""
    method = ToMe()
    model = method.build(tiny_image.spec, tiny_image.backbone).eval()
    assert lengths(model, tiny_image.batch(2)) == [14, 12, 10, 8]
    model = method.build(tiny_image.spec, tiny_image.backbone).eval()
    method.set_point(model, {"kept": 0.25})
    assert lengths(model, tiny_image.batch(2)) == [13, 10, 7, 4]
    assert method.tokens_left(model.trunk, {"kept": 0.25}) == [13, 10, 7, 4]


def test_a_decision_names_partners_by_original_position(tiny_image) -> None:
    """Two of 16 tokens leave block 0, both even; each names an odd one, the others themselves."""
    model = ToMe().build(tiny_image.spec, tiny_image.backbone).eval()
    with routing.observe() as seen:
        model(tiny_image.batch(2))
    (first,) = seen.named("merge0")
    gone = first.eligible & ~first.run
    assert gone.sum(1).tolist() == [2, 2]
    own = torch.arange(16).expand(2, 16)
    assert (own[gone] % 2 == 0).all()
    assert (first.payload[gone] % 2 == 1).all()
    assert torch.equal(first.payload[~gone], own[~gone])
    (second,) = seen.named("merge1")
    left = [sorted(set(range(16)) - set(row.nonzero().flatten().tolist())) for row in gone]
    assert [sorted(row.tolist()) for row in second.tokens] == left


def test_what_has_no_rows_of_equal_length_is_refused(tiny_text, tiny_pairs, tiny_labels) -> None:
    """Text, pairs, padded sequences and feature maps: the reason says what is missing."""
    for tiny in (tiny_text, tiny_pairs, tiny_labels):
        with pytest.raises(Unsupported, match="equally many tokens"):
            ToMe().build(tiny.spec, tiny.backbone)
    with pytest.raises(Unsupported, match="feature maps"):
        ToMe().build(TaskSpec("i", "image", (1, 8, 8), 5), ResNet())


def test_shares_outside_the_range_are_refused() -> None:
    """A share of 0 or more than 1 names the setting."""
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="kept"):
            construct(ToMe, {"kept": wrong})


def test_an_unwatched_pass_is_an_observed_one(tiny_image) -> None:
    """A pass that writes no decision down gives the same bits."""
    model = ToMe().build(tiny_image.spec, CLASS).eval()
    plain: Tensor = model(tiny_image.batch(3)).logits
    with routing.observe():
        watched = model(tiny_image.batch(3)).logits
    assert torch.equal(plain, watched)
