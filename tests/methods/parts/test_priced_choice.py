"""Prices that make a gate keep a budget, and running every sample's own alternative."""

from __future__ import annotations

import pytest
import torch

from methods.parts.priced_choice import (
    PricedChoice,
    find_price,
    keep_chosen,
    mean_share,
    points,
    run_by_choice,
)

SHARES = torch.tensor([0.2, 1.0])


def test_a_price_by_hand() -> None:
    """Advantages of the dearer alternative of 0.8, 1.6, 2.4 turn at prices 1, 2 and 3.

    A budget of 0.6 allows one of three samples to take it (0.2 + 0.8 / 3): the lowest price halfway
    between two turns at which only the third does is 2.5.
    """
    logits = torch.tensor([[0.0, 0.8], [0.0, 1.6], [0.0, 2.4]])
    assert find_price(logits, SHARES, 0.6) == pytest.approx(2.5)
    assert mean_share(logits, SHARES, 2.5) == pytest.approx(0.2 + 0.8 / 3)


def test_the_ends_of_the_range() -> None:
    """A budget of 1 lets all samples take the dearer alternative, one below 0.2 none."""
    logits = torch.tensor([[0.0, -0.8], [0.0, 1.6]])
    assert mean_share(logits, SHARES, find_price(logits, SHARES, 1.0)) == 1.0
    assert mean_share(logits, SHARES, find_price(logits, SHARES, 0.1)) == pytest.approx(0.2)


def test_points_are_used_by_their_value() -> None:
    """ "gate 0.6" sets the price of that budget, 0.5 fixes the first alternative."""
    choice = PricedChoice([0.2, 1.0], [0.6, 0.9])
    choice.prices.copy_(torch.tensor([3.0, 1.0]))
    assert points([0.6, 0.9], [0.5, 1.0]) == ["gate 0.6", "gate 0.9", 0.5, 1.0]
    choice.use("gate 0.9", [0.5, 1.0])
    assert (choice.fixed, choice.price.item()) == (None, 1.0)
    choice.use(0.5, [0.5, 1.0])
    assert choice.fixed == 0
    assert choice.everywhere(2, torch.device("cpu")).tolist() == [[True, False]] * 2
    with pytest.raises(ValueError, match=r"0\.3"):
        choice.use(0.3, [0.5, 1.0])


def test_samples_are_grouped_by_alternative() -> None:
    """Alternative g adds 10 g to its samples; one that no sample takes is not called."""
    x, called = torch.arange(4.0)[:, None], []
    run = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]]).bool()

    def alternative(number, rows):
        called.append((number, rows.tolist()))
        return x[rows] + 10 * number

    found = run_by_choice(run, alternative)
    assert found.flatten().tolist() == [20, 1, 22, 3]
    assert called == [(0, [1, 3]), (2, [0, 2])]
    every = {number: x + 10 * number for number in range(3)}
    assert torch.equal(keep_chosen(run, every), found)
