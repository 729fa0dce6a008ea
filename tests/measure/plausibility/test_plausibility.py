"""Plausibility gates: what cannot be true is marked with its reason; the rest is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.measure.plausibility import Facts, check
from bench.meters.time.paired import compare
from bench.records.record import Labels, Metric, Record, missing, read_record, write_record

PEAK = 1e11  # FLOP/s
FACTS = Facts(peak_flops=PEAK, parameter_bytes=4_000_000)


def metric(value, unit="1", low=None, high=None):
    return Metric(value=value, unit=unit, low=low, high=high)


def plausible():
    """A method with half the dense model's FLOPs that is 1.5 times as fast."""
    return {
        "model/params": metric(1_000_000, "count"),
        "model/active_params_per_sample": metric(600_000, "count"),
        "infer/quality": metric(-1.5, "nat"),
        "infer/flops_per_sample": metric(1.0e6, "flop"),
        "infer/flops_per_sample_p50": metric(0.9e6, "flop"),
        "infer/flops_per_sample_p90": metric(1.5e6, "flop"),
        "infer/flops_per_sample_max": metric(2.0e6, "flop"),
        "infer/flops_backbone": metric(0.9e6, "flop"),
        "infer/flops_router": metric(0.1e6, "flop"),
        "infer/flops_share": metric(0.5),
        "infer/flops_per_sample_b1": metric(1.0e6, "flop"),
        "infer/flops_per_sample_b64": metric(1.0e6, "flop"),
        "infer/tau_b1": metric(2.0),
        "infer/tau_b64": metric(2.0),
        "infer/throughput_b64": metric(50_000, "samples/s"),  # 5e10 FLOP/s, dense 6.7e10
        "infer/speedup_b64": metric(1.5, low=1.4, high=1.6),
        "infer/realised_b64": metric(0.75, low=0.7, high=0.8),
        "infer/saving_realised_b64": metric(2 / 3),
        "infer/latency_ms_p50": metric(0.5, "ms"),
        "infer/noise_floor": metric(0.01),
        "infer/time_share_router_b1": metric(0.2),
        "infer/time_share_expert_b1": metric(0.5),
        "infer/peak_tensor_bytes_b64": metric(5_000_000, "bytes"),
        "infer/peak_rss_bytes": missing("bytes", "not requested"),
        "train/peak_tensor_bytes": metric(20, "bytes"),
        "train/params_bytes": metric(4, "bytes"),
        "train/buffers_bytes": metric(0, "bytes"),
        "train/grads_bytes": metric(4, "bytes"),
        "train/optimizer_bytes": metric(8, "bytes"),
        "train/activation_bytes": metric(4, "bytes"),
        "train/flops_per_step": metric(1e9, "flop"),
        "train/num_steps": metric(1000, "count"),
        "train/time_s": metric(20.0, "s"),
    }


def invalid(metrics, facts=FACTS):
    """Keys that the gates mark, with their reasons."""
    return {key: found.reason for key, found in check(metrics, facts).items() if not found.valid}


SMALL = Facts(peak_flops=PEAK, parameter_bytes=10)  # of the five training parts above


def test_a_plausible_record_passes_unchanged():
    """Also with a negative quality, a metric that is missing, and no facts at all."""
    for facts in (SMALL, Facts()):
        assert check(plausible(), facts) == plausible()


def test_the_given_metrics_stay_as_they_are():
    """A pure function: the marked copy keeps the number."""
    before = plausible() | {"infer/latency_ms_p50": metric(-1.0, "ms")}
    after = check(before, SMALL)
    assert before["infer/latency_ms_p50"].valid
    assert after["infer/latency_ms_p50"].value == -1.0
    assert after["infer/latency_ms_p50"].shown is None
    assert after["infer/latency_ms_p50"].reason.startswith("withheld: a negative")


REST_ON_B64 = {f"infer/{n}_b64" for n in ("throughput", "speedup", "realised", "saving_realised")}


@pytest.mark.parametrize(
    ("changes", "marked", "words"),
    [
        # 1e6 FLOPs x 2e5 samples/s = 2e11 FLOP/s
        ({"infer/throughput_b64": metric(2e5, "samples/s")}, REST_ON_B64, "synchronisation"),
        # dense: 5e10 x tau 2 / speed-up 0.9 = 1.1e11 FLOP/s although the method itself is slower
        (
            {"infer/speedup_b64": metric(0.9), "infer/realised_b64": metric(0.45)},
            REST_ON_B64,
            "1.11e+11 FLOP/s",
        ),
        # 0.9e6 FLOPs in 1 us
        ({"infer/latency_ms_p50": metric(1e-3, "ms")}, {"infer/latency_ms_p50"}, "9e+11 FLOP/s"),
        # 1e9 FLOPs x 1000 steps in 1 s
        ({"train/time_s": metric(1.0, "s")}, {"train/time_s"}, "1e+12 FLOP/s"),
        (
            {"infer/peak_tensor_bytes_b64": metric(9, "bytes")},
            {"infer/peak_tensor_bytes_b64"},
            "below the model's own 10 bytes",
        ),
        ({"infer/peak_rss_bytes": metric(9, "bytes")}, {"infer/peak_rss_bytes"}, "below"),
        (
            {"train/activation_bytes": metric(5, "bytes")},
            {
                f"train/{part}_bytes"
                for part in ("peak_tensor", "params", "buffers", "grads", "optimizer", "activation")
            },
            "parts sum to 21 bytes, the peak is 20",
        ),
        # gradients counted twice: the rest would be negative, and the sum is still the peak
        (
            {
                "train/grads_bytes": metric(9, "bytes"),
                "train/activation_bytes": metric(-1, "bytes"),
            },
            {"train/activation_bytes", "train/peak_tensor_bytes"},
            "",
        ),
        # 200 MB of tensors in a process of 100 MB: one of the two meters is wrong
        (
            {
                "infer/peak_tensor_bytes_b64": metric(200_000_000, "bytes"),
                "infer/peak_rss_bytes": metric(100_000_000, "bytes"),
            },
            {"infer/peak_tensor_bytes_b64", "infer/peak_rss_bytes"},
            "do not fit into 100000000 resident",
        ),
        (
            {"infer/time_share_router_b1": metric(0.6)},
            {"infer/time_share_router_b1", "infer/time_share_expert_b1"},
            "cannot sum to 1.1",
        ),
        (
            {"infer/flops_router": metric(0.2e6, "flop")},
            {"infer/flops_router", "infer/flops_backbone"},
            "regions sum to 1.1e+06",
        ),
        (
            {"infer/flops_per_sample_p90": metric(0.8e6, "flop")},
            {"infer/flops_per_sample_p50", "infer/flops_per_sample_p90"},
            "is above",
        ),
        (
            {"infer/flops_per_sample_max": metric(0.95e6, "flop")},
            {f"infer/flops_per_sample{s}" for s in ("", "_p90", "_max")},
            "above",
        ),
        ({"infer/realised_b64": metric(0.8)}, {"infer/realised_b64"}, "is not speed-up"),
        (
            {"infer/flops_share": metric(0.6)},
            {"infer/flops_share", "infer/tau_b1"},
            "contradict each other",
        ),
        (
            {"model/active_params_per_sample": metric(1_000_001, "count")},
            {"model/active_params_per_sample"},
            "more parameters active",
        ),
        (
            {"infer/speedup_b64": metric(1.5, low=1.52, high=1.6)},
            {"infer/speedup_b64"},
            "outside its own interval",
        ),
        (
            {"infer/energy_j_per_sample": metric(0.0, "j")},
            {"infer/energy_j_per_sample"},
            "measured no",
        ),
        ({"infer/energy_j_per_sample": metric(-1.0, "j")}, {"infer/energy_j_per_sample"}, "negat"),
    ],
)
def test_each_gate_marks_what_it_doubts_and_nothing_else(changes, marked, words):
    """One number is changed; the named metrics become invalid, with the reason."""
    found = invalid(plausible() | changes, SMALL)
    invalid_before = {"infer/peak_rss_bytes"} - set(changes)  # missing from the start
    assert set(found) - invalid_before == marked
    assert all(words in found[key] for key in marked)


def test_gates_without_facts_are_skipped():
    """No measured peak and unknown parameters doubt nothing."""
    fast = plausible() | {"infer/throughput_b64": metric(1e9, "samples/s")}
    assert set(invalid(fast, Facts())) == {"infer/peak_rss_bytes"}


def test_work_that_only_the_profiler_saw_voids_every_flop_figure():
    """FLOPs and the ratios made of them: the count is too low by an unknown amount."""
    found = invalid(plausible(), Facts(unseen_flops=10))
    of_flops = {key for key in plausible() if key.startswith(("infer/flops", "infer/tau"))}
    assert len(of_flops) == 11
    assert of_flops <= {*found}
    assert {"infer/realised_b64", "infer/saving_realised_b64"} <= {*found}
    assert not {"infer/speedup_b64", "infer/throughput_b64", "train/flops_per_step"} & {*found}
    assert "profiler saw 10 FLOPs more" in found["infer/tau_b64"]


def test_products_by_multiplication_and_sum_void_every_flop_figure():
    """Beyond 4 x dense's 1e5 elements, 2 FLOPs each may be 5 % of the dense FLOPs, not more."""
    shown = plausible()
    dense = shown["infer/flops_per_sample"].value / shown["infer/flops_share"].value
    most = 4e5 + 0.05 * dense / 2
    for elems, count in ((most - 1, 0), (most + 1, 11)):
        metrics = shown | {"infer/pointwise_elems": metric(elems)}
        found = invalid(metrics, Facts(dense_elems=1e5))
        voided = [key for key in found if key.startswith(("infer/flops", "infer/tau"))]
        assert len(voided) == count
    assert "products by multiplication and sum" in found["infer/flops_share"]


def test_kernels_that_nobody_counted_void_every_flop_figure():
    """A bare launch on a GPU: its work is in no count."""
    found = invalid(plausible(), Facts(untracked_kernels=("my_triton_kernel",)))
    assert "no torch operation launched: my_triton_kernel" in found["infer/flops_per_sample"]
    assert "infer/speedup_b64" not in found


def test_a_metric_that_is_already_invalid_doubts_no_other():
    """An incomplete FLOP count makes no time invalid, and keeps its own reason."""
    flops = Metric(value=1e12, unit="flop", valid=False, reason="operations without a formula")
    found = invalid(plausible() | {"infer/flops_per_sample_b64": flops}, SMALL)
    assert found["infer/flops_per_sample_b64"] == "operations without a formula"
    assert "infer/throughput_b64" not in found


def test_noise_is_no_implausible_number():
    """A floor of 26 % is a fact about the session, and every reader must see it."""
    assert "infer/noise_floor" not in invalid(plausible() | {"infer/noise_floor": metric(0.26)})


@pytest.mark.parametrize("name", ["speedup_b1", "ttft_speedup_b1", "tpot_speedup_b64"])
@pytest.mark.parametrize(
    ("low", "high", "good"),
    [(0.97, 1.02, True), (1.005, 1.03, True), (1.02, 1.05, False), (0.90, 0.98, False)],
)
def test_a_control_must_come_out_equal(low, high, good, name):
    """An A/A interval that lies more than 1 % away from 1 shows a biased comparison."""
    control = {f"infer/{name}": metric((low + high) / 2, low=low, high=high)}
    facts = Facts(is_control=True)
    assert (f"infer/{name}" not in invalid(control, facts)) is good
    assert invalid(control, Facts()) == {}


def test_a_training_free_method_may_take_no_time():
    """0 s of training are true; 0 ms of inference are not."""
    free = {"train/time_s": metric(0.0, "s"), "train/buffers_bytes": metric(0, "bytes")}
    assert invalid(free) == {}
    assert invalid({"infer/latency_ms_p50": metric(0.0, "ms")})


class Queue:
    """A device that only takes orders: calls return at once, the work is done elsewhere."""

    def now_s(self):
        self.now = getattr(self, "now", 0.0) + 1e-4
        return self.now

    def measure(self, work):
        from bench.meters.time.stopwatch import Elapsed

        work()
        return Elapsed(1e-4)  # of launching, never of computing


def test_a_missing_synchronisation_is_caught():
    """A model of 1 GFLOP per sample that "takes" 0.1 ms a block beats the machine 100 times."""
    batches = [[1, 2]]
    timing = compare(len, len, batches, rounds=6, warmup_s=0.0, block_ms=0.05, stopwatch=Queue())
    metrics = {
        "infer/throughput_b2": metric(timing.candidate_samples_per_s, "samples/s"),
        "infer/flops_per_sample_b2": metric(1e9, "flop"),
        "infer/speedup_b2": metric(timing.ratio),
    }
    found = invalid(metrics)
    assert set(found) == {"infer/throughput_b2", "infer/speedup_b2"}
    assert "missing synchronisation" in found["infer/speedup_b2"]


def test_a_record_keeps_the_marked_number_and_its_reason(tmp_path):
    """Written with valid false and the reason, read back the same, shown by no table."""
    metrics = check(plausible() | {"infer/latency_ms_p50": metric(1e-3, "ms")}, SMALL)
    labels = Labels(
        experiment="x", hardware="cpu", task="t", backbone="b", method="m", seed=0, device="cpu"
    )
    record = Record(key="k", status="ok", labels=labels, config={}, metrics=metrics)
    back = read_record(write_record(tmp_path, record)).metrics["infer/latency_ms_p50"]
    assert (back.value, back.valid, back.shown) == (1e-3, False, None)
    assert "FLOP/s" in back.reason


numbers = st.one_of(st.none(), st.floats(-1e12, 1e12), st.integers(-10, 10))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.dictionaries(st.sampled_from(sorted(plausible())), numbers, max_size=20))
def test_no_combination_of_numbers_breaks_the_gates(values):
    """Whatever was measured, every metric comes back, and a marked one has a reason."""
    units = {key: found.unit for key, found in plausible().items()}
    metrics = {
        key: missing(units[key], "lost") if value is None else metric(value, units[key])
        for key, value in values.items()
    }
    checked = check(metrics, FACTS)
    assert checked.keys() == metrics.keys()
    assert all(found.valid or found.reason for found in checked.values())
    assert check(checked, FACTS) == checked
