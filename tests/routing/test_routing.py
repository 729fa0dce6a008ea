"""Decisions observed, forced and replayed, also in other frames; regions; threads."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench import routing
from bench.routing import SAMPLES, TOKEN_CHOICES, TOKENS, decide, region

AXES = {1: SAMPLES, 2: TOKENS, 3: TOKEN_CHOICES}  # of the decisions made here, by rank
RUN = torch.tensor([[True, False, False], [True, True, False]])  # two samples, three tokens


def call_gate(run: Tensor = RUN, name: str = "gate", index: Tensor | None = None) -> Tensor:
    return decide(
        name, axes=AXES[run.dim()], probabilities=run.float(), run=run, cost=10.0, index=index
    )


def test_a_gate_alone_gets_its_own_decision() -> None:
    """Unobserved and not forced, `decide` returns the very same tensor."""
    assert call_gate() is RUN
    assert not routing.is_forced()


def test_observing_changes_nothing_and_keeps_no_gradient() -> None:
    """An observed gate gets its own decision; what is recorded is detached and in call order."""
    probability = torch.rand(2, 3, requires_grad=True)
    with routing.observe() as seen:
        decide("first", axes=TOKENS, probabilities=probability, run=RUN, cost=1.0)
        assert torch.equal(call_gate(name="second"), RUN)
    call_gate(name="after")
    assert [decision.name for decision in seen.decisions] == ["first", "second"]
    assert not seen.decisions[0].probabilities.requires_grad
    assert torch.equal(seen.decisions[1].run, RUN)


def test_an_inner_observation_keeps_its_own() -> None:
    """Observations nest: the innermost records a decision, also after an error inside."""
    with routing.observe() as outer:
        with suppress(RuntimeError), routing.observe() as inner:
            call_gate(name="inner")
            raise RuntimeError
        call_gate(name="outer")
    assert [d.name for d in inner.decisions] == ["inner"]
    assert [d.name for d in outer.decisions] == ["outer"]


def test_declared_flops_are_running_elements_times_cost() -> None:
    """Three of six elements at 10 FLOPs, twice: 60."""
    with routing.observe() as seen:
        call_gate()
        call_gate()
    assert seen.declared_flops() == 60
    assert len(seen.named("gate")) == 2
    assert seen.named("other") == []


def test_forced_gates_are_all_open_or_all_closed() -> None:
    """Open runs everything, closed nothing; the forced decision is recorded, not the gate's own."""
    for how, wanted in (("open", torch.ones_like(RUN)), ("closed", torch.zeros_like(RUN))):
        with routing.force(how), routing.observe() as seen:
            assert routing.is_forced()
            assert torch.equal(call_gate(), wanted)
        assert torch.equal(seen.decisions[0].run, wanted)
    assert not routing.is_forced()


def test_forcing_ends_with_an_error() -> None:
    """An error inside leaves no gate forced."""
    with pytest.raises(RuntimeError), routing.force("open"):
        raise RuntimeError
    assert call_gate() is RUN


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_random_decisions_keep_each_rows_number(rows: list[list[bool]]) -> None:
    """Shuffled within a row: as many elements of each sample run as the gate chose."""
    run = torch.tensor(rows)
    with routing.force("random", generator=torch.Generator().manual_seed(0)):
        assert torch.equal(call_gate(run).sum(1), run.sum(1))
        assert int(call_gate(run[:, 0]).sum()) == int(run[:, 0].sum())  # samples [n]: in all


def test_random_decisions_have_the_share_and_repeat_with_the_seed() -> None:
    """A quarter of 40,000 elements within 5 standard deviations (0.0022); equal seeds agree."""

    def draw(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        with routing.force("random", share=0.25, generator=generator):
            return call_gate(torch.ones(200, 200, dtype=torch.bool))

    assert abs(float(draw(0).float().mean()) - 0.25) < 5 * 0.0022
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_replay_goes_by_name_and_order() -> None:
    """Each gate gets its own decisions again, call by call, whatever it would choose now."""
    with routing.observe() as seen:
        call_gate(name="a")
        call_gate(~RUN, name="b")
        call_gate(~RUN, name="a")
    nothing = torch.zeros_like(RUN)
    with routing.replay(seen):
        assert torch.equal(call_gate(nothing, name="b"), ~RUN)
        assert torch.equal(call_gate(nothing, name="a"), RUN)
        assert torch.equal(call_gate(nothing, name="a"), ~RUN)


def test_replay_refuses_a_call_that_was_not_recorded() -> None:
    """A gate that decides once more, or an unknown one, is named with both numbers."""
    with routing.observe() as seen:
        call_gate()
    with routing.replay(seen):
        call_gate()
        with pytest.raises(KeyError, match="'gate' decided 2 times, but the recording holds 1"):
            call_gate()
        with pytest.raises(KeyError, match="'new' decided 1 times, but the recording holds 0"):
            call_gate(name="new")


def test_a_compacted_call_gets_the_decisions_of_its_samples() -> None:
    """Recorded for samples 0 to 2; replayed for samples 2 and 0 in this order."""
    whole = torch.tensor([[True, False], [False, False], [True, True]])
    with routing.observe() as seen:
        call_gate(whole)
    with routing.replay(seen):
        replayed = call_gate(torch.zeros(2, 2, dtype=torch.bool), index=torch.tensor([2, 0]))
    assert torch.equal(replayed, whole[[2, 0]])


def test_samples_that_were_not_reached_do_not_run() -> None:
    """Recorded for samples 2 and 0 of four; replayed for all four, then for samples 3 and 2."""
    compacted = torch.tensor([[True, True], [True, False]])
    with routing.observe() as seen:
        call_gate(compacted, index=torch.tensor([2, 0]))
        call_gate(compacted, index=torch.tensor([2, 0]))
    wanted = torch.tensor([[True, False], [False, False], [True, True], [False, False]])
    with routing.replay(seen):
        assert torch.equal(call_gate(torch.ones(4, 2, dtype=torch.bool)), wanted)
        some = call_gate(torch.ones(2, 2, dtype=torch.bool), index=torch.tensor([3, 2]))
    assert torch.equal(some, wanted[[3, 2]])


def test_selected_decisions_are_those_of_the_samples() -> None:
    """Samples 1 and 0 of a whole and of a compacted decision become samples 0 and 1."""
    with routing.observe() as seen:
        call_gate()
        call_gate(torch.tensor([True]), index=torch.tensor([1]))
    whole, compacted = seen.select(torch.tensor([1, 0])).decisions
    assert torch.equal(whole.run, RUN[[1, 0]])
    assert whole.index is None
    assert compacted.index.tolist() == [0]  # old sample 1; old sample 0 was not reached
    assert compacted.run.tolist() == [True]
    assert seen.select(torch.tensor([0])).decisions[1].run.numel() == 0


def test_regions_nest_and_end_with_an_error() -> None:
    """The innermost name holds; outside any it is the backbone, also after an error."""
    assert routing.current_region() == "backbone"
    with suppress(RuntimeError), region("router"):
        with region("dispatch"):
            assert routing.current_region() == "dispatch"
        assert routing.current_region() == "router"
        raise RuntimeError
    assert routing.current_region() == "backbone"


def test_a_region_has_one_of_six_names() -> None:
    """A misspelt region is refused with the choices: its work would be in no column."""
    with pytest.raises(ValueError, match="unknown region 'routr': choices: backbone, router"):
        region("routr").__enter__()
    assert routing.current_region() == "backbone"


def test_entering_and_leaving_a_region_are_reported() -> None:
    """Both, each with the region that holds from there on."""
    reported: list[str] = []
    with routing.watch_regions(reported.append), region("router"), region("expert"):
        pass
    with region("router"):
        pass
    assert reported == ["router", "expert", "router", "backbone"]


def test_a_decision_is_read_where_it_is_observed_forced_or_at_a_share() -> None:
    """A stated share reads decisions without watching them: a payload is not its to override."""
    assert not routing.is_read()
    share = routing.at_share(routing.ShareOfGates(0.5, 1), torch.zeros(1, dtype=torch.int64))
    for context, is_watched in (
        (routing.observe(), True),
        (routing.force("open"), True),
        (share, False),
    ):
        with context:
            assert routing.is_read()
            assert routing.is_watched() is is_watched
    assert not routing.is_read()


def test_threads_are_separate() -> None:
    """Observing, forcing and regions of one thread affect no other."""
    found: list[object] = []

    def other() -> None:
        found.extend((call_gate() is RUN, routing.is_forced(), routing.current_region()))

    with routing.observe() as seen, routing.force("closed"), region("expert"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == [True, False, "backbone"]
    assert seen.decisions == []
