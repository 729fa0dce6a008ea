"""Forced gates: what is not eligible takes nothing of a random budget, and is never the one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import routing
from bench.routing import Axis, Cost, Decision

AXES: list[tuple[Axis, ...]] = [
    ("sample",),
    ("sample", "token"),
    ("sample", "head"),
    ("sample", "token", "neurons"),
    ("sample", "token", "choice"),
    ("sample", "token", "step"),
]


def forced(given: Decision, how: str, share: float | None = None, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    with routing.force(how, share=share, generator=generator):
        return routing.announce(given).run


def budget(run: Tensor, *, whole_rows: bool) -> list:
    """What a random choice keeps: numbers of each choice, or of each row."""
    if run.dim() == 1:
        return [int(run.sum())]
    return run.flatten(0, -2).sum(0).tolist() if whole_rows else run.sum(-1).tolist()


@pytest.mark.parametrize("axes", AXES)
def test_random_keeps_the_budget_of_eligible_elements(axes: tuple[Axis, ...]) -> None:
    """Half the elements are padding; none of it runs, and what runs is as much as before."""
    shape = (6, 8, 3)[: len(axes)]
    generator = torch.Generator().manual_seed(3)
    eligible = torch.rand(shape[: max(1, len(axes) - 1)], generator=generator) < 0.5
    if len(axes) == 2:
        eligible = torch.rand(shape, generator=generator) < 0.5
    eligible = eligible.view(*eligible.shape, *[1] * (len(axes) - eligible.dim())).expand(shape)
    run = torch.rand(shape, generator=generator) < 0.5
    if axes[-1] == "step":
        run = run.sort(-1, descending=True).values
    given = Decision("g", axes, run.float(), run & eligible, Cost(1.0), eligible=eligible)
    wanted = budget(given.run, whole_rows=axes[-1] == "step")
    found = [forced(given, "random", seed=seed) for seed in range(5)]
    for each in found:
        assert budget(each, whole_rows=axes[-1] == "step") == wanted
        assert not (each & ~eligible).any()
    assert any(not torch.equal(each, given.run) for each in found)


def exclusive(run: list, eligible: list) -> Decision:
    chosen, allowed = torch.tensor(run).bool(), torch.tensor(eligible).bool()
    axes = routing.TOKEN_CHOICES if chosen.dim() == 3 else routing.SAMPLE_CHOICES
    cost = Cost((1.0, 9.0, 3.0))
    return Decision("g", axes, chosen.float(), chosen, cost, eligible=allowed, exclusive=True)


@pytest.mark.parametrize(("how", "wanted"), [("open", [2, 1]), ("closed", [0, 1])])
def test_the_one_of_exclusive_choices_is_eligible(how: str, wanted: list) -> None:
    """The most expensive that is eligible: the dearest of all is ruled out for the first sample."""
    given = exclusive([[1, 0, 0], [0, 1, 0]], [[1, 0, 1], [0, 1, 0]])
    assert forced(given, how).int().argmax(-1).tolist() == wanted


@pytest.mark.parametrize("share", [None, 0.5])
def test_padding_takes_no_exclusive_choice_from_a_token(share: float | None) -> None:
    """Exactly one for each of two tokens, none for the two of padding, in every draw."""
    padded = [[[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]]
    given = exclusive(padded, [[[1] * 3, [1] * 3, [0] * 3, [0] * 3]])
    for seed in range(10):
        assert forced(given, "random", share, seed).sum(-1).tolist() == [[1, 1, 0, 0]]


def test_steps_of_a_share_are_nested_and_about_as_many() -> None:
    """Gates that always run every step are made to run half of them, the first ones."""
    run = torch.ones(50, 40, 4, dtype=torch.bool)
    given = Decision("g", ("sample", "token", "step"), run.float(), run, Cost(1.0))
    found = forced(given, "random", 0.5)
    assert (found[..., 1:] <= found[..., :-1]).all()
    assert float(found.double().mean()) == pytest.approx(0.5, abs=0.03)
