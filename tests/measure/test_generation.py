"""The workload `generate`: what a call is, what is refused, and the arithmetic of its columns."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.config import MeasureConfig
from bench.measure import generation
from bench.measure.generation import (
    Generating,
    called,
    measure_generation,
    refuse_unsupported,
    token_times,
)
from bench.measure.inputs import Inputs
from bench.measure.subject import Subject
from bench.plugins.hooks import Flags
from bench.records.record import missing
from bench.types import Batch, TaskSpec, Unsupported
from tests.fakes.methods import method_of

TEXT = TaskSpec("t", "tokens", (6,), 5, vocab_size=5, causal=True)
LABELS = TaskSpec("t", "tokens", (6,), 2, vocab_size=5)
ENERGY = "infer/energy_j_per_sample"


class Clock:
    """What the models that are told so let pass: 10 s to a first token, 2 s per further one."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s

    def measure(self, work: Any) -> Any:
        raise NotImplementedError


class Counter(nn.Module):
    """Says the last prompt token + 1, + 2, ...: the prompt costs 1,000 FLOPs, a token 40 more.

    Every token keeps 4,000 bytes until the end.
    """

    def __init__(self, clock: Clock | None = None, slowness: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.clock, self.slowness = clock or Clock(), slowness

    def generate(self, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
        kept = []
        _ = torch.ones(5, 10) @ torch.ones(10, 10)  # 2 x 5 x 10 x 10 = 1,000
        for number in range(num_tokens):
            self.clock.time_s += 2.0 if number else 10.0 * self.slowness
            if number:
                _ = torch.ones(2, 10) @ torch.ones(10, 1)  # 2 x 2 x 10 x 1 = 40
            kept.append(torch.empty(1_000))  # 4,000 bytes
            yield prompt.inputs[:, -1] + number + 1


def _batch(size: int = 1) -> Batch:
    inputs = torch.arange(6).expand(size, 6)
    return Batch(inputs, inputs)


def _subject(model: nn.Module, method: Any = None, workload: str = "generate") -> Subject:
    return Subject(
        model=model,
        method=method or method_of(),
        task=SimpleNamespace(spec=TEXT),  # type: ignore[arg-type]
        device=torch.device("cpu"),
        config=MeasureConfig(workload=workload, num_inputs=64),
        make_baseline=Counter,
        is_dense=False,
    )


def test_a_call_continues_the_first_half() -> None:
    """[0 1 2 | 3 4 5]: after 2 come as many tokens as the second half has."""
    assert Generating(Counter())(_batch(2)).tolist() == [[3, 4, 5], [3, 4, 5]]
    assert Generating(Counter(), 1)(_batch()).tolist() == [[3]]


def test_forward_stays_as_it_is() -> None:
    """Without the workload the subject is not touched."""
    subject = _subject(nn.Identity(), workload="forward")
    assert called(subject) is subject


def test_both_models_generate() -> None:
    """The method's model and the dense one are called alike, on a quarter of the inputs."""
    subject = called(_subject(Counter()))
    assert isinstance(subject.model, Generating)
    assert isinstance(subject.make_baseline(), Generating)
    assert subject.config.num_inputs == 16


def test_hooks_get_the_model_inside() -> None:
    """A method sets points and declares FLOPs on its own model, not on what is around it."""
    seen = []
    method = method_of(
        points=lambda: [{"k": 2}, {"k": 1}],
        set_point=lambda model, point: seen.append((model, point)),
        declared_flops=lambda model, observation: seen.append((model, observation)) or 0.0,
    )
    model = Counter()
    subject = called(_subject(model, method))
    with subject.at({"k": 1}):
        subject.method.hooks.declared_flops(subject.model, "decisions")
    assert seen == [(model, {"k": 1}), (model, "decisions"), (model, {"k": 2})]
    assert subject.method.hooks.loss is None


def test_columns_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 tokens: 1,000 FLOPs and 10 s to the first; 40 FLOPs, 2 s, 4,000 bytes for each further.

    The dense model takes 30 s to the first and as long per token: a ratio of 3, and one of 1.
    """
    clock = Clock()
    monkeypatch.setattr(generation, "stopwatch_for", lambda device: clock)
    subject = called(_subject(Counter(clock)))
    dense = Generating(Counter(clock, slowness=3.0))
    inputs = Inputs({1: [_batch(), _batch()], 4: [_batch(4)]})
    found = {
        key: metric.shown for key, metric in measure_generation(subject, dense, inputs, {}).items()
    }
    assert found["infer/num_generated_inputs"] == 2
    assert found["infer/num_prompt_tokens"] == 3
    assert found["infer/num_output_tokens"] == 3
    assert found["infer/ttft_ms_b1"] == pytest.approx(10_000)
    assert found["infer/tpot_ms_b1"] == pytest.approx(2_000)
    ratios = [
        found[f"infer/{name}_speedup_b{size}"] for name in ("ttft", "tpot") for size in (1, 4)
    ]
    assert ratios == pytest.approx([3.0, 3.0, 1.0, 1.0])
    assert found["infer/flops_first_token_b1"] == 1_000
    assert found["infer/flops_per_output_token_b1"] == 40
    assert found["infer/flops_per_output_token_b4"] == 10  # the same products for four samples
    assert found["infer/bytes_per_output_token_b1"] == pytest.approx(4_000, rel=0.05)


def test_a_single_token_has_no_further_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens, one of them the prompt: what a further token costs is missing, and says why."""
    clock = Clock()
    monkeypatch.setattr(generation, "stopwatch_for", lambda device: clock)
    batch = _batch().map(lambda tensor: tensor[:, :2])
    dense = Generating(Counter(clock))
    found = measure_generation(called(_subject(Counter(clock))), dense, Inputs({1: [batch]}), {})
    assert found["infer/ttft_ms_b1"].shown == pytest.approx(10_000)
    for name in ("tpot_ms", "tpot_speedup", "flops_per_output_token", "bytes_per_output_token"):
        metric = found[f"infer/{name}_b1"]
        assert (metric.value, metric.reason) == (None, "a single token is generated")


def test_models_take_turns_and_another_one_begins_each_round() -> None:
    """Drift is the same for both: after the warm-up A B, then B A, at every batch."""
    calls = []

    def named(name: str):
        def generate(prompt: Batch, num_tokens: int) -> Iterator[int]:
            calls.append(name)
            return iter(range(num_tokens))

        return generate

    times = token_times([named("A"), named("B")], [_batch(), _batch()], Clock())  # type: ignore[arg-type]
    assert times.shape == (2, generation.NUM_ROUNDS, 2, 2)
    assert "".join(calls) == "BABA" + ("ABAB" + "BABA") * (generation.NUM_ROUNDS // 2)


def test_energy_is_missing_with_the_meters_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a sample's energy is missing, a token's is, for the same reason."""
    monkeypatch.setattr(generation, "stopwatch_for", lambda device: Clock())
    whole = {ENERGY: missing("j", "no NVIDIA GPU")}
    dense = Generating(Counter())
    found = measure_generation(called(_subject(Counter())), dense, Inputs({1: [_batch()]}), whole)
    assert "no time pass" in str(found["infer/tpot_speedup_b1"].reason)  # this clock stands still
    assert found["infer/energy_j_per_output_token"].reason == "no NVIDIA GPU"
    assert found["infer/cpu_energy_j_per_output_token"].reason == "not measured"


@pytest.mark.parametrize(
    ("spec", "method", "reason"),
    [
        (LABELS, Flags(), "language model"),
        (TEXT, Flags(batch_invariant=False), "other tokens of its pass"),
    ],
)
def test_refusals_come_before_training(spec: TaskSpec, method: Any, reason: str) -> None:
    """Tasks without a next token and methods whose tokens compete answer Unsupported."""
    with pytest.raises(Unsupported, match=reason):
        refuse_unsupported(MeasureConfig(workload="generate"), spec, method)
    refuse_unsupported(MeasureConfig(), spec, method)


def test_a_model_that_cannot_generate_says_so() -> None:
    """A model without `generate` is refused by the name of what is missing."""
    with pytest.raises(Unsupported, match="no generate"):
        called(_subject(nn.Identity()))


def test_the_workload_is_one_of_two() -> None:
    """A misspelt workload is refused with the choices."""
    with pytest.raises(ValueError, match="'forward', 'generate'"):
        MeasureConfig(workload="decode")
