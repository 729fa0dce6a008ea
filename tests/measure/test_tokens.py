"""The arithmetic of the columns that only generating has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.measure import tokens
from bench.measure.generation import Generating, as_workload
from bench.measure.inputs import Inputs
from bench.measure.tokens import measure_generation, token_times
from bench.records.record import missing
from bench.types import Batch
from tests.fakes.generating import Clock, Counter, batch_of, subject_with

ENERGY = "infer/energy_j_per_sample"


def test_columns_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 tokens: 1,000 FLOPs and 10 s to the first; 40 FLOPs, 2 s, 4,000 bytes for each further.

    The dense model takes 30 s to the first and as long per token: a ratio of 3, and one of 1.
    """
    clock = Clock()
    monkeypatch.setattr(tokens, "stopwatch_for", lambda device: clock)
    subject = as_workload(subject_with(Counter(clock)))
    dense = Generating(Counter(clock, slowness=3.0))
    inputs = Inputs({1: [batch_of(), batch_of()], 4: [batch_of(4)]})
    part = measure_generation(subject, dense, inputs, {})
    found = {key: metric.shown for key, metric in part.metrics.items()}
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
    """Two tokens, one of them the prompt: what a further token costs is missing."""
    clock = Clock()
    monkeypatch.setattr(tokens, "stopwatch_for", lambda device: clock)
    batch = batch_of().map(lambda tensor: tensor[:, :2])
    dense = Generating(Counter(clock))
    subject = as_workload(subject_with(Counter(clock)))
    found = measure_generation(subject, dense, Inputs({1: [batch]}), {}).metrics
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

    times = token_times([named("A"), named("B")], [batch_of(), batch_of()], Clock())  # type: ignore[arg-type]
    assert times.shape == (2, tokens.NUM_ROUNDS, 2, 2)
    assert "".join(calls) == "BABA" + ("ABAB" + "BABA") * (tokens.NUM_ROUNDS // 2)


def test_energy_is_missing_with_the_meters_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a sample's energy is missing, a token's is, for the same reason."""
    monkeypatch.setattr(tokens, "stopwatch_for", lambda device: Clock())
    whole = {ENERGY: missing("j", "no NVIDIA GPU")}
    dense = Generating(Counter())
    subject = as_workload(subject_with(Counter()))
    found = measure_generation(subject, dense, Inputs({1: [batch_of()]}), whole).metrics
    assert "no time pass" in str(found["infer/tpot_speedup_b1"].reason)  # this clock stands still
    assert found["infer/energy_j_per_output_token"].reason == "no NVIDIA GPU"
    assert found["infer/cpu_energy_j_per_output_token"].reason == "not measured"
