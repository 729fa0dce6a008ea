"""Latency at batch 1 on a simulated clock: exact percentiles over inputs."""

from __future__ import annotations

import numpy as np
import pytest

from bench.meters.guard import MeterStateError
from bench.meters.time.latency import time_each_input


def bimodal(clock, slow_share=0.3):
    """A model that takes 10 ms, and 40 ms for `slow_share` of the inputs."""

    def run(batch):
        clock.advance(0.040 if batch[0] % 10 < 10 * slow_share else 0.010)

    return run


def inputs(num):
    return [[number] for number in range(num)]


def test_percentiles_of_a_bimodal_model_are_its_two_latencies(clock):
    """10 ms for 70 %, 40 ms for 30 % of 1000 inputs: mean 19 ms, p50 10 ms, p90 and p99 40 ms."""
    found = time_each_input(bimodal(clock), inputs(1000), stopwatch=clock)
    assert found.mean_ms == pytest.approx(19.0, rel=0.01)
    for percent, expected in ((50, 10.0), (70, 10.0), (70.1, 40.0), (90, 40.0), (99, 40.0)):
        assert found.percentile(percent).value == pytest.approx(expected)


def test_an_inputs_latency_is_the_median_of_its_repeats(clock):
    """One slow repeat of five does not change an input's latency."""
    calls = []

    def run(batch):
        calls.append(batch[0])
        hiccup = len(calls) == 20 + 20 + 3  # third input, second repeat
        clock.advance(1.0 if hiccup else 0.001 * (batch[0] + 1))

    found = time_each_input(run, inputs(20), stopwatch=clock)
    assert found.per_input_ms == pytest.approx(np.arange(1, 21))
    assert calls == list(range(20)) * 6  # a dry pass, then five: never one input twice in a row


def test_percentiles_without_enough_inputs_are_missing(clock):
    """64 inputs give a p50 with its interval; p90 and p99 are None with a reason."""
    found = time_each_input(bimodal(clock), inputs(64), stopwatch=clock)
    assert found.percentile(50).low is not None
    assert found.percentile(90).value is None
    assert "needs 100 inputs" in found.percentile(90).reason
    assert "needs 1000 inputs" in found.percentile(99).reason


@pytest.mark.parametrize("wrong", [[], [[1, 2]], [[1], [2, 3]]])
def test_latency_is_of_single_inputs(clock, wrong):
    """No inputs, or batches of several samples, are an error."""
    with pytest.raises(ValueError, match="batch size 1"):
        time_each_input(bimodal(clock), wrong, stopwatch=clock)


def test_a_median_needs_five_repeats(clock):
    """With fewer, one disturbance can move an input's latency."""
    with pytest.raises(ValueError, match="at least 5"):
        time_each_input(bimodal(clock), inputs(3), repeats=4, stopwatch=clock)


def test_it_refuses_under_a_dispatch_mode(clock):
    """As every timer does."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False), pytest.raises(MeterStateError, match="latency"):
        time_each_input(bimodal(clock), inputs(3), stopwatch=clock)
