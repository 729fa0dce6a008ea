"""The trunk and the state that travels through it."""

from __future__ import annotations

import torch
from torch import nn

from methods.trunk.state import State
from methods.trunk.trunk import swap


def _state() -> State:
    x = torch.arange(24.0).reshape(3, 4, 2)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    return State(x, mask=mask)


def test_select_keeps_rows_together() -> None:
    """Selecting samples selects their tokens and masks and keeps their original indices."""
    chosen = _state().select(torch.tensor([2, 0]))
    assert chosen.x[:, 0, 0].tolist() == [16.0, 0.0]
    assert chosen.mask.sum(1).tolist() == [2, 4]
    assert chosen.index.tolist() == [2, 0]


def test_select_twice_points_at_the_original_batch() -> None:
    """A selection from a selection names samples of the original batch."""
    again = _state().select(torch.tensor([1, 2])).select(torch.tensor([1]))
    assert again.index.tolist() == [2]


def test_take_remembers_positions() -> None:
    """Taken tokens keep their original positions, also when taken twice."""
    first = _state().take(torch.tensor([[0, 2, 3], [0, 1, 2], [1, 2, 3]]))
    assert first.x[0, :, 0].tolist() == [0.0, 4.0, 6.0]
    second = first.take(torch.tensor([[1, 2], [0, 2], [0, 1]]))
    assert second.positions.tolist() == [[2, 3], [0, 2], [1, 2]]
    assert second.mask.tolist() == [[True, True], [True, True], [True, False]]


def test_positions_count_up_without_any() -> None:
    """A whole state's tokens are at positions 0..T-1."""
    assert _state().token_positions().tolist() == [[0, 1, 2, 3]]


def test_trunk_is_stem_blocks_head(tiny) -> None:
    """Calling a trunk runs its stem, its blocks in order and its head."""
    trunk, batch = tiny.backbone.build(tiny.spec).eval(), tiny.batch(3)
    state = trunk.stem(batch)
    for block in trunk.blocks:
        state = block.feed(block.mix(state))
    assert torch.equal(trunk(batch).logits, trunk.head(state))


def test_new_heads_are_fresh(tiny) -> None:
    """A new head has the final head's form and weights of its own."""
    trunk = tiny.backbone.build(tiny.spec)
    head = trunk.new_head()
    assert {n: p.shape for n, p in head.named_parameters()} == {
        n: p.shape for n, p in trunk.head.named_parameters()
    }
    assert not torch.equal(head.linear.weight, trunk.head.linear.weight)


def test_swap_replaces_in_place() -> None:
    """Swap replaces every module of a kind for which a new one is made, by its path."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 3)))
    names: list[str] = []

    def make(name: str, old: nn.Linear) -> nn.Module | None:
        names.append(name)
        return nn.Identity() if old.out_features == 3 else None

    assert swap(model, nn.Linear, make) == 1
    assert names == ["0", "1.1"]
    assert isinstance(model[0], nn.Linear)
    assert isinstance(model[1][1], nn.Identity)
