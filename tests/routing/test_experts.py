"""Stated routing of experts: which experts run, never how many; the same in every pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import routing
from bench.routing import Cost, Decision, ShareOfGates, StatedExperts, StatedGates

ALL = torch.arange(8)


def gate(run: Tensor, name: str = "moe.0", **fields) -> Decision:
    """A gate that routes to experts of equal cost, and by itself runs `run`."""
    axes = routing.TOKEN_CHOICES if run.dim() == 3 else routing.SAMPLE_CHOICES
    return Decision(
        name, axes, torch.zeros(run.shape), run, fields.pop("cost", Cost(1.0)), **fields
    )


def top(num_samples: int, num_tokens: int, num_experts: int, k: int) -> Tensor:
    """Every token takes the first k experts: what an untrained router may well do."""
    run = torch.zeros(num_samples, num_tokens, num_experts, dtype=torch.bool)
    run[..., :k] = True
    return run


def ran(kind: routing.Routing, decision: Decision, numbers: Tensor = ALL, **fields) -> Tensor:
    """What runs of eight numbered inputs."""
    with routing.at_share(StatedGates(experts=StatedExperts(kind, 8, **fields)), numbers):
        return routing.announce(decision).run


@pytest.mark.parametrize("kind", ["balanced", "zipf", "hot"])
def test_every_token_keeps_its_number_of_experts(kind: routing.Routing) -> None:
    """Two experts, none for a token that has left, three for another."""
    run = top(8, 6, 4, 2)
    run[0, 0] = False
    run[0, 1, :3] = True
    assert torch.equal(ran(kind, gate(run)).sum(-1), run.sum(-1))


def test_balanced_experts_get_equally_many_tokens() -> None:
    """8 samples x 6 tokens x 2 of 4 experts are 96 pairs: 24 for each; of one sample 12: 3 each."""
    run = ran("balanced", gate(top(8, 6, 4, 2)))
    assert run.flatten(0, 1).sum(0).tolist() == [24] * 4
    assert run[5].sum(0).tolist() == [3] * 4


def test_hot_experts_are_the_same_for_all_tokens() -> None:
    """Two of four experts take everything."""
    assert sorted(ran("hot", gate(top(8, 6, 4, 2))).flatten(0, 1).sum(0).tolist()) == [0, 0, 48, 48]


def test_zipf_loads_fall_with_the_rank() -> None:
    """One of three experts: 1/1, 1/2 and 1/3 of 11/6 are 54.5 %, 27.3 % and 18.2 %."""
    load = ran("zipf", gate(top(8, 1000, 3, 1))).flatten(0, 1).double().mean(0)
    expected = [6 / 33, 9 / 33, 18 / 33]  # of 8,000 tokens: a standard error of half a point
    assert load.sort().values.tolist() == pytest.approx(expected, abs=0.02)


def test_recorded_loads_are_drawn_again() -> None:
    """70 %, 30 % and an expert that got nothing."""
    loads = {"moe.0": [0.7, 0.0, 0.3]}
    load = ran("recorded", gate(top(8, 1000, 3, 1)), loads=loads).flatten(0, 1).double().mean(0)
    assert load.tolist() == pytest.approx([0.7, 0.0, 0.3], abs=0.02)


def test_a_gate_without_a_recorded_load_is_refused() -> None:
    """Also where the number of experts is another one."""
    for name, experts in (("moe.1", 3), ("moe.0", 4)):
        with pytest.raises(ValueError, match=r"no load of . experts of gate 'moe"):
            ran("recorded", gate(top(8, 4, experts, 1), name), loads={"moe.0": [0.7, 0.0, 0.3]})


@pytest.mark.parametrize("kind", ["balanced", "zipf", "hot"])
def test_a_sample_alone_gets_the_experts_that_it_gets_in_a_batch(kind: routing.Routing) -> None:
    """By its number, also with fewer tokens and as a row of a compacted batch."""
    together = ran(kind, gate(top(8, 6, 4, 2)))
    alone = ran(kind, gate(top(1, 6, 4, 2)), ALL[3:4])
    assert torch.equal(alone[0], together[3])
    shorter = ran(kind, gate(top(1, 5, 4, 2)), ALL[3:4])
    assert torch.equal(shorter[0], together[3, :5])
    rows = gate(top(2, 6, 4, 2), index=torch.tensor([2, 0]))
    assert torch.equal(ran(kind, rows, torch.tensor([5, 0, 3])), together[[3, 5]])


def test_what_is_no_expert_is_left_alone() -> None:
    """Branches of unequal cost, one of several, results of a computation, and gates of tokens."""
    run = top(8, 6, 4, 2)
    others = [
        gate(run, cost=Cost((1.0, 2.0, 3.0, 4.0))),
        gate(top(8, 6, 4, 1), exclusive=True),
        gate(run, observed_only=True),
        Decision("t", routing.TOKENS, torch.zeros(8, 6), run[..., 0], Cost(1.0)),
    ]
    for other in others:
        assert not routing.routes(other)
        assert torch.equal(ran("hot", other), other.run)


def test_a_share_says_how_many_and_the_routing_which() -> None:
    """Three quarters of four experts are three, the same for all tokens."""
    stated = StatedGates(ShareOfGates(0.75, 8), StatedExperts("hot", 8))
    with routing.at_share(stated, ALL):
        run = routing.announce(gate(top(8, 6, 4, 1))).run
    assert sorted(run.flatten(0, 1).sum(0).tolist()) == [0, 48, 48, 48]


def test_the_routers_own_choice_is_no_stated_one() -> None:
    """It needs nothing that decides."""
    with pytest.raises(ValueError, match="balanced, zipf, hot, recorded"):
        StatedExperts("own", 8)
