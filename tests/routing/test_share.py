"""Gates at a stated share: how much of what runs, the same in every pass, alone and in a batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench import routing
from bench.routing import Axis, Cost, Decision, ShareOfGates

ALL = torch.arange(8)


def decision(*shape: int, axes: tuple[Axis, ...], name: str = "gate", **fields) -> Decision:
    """A gate that lets nothing run by itself."""
    run = torch.zeros(shape, dtype=torch.bool)
    return Decision(name, axes, torch.zeros(shape), run, fields.pop("cost", Cost(1.0)), **fields)


def ran(given: Decision, share: float, numbers: Tensor = ALL) -> Tensor:
    """What runs of eight numbered inputs."""
    with routing.at_share(ShareOfGates(share, 8), numbers):
        return routing.announce(given).run


@pytest.mark.parametrize(("share", "expected"), [(0.25, 2), (0.5, 4), (0.7, 6), (1.0, 8)])
def test_the_share_of_all_samples_runs(share: float, expected: int) -> None:
    """Of eight samples round(8 share): 0.7 x 8 = 5.6 is 6."""
    assert ran(decision(8, axes=routing.SAMPLES), share).sum() == expected


def test_a_sample_alone_decides_as_in_a_batch() -> None:
    """By its number, also in another order and where rows of a compacted batch are named."""
    together = ran(decision(8, axes=routing.SAMPLES), 0.5)
    for i in range(8):
        assert ran(decision(1, axes=routing.SAMPLES), 0.5, ALL[i : i + 1]).item() == together[i]
    order = torch.tensor([5, 0, 3])
    assert ran(decision(3, axes=routing.SAMPLES), 0.5, order).tolist() == together[order].tolist()
    rows = decision(2, axes=routing.SAMPLES, index=torch.tensor([2, 0]))
    assert ran(rows, 0.5, order).tolist() == together[[3, 5]].tolist()


def test_gates_let_other_samples_run() -> None:
    """Four gates at one half do not all choose the same four samples."""
    chosen = {
        tuple(ran(decision(8, axes=routing.SAMPLES, name=f"gate{i}"), 0.5).tolist())
        for i in range(4)
    }
    assert len(chosen) > 1


def test_every_sample_runs_the_same_number_of_tokens() -> None:
    """round(0.3 x 10) = 3 of ten tokens, for samples alone and together."""
    run = ran(decision(4, 10, axes=routing.TOKENS), 0.3, ALL[:4])
    assert run.sum(1).tolist() == [3, 3, 3, 3]
    assert torch.equal(ran(decision(1, 10, axes=routing.TOKENS), 0.3, ALL[:1]), run[:1])


def test_only_eligible_tokens_run_and_count() -> None:
    """Of six and of two eligible tokens half: three and one."""
    eligible = torch.arange(8) < torch.tensor([[6], [2]])
    run = ran(decision(2, 8, axes=routing.TOKENS, eligible=eligible), 0.5, ALL[:2])
    assert run.sum(1).tolist() == [3, 1]
    assert not (run & ~eligible).any()


@pytest.mark.parametrize("unit", ["head", "neurons", "choice"])
def test_every_element_runs_as_many_units(unit: Axis) -> None:
    """0.25 x 8 = 2 of eight units of every token; of a share below one unit, one."""
    given = decision(2, 5, 8, axes=("sample", "token", unit))
    assert (ran(given, 0.25, ALL[:2]).sum(-1) == 2).all()
    assert (ran(given, 0.01, ALL[:2]).sum(-1) == 1).all()


def test_the_first_steps_run() -> None:
    """Half of four steps: the first two."""
    given = decision(1, 3, 4, axes=("sample", "token", "step"))
    assert ran(given, 0.5, ALL[:1]).tolist() == [[[True, True, False, False]] * 3]


@pytest.mark.parametrize("axes", [routing.SAMPLE_CHOICES, routing.TOKEN_CHOICES])
def test_one_of_several_is_the_dearest_for_the_share(axes: tuple[Axis, ...]) -> None:
    """Of three choices that cost 2, 9 and 5, a quarter of the elements takes the second."""
    shape = (8, 3) if len(axes) == 2 else (8, 4, 3)
    given = decision(*shape, axes=axes, cost=Cost((2.0, 9.0, 5.0)), exclusive=True)
    run = ran(given, 0.25)
    assert (run.sum(-1) == 1).all()
    assert run.flatten(0, -2).float().mean(0).tolist() == [0.75, 0.25, 0.0]


def test_where_no_share_is_defined_the_gate_decides() -> None:
    """A result, a merge (its schedule is a setting), choices of equal cost: left as they are."""
    plain = decision(8, 4, axes=routing.TOKENS)
    for given in (
        replace(plain, observed_only=True),
        replace(plain, payload=torch.zeros(8, 4, dtype=torch.int64)),
        decision(8, 4, axes=routing.SAMPLE_CHOICES, cost=Cost(3.0), exclusive=True),
    ):
        assert not routing.takes_share(given)
        assert torch.equal(ran(given, 0.5), given.run)


def test_what_the_harness_forces_or_replays_comes_first() -> None:
    """Inside, gates can still be forced open, and what runs is observed."""
    given = decision(8, axes=routing.SAMPLES)
    with routing.at_share(ShareOfGates(0.5, 8), ALL):
        assert routing.is_forced()
        with routing.force("open"):
            assert routing.announce(given).run.all()
        with routing.observe() as seen:
            routing.announce(given)
    assert int(seen.decisions[0].run.sum()) == 4
    assert not routing.is_forced()


def test_timed_and_observed_passes_decide_alike() -> None:
    """`decide` gives the same with and without an observation."""
    gates = ShareOfGates(0.5, 8)

    def decide() -> Tensor:
        run = torch.zeros(8, dtype=torch.bool)
        return routing.decide(
            "gate", axes=routing.SAMPLES, probabilities=run.float(), run=run, cost=1.0
        )

    with routing.at_share(gates, ALL):
        timed = decide()
        with routing.observe():
            assert torch.equal(decide(), timed)
    assert timed.sum() == 4


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    """Nothing and more than everything are no shares."""
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        ShareOfGates(share, 8)
