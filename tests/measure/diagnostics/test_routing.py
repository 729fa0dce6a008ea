"""How a model routes, as the record says it: worked out by hand on models with scripted gates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.measure.diagnostics.difficulty import NoCorrelation, compute_difficulty_correlation
from bench.measure.diagnostics.frames import watch
from bench.measure.diagnostics.routing import describe, measure_budget_error, measure_routing
from bench.measure.inputs import Inputs
from bench.records.record import Metric
from bench.routing import SAMPLE_CHOICES, SAMPLES, TOKEN_CHOICES, TOKENS, decide
from bench.types import Batch, Extras, Output

FLOPS = {"infer/flops_per_sample": Metric(value=200, unit="flop")}

AXES = {1: SAMPLES, 2: TOKENS, 3: TOKEN_CHOICES}  # of what a script decides, by rank


@dataclass
class Scripted(nn.Module):
    """Decides what a script says: (gate, run, belief, index) per gate, the same in every call."""

    script: list[tuple[str, Any, Any, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __hash__(self) -> int:
        return id(self)

    def forward(self, batch: Batch) -> None:
        for name, run, belief, index in self.script:
            decide(
                name,
                axes=SAMPLE_CHOICES if name == "branches" else AXES[torch.tensor(run).dim()],
                run=torch.tensor(run).bool(),
                probabilities=torch.tensor(belief, dtype=torch.float32),
                cost=1.0,
                index=None if index is None else torch.tensor(index),
            )


class Data:
    """Four samples with a difficulty each, numbered by their inputs."""

    def __init__(self, difficulty: list[float] | None) -> None:
        self.difficulty = difficulty

    @property
    def extras(self) -> Extras:
        return Extras(attributes=self.attributes)

    def attributes(self, split: str) -> dict[str, Tensor]:
        return {} if self.difficulty is None else {"difficulty": torch.tensor(self.difficulty)}

    def num_samples(self, split: str) -> int:
        return 4

    def batches(self, split: str, batch_size: int, *, seed: int | None = None):
        yield Batch(torch.arange(4.0)[:, None], torch.zeros(4).long())


def inputs(order: tuple[int, ...] = (0, 1, 2, 3)) -> Inputs:
    whole = next(iter(Data(None).batches("test", 4)))
    alone = [whole.select(torch.tensor([i])) for i in order]
    return Inputs({1: alone, 4: [whole]})


def routed(script: list, difficulty: list[float] | None = None, metrics: Any = FLOPS) -> dict:
    subject = SimpleNamespace(model=Scripted(script), task=Data(difficulty))
    return measure_routing(subject, inputs(), np.array([1, 2, 3, 4]), metrics)


def test_exits_have_a_histogram() -> None:
    """Of four samples two leave at the first exit, one at the second and one goes to the end.

    The second gate is asked only about samples 1 and 3, on a compacted batch.
    """
    found = routed(
        [
            ("exit0", [0, 1, 0, 1], [0.1, 0.6, 0.2, 0.9], None),
            ("exit1", [0, 1], [0.3, 0.8], [1, 3]),
        ]
    )
    assert found["exit_histogram"] == [0.5, 0.25, 0.25] == found["depth_histogram"]
    assert [gate["executed_share"] for gate in found["gates"]] == [0.5, 0.25]
    assert found["num_paths"] == 3
    # lowest that runs 0.6, highest that does not 0.2; then 0.8 and 0.3: the others were not asked
    assert [gate["margin"] for gate in found["gates"]] == pytest.approx([0.4, 0.5])
    assert found["collapsed"] == [] == found["dead_branches"]


def test_skipping_blocks_is_no_exit() -> None:
    """A sample that skips one block and runs the next has a depth, and no exit."""
    gates = [("a", [0, 1, 0, 1], [0.5] * 4, None), ("b", [1, 1, 0, 0], [0.5] * 4, None)]
    found = routed(gates)
    assert found["exit_histogram"] is None
    assert "no exits" in found["reasons"]["exit_histogram"]
    assert found["depth_histogram"] == [0.25, 0.5, 0.25]
    assert found["num_paths"] == 4
    assert found["path_entropy"] == pytest.approx(math.log(4))
    assert found["gates"][0]["entropy"] == pytest.approx(1.0)  # 1/2 is undecided


def test_experts_have_load_and_imbalance() -> None:
    """Two tokens of four samples over three experts: 6 to the first, 2 to the second, none left."""
    run = [[[1, 0, 0], [0, 1, 0]]] * 2 + [[[1, 0, 0], [1, 0, 0]]] * 2
    belief = [[[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]]] * 2 + [[[0.7, 0.2, 0.1]] * 2] * 2
    found = routed([("moe.0", run, belief, None)])
    gate = found["gates"][0]
    assert gate["load"] == [0.75, 0.25, 0.0]
    assert gate["imbalance"] == pytest.approx(0.75 * 3)
    assert gate["executed_share"] == pytest.approx(1 / 3)
    assert gate["margin"] == pytest.approx(0.5)
    assert found["dead_branches"] == ["moe.0.2"]
    assert found["num_paths"] == 2  # of a token: to the first expert or to the second
    assert found["depth_histogram"] == [0.0, 1.0]
    assert not gate["collapsed"]  # exp(entropy of 3/4, 1/4) = 1.75 experts in use


def test_the_collapse_alarm() -> None:
    """All tokens at one of four experts, or a gate that never closes, raise it."""
    one = [[[1, 0, 0, 0]] * 2] * 4
    always = ("skip", [1, 1, 1, 1], [0.9] * 4, None)
    found = routed([("moe.0", one, [[[0.4, 0.2, 0.2, 0.2]] * 2] * 4, None), always])
    assert found["collapsed"] == ["moe.0", "skip"]


def test_every_expert_for_everyone_is_no_collapse() -> None:
    """Where top-k is all of them, there is nothing to choose."""
    found = routed([("moe.0", [[[1, 1]] * 2] * 4, [[[0.5, 0.5]] * 2] * 4, None)])
    assert found["collapsed"] == []


def test_branches_of_whole_samples_have_a_load() -> None:
    """Two choices of four samples are no two tokens: the axes say so, not the rank."""
    run = [[1, 0], [0, 1], [1, 0], [1, 0]]
    probability = [[0.8, 0.2], [0.1, 0.9], [0.6, 0.4], [0.7, 0.3]]
    found = routed([("branches", run, probability, None)])
    assert found["gates"][0]["load"] == [0.75, 0.25]
    assert found["depth_histogram"] == [0.0, 1.0]  # every sample runs one of them


def test_numbered_gates_stay_apart() -> None:
    """Nothing is read from a gate's name."""
    gates = [(f"gate.{k}", [1, 0, 1, 0], [0.5] * 4, None) for k in range(2)]
    assert [gate["name"] for gate in routed(gates)["gates"]] == ["gate.0", "gate.1"]


def test_tokens_that_are_left_stand_in_the_frame_of_all() -> None:
    """A gate that decides about tokens 0 and 2 of three: token 1 does not run, probability NaN."""

    class Reduced(nn.Module):
        def forward(self, batch: Batch) -> None:
            whole = torch.ones(1, 3, dtype=torch.bool)
            decide("first", axes=TOKENS, run=whole, probabilities=whole.float(), cost=1.0)
            left = torch.tensor([[0, 2]])
            run = torch.tensor([[False, True]])
            decide("second", axes=TOKENS, run=run, probabilities=run.float(), cost=1.0, tokens=left)

    _, second = watch(Reduced(), [Batch(torch.zeros(1, 3), torch.zeros(1))])
    assert second.run.tolist() == [[False, False, True]]
    assert second.probability[0, [0, 2]].tolist() == [0.0, 1.0]
    assert second.probability[0, 1].isnan()


def test_tokens_may_be_dropped_before_the_first_gate() -> None:
    """A gate about tokens 1 and 4 alone: the frame reaches to position 4."""

    class Dropped(nn.Module):
        def forward(self, batch: Batch) -> None:
            run = torch.tensor([[True, False]])
            left = torch.tensor([[1, 4]])
            decide("late", axes=TOKENS, run=run, probabilities=run.float(), cost=1.0, tokens=left)

    (late,) = watch(Dropped(), [Batch(torch.zeros(1, 5), torch.zeros(1))])
    assert late.run.tolist() == [[False, True, False, False, False]]


def test_without_decisions_everything_says_why() -> None:
    """A model without gates has the same fields, null, each with its reason."""
    found, full = routed([]), routed([("a", [1, 0, 1, 0], [0.5] * 4, None)])
    assert set(found) == set(full)
    assert found["gates"] == []
    for name in ("depth_histogram", "exit_histogram", "num_paths", "router_flops_share"):
        assert found[name] is None
        assert found["reasons"][name] == "the method announced no decision"


def test_router_shares_come_from_the_meters() -> None:
    """FLOPs of the region over all, time as it was measured; not measured is null."""
    metrics = {
        **FLOPS,
        "infer/flops_router": Metric(value=10, unit="flop"),
        "infer/time_share_router_b4": Metric(value=0.3, unit="1"),
    }
    found = routed([("a", [1, 0, 1, 0], [0.5] * 4, None)], metrics=metrics)
    assert found["router_flops_share"] == 0.05
    assert found["router_time_share_b4"] == 0.3
    assert found["router_time_share_b1"] is None
    assert found["reasons"]["router_time_share_b1"]


def test_the_budget_error_is_what_the_model_states() -> None:
    """One sample runs 0.2 more than the budget, three 0.1 less: (0.2 - 3 x 0.1) / 4 = -0.025."""

    class Budgeted(Scripted):
        def forward(self, batch: Batch) -> Output:
            super().forward(batch)
            return Output(batch.inputs, stats={"budget_error": 0.2 if len(batch) == 1 else -0.1})

    four = inputs().by_size[4][0]
    batches = [four.select(torch.tensor([0])), four.select(torch.tensor([1, 2, 3]))]
    reasons: dict[str, str] = {}
    subject = SimpleNamespace(model=Budgeted([]))
    assert measure_budget_error(subject, batches, reasons) == pytest.approx(-0.025)
    assert reasons == {}
    assert routed([])["budget_error"] is None
    assert "no budget" in routed([])["reasons"]["budget_error"]


def test_a_gate_asked_twice_is_two_gates() -> None:
    """The second call of a pass is not mixed with the first."""
    script = [("a", [1, 0], [0.9, 0.1], None), ("a", [1, 1], [0.9, 0.8], None)]
    batch = Batch(torch.zeros(2, 1), torch.zeros(2))
    frames = watch(Scripted(script), [batch, batch])
    assert [(f.name, f.run.tolist()) for f in frames] == [
        ("a", [True, False] * 2),
        ("a#2", [True, True] * 2),
    ]


def test_harder_inputs_that_cost_more_correlate() -> None:
    """Ranks of FLOPs and difficulty, whatever order the inputs were issued in."""
    task, order = Data([0.1, 0.9, 0.2, 0.3]), (1, 3, 0, 2)
    rising = np.array([40, 30, 10, 20])  # of samples 1, 3, 0, 2: ranks 4, 3, 1, 2
    assert compute_difficulty_correlation(task, inputs(order), rising) == pytest.approx(1.0)
    assert compute_difficulty_correlation(task, inputs(order), -rising) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("difficulty", "flops", "why"),
    [
        (None, [1, 2, 3, 4], "states no difficulty"),
        ([0.1, 0.2, 0.3, 0.4], [5, 5, 5, 5], "every input costs the same"),
        ([0.5] * 4, [1, 2, 3, 4], "every input is equally difficult"),
    ],
)
def test_no_correlation_says_why(difficulty: list[float] | None, flops: list, why: str) -> None:
    """What cannot be ranked is no zero."""
    with pytest.raises(NoCorrelation, match=why):
        compute_difficulty_correlation(Data(difficulty), inputs(), np.array(flops))


def test_an_encoder_and_a_decoder_have_histograms_of_their_own() -> None:
    """Four samples with 2 source and 1 target token each: two frames, a gate on samples in both.

    Of 8 source tokens 2 run both gates (sample 0's), 6 one of them; of 4 target tokens 1 runs
    both, 2 one and 1 none.
    """
    sample = ("sample", [1, 0, 0, 0], [0.5] * 4, None)
    source = ("encoder", [[1, 1]] * 4, [[0.5, 0.5]] * 4, None)
    target = ("decoder", [[1], [1], [1], [0]], [[0.5]] * 4, None)
    found = routed([sample, source, target])
    assert found["depth_histogram"] is None
    assert "see by_frame" in found["reasons"]["depth_histogram"]
    encoder, decoder = found["by_frame"]
    assert (encoder["gates"], decoder["gates"]) == (["sample", "encoder"], ["sample", "decoder"])
    assert encoder["depth_histogram"] == [0.0, 0.75, 0.25]
    assert decoder["depth_histogram"] == [0.25, 0.5, 0.25]
    assert (encoder["num_paths"], decoder["num_paths"]) == (2, 3)


def test_padding_is_no_element() -> None:
    """Of 4 tokens 3 are real: 1 of 3 goes to the first expert, the padding's choice counts not."""
    run = [[[1, 0], [0, 1]], [[0, 1], [1, 0]]]
    belief = [[[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [1.0, 0.0]]]
    real = torch.tensor([[True, True], [True, False]])
    batch = Batch(torch.zeros(2, 2), torch.zeros(2), mask=real)
    (frame,) = watch(Scripted([("moe", run, belief, None)]), [batch])
    described = describe(frame)
    assert described["load"] == pytest.approx([1 / 3, 2 / 3])
    assert described["executed_share"] == 0.5
    assert described["margin"] == pytest.approx((0.8 + 0.6 + 0.6) / 3)
    assert frame.executed.tolist() == [[True, False], [False, True], [False, True]]


def test_padding_of_single_tokens_is_no_element() -> None:
    """A gate that closes for the padding alone has collapsed; a class token comes first."""
    real = torch.tensor([[True], [False]])
    batch = Batch(torch.zeros(2, 1), torch.zeros(2), mask=real)
    script = [("skip", [[1, 1], [1, 0]], [[0.9, 0.8], [0.7, 0.1]], None)]
    (frame,) = watch(Scripted(script), [batch])
    assert describe(frame)["executed_share"] == 1.0
    assert describe(frame)["collapsed"]
    assert frame.probability.isnan().tolist() == [[False, False], [False, True]]


def test_a_mask_of_the_other_side_is_not_taken() -> None:
    """A decoder's gate with as many tokens as the source has keeps all of its elements."""
    real = torch.tensor([[True, False]])
    batch = Batch(torch.zeros(1, 2), torch.zeros(1, 2), real, decoder_inputs=torch.zeros(1, 2))
    (frame,) = watch(Scripted([("a", [[1, 0]], [[0.5, 0.5]], None)]), [batch])
    assert frame.executed.numel() == 2
