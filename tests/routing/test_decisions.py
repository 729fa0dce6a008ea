"""Decisions: axes, costs, the originals of their rows, elements that are not eligible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import routing
from bench.routing import Cost, Decision


def decision(run: list, axes: tuple, cost: Cost | float = 1.0, **more) -> Decision:
    found = torch.tensor(run, dtype=torch.bool)
    cost = cost if isinstance(cost, Cost) else Cost(cost)
    return Decision("gate", axes, found.float(), found, cost, **more)


def obeyed(given: Decision) -> Tensor:
    return routing.announce(given).run


def test_a_cost_for_every_choice() -> None:
    """Branches of 10, 20 and 40 FLOPs, chosen by two samples and by none: 10 + 40."""
    run = [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    found = decision(run, routing.SAMPLE_CHOICES, Cost((10.0, 20.0, 40.0)))
    assert found.flops_of_samples().tolist() == [10, 40, 0]
    assert found.declared_flops() == 50


def test_units_of_one_cost_are_counted() -> None:
    """Two experts for token 0, one for token 1, at 10 FLOPs each: 30."""
    found = decision([[[1, 1, 0], [0, 1, 0]]], routing.TOKEN_CHOICES, 10.0)
    assert found.declared_flops() == 30
    assert found.any_unit_runs().tolist() == [[True, True]]


def test_pairs_of_running_tokens() -> None:
    """Attention over k of 4 tokens: 3 x 10 + 3^2 x 2 = 48, and 10 + 2 = 12 for a single one."""
    found = decision([[1, 1, 1, 0], [0, 0, 1, 0]], routing.TOKENS, Cost(10.0, pair=2.0))
    assert found.flops_of_samples().tolist() == [48, 12]


def test_pairs_with_earlier_tokens() -> None:
    """One new token that looks at 5 earlier ones and itself: 10 + 6 x 2 = 22; none: 0."""
    past = torch.tensor([5, 5])
    found = decision([[1], [0]], routing.TOKENS, Cost(10.0, pair=2.0), past=past)
    assert found.flops_of_samples().tolist() == [22, 0]


def test_a_cost_for_every_sample_that_runs_at_all() -> None:
    """Keys and values of all visible tokens, 7 FLOPs, where any token continues."""
    found = decision([[1, 1], [0, 0]], routing.TOKENS, Cost(10.0, sample=7.0))
    assert found.flops_of_samples().tolist() == [27, 0]


@pytest.mark.parametrize(
    ("how", "wanted"), [("open", [[1, 0], [1, 1]]), ("closed", [[0, 0], [0, 0]])]
)
def test_what_is_not_eligible_never_runs(how: str, wanted: list) -> None:
    """Padding and tokens that have left stay out, whatever is forced."""
    eligible = torch.tensor([[True, False], [True, True]])
    with routing.force(how):
        run = obeyed(decision([[0, 0], [0, 1]], routing.TOKENS, eligible=eligible))
    assert run.int().tolist() == wanted


@pytest.mark.parametrize(("how", "chosen"), [("open", 1), ("closed", 2)])
def test_of_exclusive_choices_exactly_one_runs(how: str, chosen: int) -> None:
    """Open gates take the most expensive of three, closed ones the cheapest."""
    cost = Cost((20.0, 40.0, 10.0))
    given = decision([[1, 0, 0]] * 4, routing.SAMPLE_CHOICES, cost, exclusive=True)
    with routing.force(how):
        assert obeyed(given).int().argmax(-1).tolist() == [chosen] * 4


def test_random_exclusive_choices_keep_their_numbers() -> None:
    """Two samples on each of three branches, others than before; with a share still one each."""
    run = torch.eye(3).repeat(2, 1).tolist()
    given = decision(run, routing.SAMPLE_CHOICES, Cost((1.0, 2.0, 4.0)), exclusive=True)
    with routing.force("random", generator=torch.Generator().manual_seed(0)):
        found = obeyed(given)
    assert found.sum(0).tolist() == [2, 2, 2]
    assert (found.sum(1) == 1).all()
    assert not torch.equal(found, given.run)
    with routing.force("random", share=0.5):
        assert (obeyed(given).sum(1) == 1).all()


def test_random_steps_stay_nested() -> None:
    """Counts of repetitions move between tokens: 3, 1 and 0 steps remain 3, 1 and 0."""
    run = [[[1, 1, 1], [1, 0, 0], [0, 0, 0]]]
    given = decision(run, ("sample", "token", "step"))
    with routing.force("random"):
        found = obeyed(given)[0]
    assert sorted(found.sum(-1).tolist()) == [0, 1, 3]
    assert all(bool((row[1:] <= row[:-1]).all()) for row in found.int())


def test_what_is_only_observed_is_never_forced() -> None:
    """Soft weights and accepted drafts are results: recorded and never overridden."""
    given = decision([[1, 0]], routing.SAMPLE_CHOICES, observed_only=True)
    with routing.force("closed"), routing.observe() as seen:
        assert obeyed(given).tolist() == [[True, False]]
    assert len(seen.decisions) == 1


def test_a_replay_repeats_the_payload() -> None:
    """The pairing of merged tokens is replayed; forced gates get None and derive it themselves."""
    pairing = torch.tensor([[0, 0, 2]])
    given = decision([[1, 0, 1]], routing.TOKENS, payload=pairing)
    with routing.observe() as seen:
        assert routing.announce(given).payload is pairing
    other = decision([[0, 1, 1]], routing.TOKENS, payload=torch.tensor([[1, 1, 2]]))
    with routing.replay(seen):
        result = routing.announce(other)
    assert result.run.tolist() == [[True, False, True]]
    assert torch.equal(result.payload, pairing)
    with routing.force("open"):
        assert routing.announce(other).payload is None


def test_a_replay_in_another_frame_of_tokens() -> None:
    """Recorded about tokens 0, 2 and 3 of four; replayed about all of them, and about 3 and 1."""
    tokens = torch.tensor([[0, 2, 3]])
    with routing.observe() as seen:
        obeyed(decision([[1, 0, 1]], routing.TOKENS, tokens=tokens))
        obeyed(decision([[1, 0, 1]], routing.TOKENS, tokens=tokens))
    with routing.replay(seen):
        whole = obeyed(decision([[0, 0, 0, 0]], routing.TOKENS))
        some = obeyed(decision([[0, 0]], routing.TOKENS, tokens=torch.tensor([[3, 1]])))
    assert whole.tolist() == [[True, False, False, True]]
    assert some.tolist() == [[True, False]]


def test_samples_and_tokens_of_another_frame_together() -> None:
    """Recorded about samples 1 and 0 and two of three tokens each; sample 0 replays its own."""
    index, tokens = torch.tensor([1, 0]), torch.tensor([[0, 1], [1, 2]])
    given = decision([[1, 1], [0, 1]], routing.TOKENS, index=index, tokens=tokens)
    with routing.observe() as seen:
        obeyed(given)
    with routing.replay(seen):
        alone = decision([[0, 0, 0]], routing.TOKENS, index=torch.tensor([0]))
        assert obeyed(alone).tolist() == [[False, False, True]]


def test_rows_that_share_an_original_are_replayed_in_their_own_frame() -> None:
    """Two rows of sample 0, two tokens at position 0: each repeats its own decision."""
    index, tokens = torch.tensor([0, 0, 1]), torch.tensor([[0, 0, 1]])
    with routing.observe() as seen:
        obeyed(decision([1, 0, 1], routing.SAMPLES, index=index))
        obeyed(decision([[1, 0, 1]], routing.TOKENS, tokens=tokens))
    with routing.replay(seen):
        rows = obeyed(decision([0, 0, 0], routing.SAMPLES, index=index.clone()))
        columns = obeyed(decision([[0, 0, 0]], routing.TOKENS, tokens=tokens.clone()))
    assert rows.tolist() == [True, False, True]
    assert columns.tolist() == [[True, False, True]]


def test_what_a_recording_of_all_does_not_cover_does_not_run() -> None:
    """Recorded about two samples and two tokens; sample 3 and token 5 are further ones."""
    with routing.observe() as seen:
        obeyed(decision([1, 1], routing.SAMPLES))
        obeyed(decision([[1, 1]], routing.TOKENS))
    with routing.replay(seen):
        rows = obeyed(decision([0, 0], routing.SAMPLES, index=torch.tensor([1, 3])))
        columns = obeyed(decision([[0, 0]], routing.TOKENS, tokens=torch.tensor([[5, 0]])))
    assert rows.tolist() == [True, False]
    assert columns.tolist() == [[False, True]]


def test_a_recording_of_another_shape_is_refused() -> None:
    """One sample would be broadcast to three."""
    with routing.observe() as seen:
        obeyed(decision([1], routing.SAMPLES))
    wanted = r"gate 'gate' was recorded as \[1\], and decides \[3\]"
    with routing.replay(seen), pytest.raises(ValueError, match=wanted):
        obeyed(decision([0, 0, 0], routing.SAMPLES))


@pytest.mark.parametrize("payload", [[[True, False]], [[5, 7]]])
def test_a_payload_without_a_sign_is_filled_with_nothing(payload: list) -> None:
    """-1 names no token; in bool it would be true, in uint8 255."""
    kind = torch.bool if payload == [[True, False]] else torch.uint8
    values, tokens = torch.tensor(payload, dtype=kind), torch.tensor([[2, 0]])
    with routing.observe() as seen:
        obeyed(decision([[1, 1]], routing.TOKENS, tokens=tokens, payload=values))
    other = decision([[0, 0, 0]], routing.TOKENS, payload=torch.zeros(1, 3, dtype=kind))
    with routing.replay(seen):
        found = routing.announce(other).payload
    assert found is not None
    assert found.tolist() == [[payload[0][1], 0, payload[0][0]]]


@pytest.mark.parametrize("make", [np.array, torch.tensor, list])
def test_costs_may_be_an_array(make) -> None:
    """10, 20 and 40 FLOPs as array, tensor or list: 10 + 40 of two samples."""
    run = torch.tensor([[1, 0, 0], [0, 0, 1]]).bool()
    with routing.observe() as seen:
        routing.decide(
            "g",
            axes=routing.SAMPLE_CHOICES,
            probabilities=run.float(),
            run=run,
            cost=make([10.0, 20.0, 40.0]),
        )
    assert seen.declared_flops() == 50


@pytest.mark.parametrize(
    ("run", "axes", "more", "why"),
    [
        ([[1]], ("token", "sample"), {}, "first 'sample'"),
        ([[1]], ("sample", "sample"), {}, "once each"),
        ([[1]], ("sample", "layer"), {}, "axes .* head, neurons"),
        ([[[1]]], ("sample", "choice", "token"), {}, "come last"),
        ([[1]], ("sample",), {}, "run has 2 axes, and 1 are named"),
        ([[1, 0]], ("sample", "choice"), {"cost": Cost((1.0, 2.0, 3.0))}, "3 costs for 2 units"),
        ([[1, 0]], ("sample", "token"), {"exclusive": True}, "choices as their last axis"),
        ([[1, 0]], ("sample", "token"), {"tokens": torch.zeros(1, 3)}, r"tokens \[1, 3\]"),
        ([[1, 0]], ("sample", "token"), {"eligible": torch.ones(1, 1)}, r"eligible \[1, 1\]"),
        ([[1, 0]], ("sample", "token"), {"eligible": torch.ones(1, 2)}, "eligible is torch.float"),
        ([[1, 0]], ("sample", "token"), {"eligible": torch.eye(2)[1:].bool()}, "not eligible"),
        ([[1, 0]], ("sample", "token"), {"tokens": torch.ones(1, 2)}, "tokens is .*, not int64"),
        ([[1, 0]], ("sample", "token"), {"index": torch.tensor([0, 1])}, r"index \[2\]"),
        ([[1, 0]], ("sample", "token"), {"index": torch.tensor([True])}, "index is torch.bool"),
        ([[1], [1]], ("sample", "token"), {"past": torch.ones(2, 1)}, r"past \[2, 1\]"),
        ([[1, 0]], ("sample", "token"), {"payload": torch.ones(1)}, r"payload \[1\]"),
        ([[1, 0]], ("sample", "token"), {"cost": Cost(float("nan"))}, "cost nan: finite"),
        ([[1, 0]], ("sample", "choice"), {"cost": Cost(np.ones(2))}, "cost array.*: finite"),
        ([[], []], ("sample", "choice"), {}, r"run \[2, 0\] has no choice"),
    ],
)
def test_what_does_not_fit_is_named(run: list, axes: tuple, more: dict, why: str) -> None:
    """Axes, shapes and costs are checked while decisions are observed; the gate is named."""
    given = decision(run, axes, **more)
    with routing.observe(), pytest.raises(ValueError, match=f"gate 'gate': .*{why}"):
        obeyed(given)


def test_probabilities_have_the_shape_of_what_runs() -> None:
    """Probabilities for another number of elements are refused, and so is a float `run`."""
    run = torch.ones(2, 3, dtype=torch.bool)
    with routing.observe(), pytest.raises(ValueError, match=r"probabilities \[2\], run \[2, 3\]"):
        routing.decide("g", axes=routing.TOKENS, probabilities=torch.ones(2), run=run, cost=1.0)
    with routing.observe(), pytest.raises(ValueError, match="not bool"):
        routing.decide(
            "g", axes=routing.TOKENS, probabilities=run.float(), run=run.float(), cost=1.0
        )
