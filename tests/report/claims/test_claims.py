"""Claims of hand-made records: every answer is worked out in a comment."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from bench.records.record import UPPER_BOUND, Metric, Record, missing
from bench.report.claims.findings import Answers, answers, overall, summary
from bench.report.claims.outcome import Outcome

Ask = Callable[..., Outcome]
MIB = 2**20


def count(value: float, unit: str = "count") -> Metric:
    return Metric(value=value, unit=unit)


def bounded(value: float, half: float, unit: str = "1") -> Metric:
    return Metric(value=value, unit=unit, low=value - half, high=value + half)


def batched(share: float) -> dict[str, Metric]:
    """Executed FLOPs of 100 M in batches of 1 and 64."""
    return {f"infer/flops_per_sample_b{b}": count(100e6 * share, "flop") for b in (1, 64)}


@pytest.fixture
def found(tabulated: Any) -> Callable[..., Answers]:
    """`found(record, ...)`: the answers of the one table of these records."""

    def build(*records: Record) -> Answers:
        (made,) = answers(tabulated(*records))
        return made

    return build


def outcome(found: Answers, claim: str, batch: int | None = None, method: str = "moe") -> Outcome:
    (one,) = [
        each.outcome
        for each in found.findings
        if (each.claim.key, each.batch_size, each.row.method_name) == (claim, batch, method)
    ]
    return one


def test_compute_and_time_are_asked_at_every_batch_size(make: Any, found: Any) -> None:
    """Half the FLOPs are 2x; 1.8x at batch 64, 1.8 * 0.9 = 1.62x at batch 1; quality +-0.004."""
    made = found(
        make(changed=batched(1.0)), make("moe", share=0.5, speedup=1.8, changed=batched(0.5))
    )
    less = outcome(made, "less_compute", 64)
    assert (less.answer, less.unit) == ("yes", "x")
    assert [less.value, less.low, less.high] == pytest.approx([2.0, 2.0, 2.0])
    assert [outcome(made, "faster", b).text for b in (1, 64)] == ["1.62x", "1.80x"]
    assert [outcome(made, "faster_30", b).answer for b in (1, 64)] == ["yes", "yes"]
    # 1.4 * 0.9 = 1.26 +- 0.04 at batch 1: 1.30 / 1.3 = 1.0 is below the margin of 1.02.
    slower = found(make(), make("moe", share=0.5, speedup=1.4))
    assert [outcome(slower, "faster_30", b).answer for b in (1, 64)] == ["no", "yes"]
    # A count that no record has is no answer.
    assert outcome(slower, "less_compute", 64).answer == "not measured"
    assert outcome(slower, "less_compute", 64).note == "not in the record"


def test_counts_of_several_seeds_have_an_interval(make: Any, found: Any) -> None:
    """Ratios 2 and 2.5: logs 0.693 and 0.916, mean 0.805, half 12.706 * 0.1116 = 1.418."""
    records = [make(changed=batched(1.0), labels={"seed": s}) for s in (0, 1)]
    records += [
        make("moe", share=share, speedup=1.8, changed=batched(share), labels={"seed": s})
        for s, share in ((0, 0.5), (1, 0.4))
    ]
    one = outcome(found(*records), "less_compute", 64)
    assert one.value == pytest.approx(math.sqrt(5))
    assert one.low == pytest.approx(math.exp(0.8047 - 1.4177), rel=1e-3)
    assert one.answer == "undecided"


def test_memory_of_inference_and_training(make: Any, found: Any) -> None:
    """64 MiB of dense over 32 are 2x; 150 over 160 are 0.94x."""
    changed = {
        "infer/peak_tensor_bytes_b64": count(32 * MIB, "bytes"),
        "train/peak_tensor_bytes": count(160 * MIB, "bytes"),
    }
    made = found(make(), make("moe", share=0.5, speedup=1.8, changed=changed))
    assert (outcome(made, "less_memory", 64).answer, outcome(made, "less_memory", 64).text) == (
        "yes",
        "2.00x",
    )
    training = outcome(made, "less_training_memory")
    assert (training.answer, training.text, training.interval) == ("no", "0.938x", "exact")


def test_the_deadline_is_the_p99_of_dense(make: Any, found: Any) -> None:
    """10 ms [9, 11] over 5 ms [4, 6]: 2x, at worst 9 / 6 = 1.5, at best 11 / 4 = 2.75."""
    key = "infer/latency_ms_p99"
    dense = make(changed={key: bounded(10.0, 1.0, "ms")})
    moe = make("moe", share=0.5, speedup=1.8, changed={key: bounded(5.0, 1.0, "ms")})
    one = outcome(found(dense, moe), "real_time", 1)
    assert (one.answer, one.value, one.low, one.high) == ("yes", 2.0, 1.5, 2.75)
    assert one.note == "deadline 10.0 ms, own p99 5.00 ms"
    few = {key: missing("ms", "p99 needs 1000 inputs, 64 were measured")}
    none = outcome(found(dense, make("moe", speedup=1.8, changed=few)), "real_time", 1)
    assert (none.answer, none.note) == ("not measured", few[key].reason)


def test_energy_of_a_gpu_a_module_or_a_processor(make: Any, found: Any) -> None:
    """A paired ratio where there is one; else 2 J [1.9, 2.1] over 1 J [0.9, 1.1] of packages."""
    ratio = {"infer/energy_ratio": bounded(1.5, 0.1)}
    made = found(make(), make("moe", share=0.5, speedup=1.8, changed=ratio))
    assert outcome(made, "less_energy", 64).text == "1.50x"
    key = "infer/cpu_energy_j_per_sample"
    dense = make(changed={key: bounded(2.0, 0.1, "j")})
    cpu = {key: bounded(1.0, 0.1, "j"), "infer/energy_ratio": missing("1", "no GPU")}
    one = outcome(found(dense, make("moe", speedup=1.8, changed=cpu)), "less_energy", 64)
    # 1.9 / 1.1 = 1.727, 2.1 / 0.9 = 2.333.
    assert (one.answer, one.interval) == ("yes", "[1.73, 2.33]")
    none = {"infer/energy_ratio": missing("1", "no GPU"), key: missing("j", "no RAPL")}
    gone = outcome(found(dense, make("moe", speedup=1.8, changed=none)), "less_energy", 64)
    # The reason for the missing joules of the GPU, then that of the packages.
    assert gone.note == "no NVIDIA GPU: the driver does not answer; no RAPL"
    assert gone.answer == "not measured"


def test_other_points_are_named_and_change_nothing(make: Any, found: Any) -> None:
    """The chosen point is slower; another one is 1.8x as fast, picked by test data."""
    fast = make("moe", share=0.5, speedup=1.8).metrics
    slow = make("moe", share=0.5, speedup=0.8)
    points = [
        {"settings": {"k": 2}, "metrics": slow.metrics},
        {"settings": {"k": 1}, "metrics": fast},
    ]
    record = slow.model_copy(update={"points": make("x", points=points).points})
    one = outcome(found(make(), record), "faster", 64)
    assert (one.answer, one.text) == ("no", "0.800x")
    assert one.note == "yes at k 1, which only the test data would choose"


def test_robustness_needs_seeds(make: Any, found: Any, harder: Any) -> None:
    """Dense loses 3 of 90 on average, the method 1.5, 1.8 and 2.1 of 80: 1.2 +- 0.75 are kept."""
    records = [make(labels={"seed": seed}) for seed in range(3)]
    for seed, step in enumerate((0.5, 0.6, 0.7)):
        quality = [80.0 - step * level for level in range(6)]  # loses 3 * step on average
        changed = harder(quality, (50e6,) * 6, garbage_flops=70e6)
        records.append(make("moe", share=0.5, changed=changed, labels={"seed": seed}))
    made = found(*records)
    one = outcome(made, "robust")
    # 4.303 * 0.3 / sqrt(3) = 0.745
    assert one.value == pytest.approx(1.2)
    assert one.high == pytest.approx(1.2 + 0.745, abs=1e-3)
    assert one.answer == "yes"
    single = outcome(found(records[0], records[3]), "robust")
    assert (single.answer, single.note) == ("undecided", "a single seed supports no claim")
    # 70 of 100 MFLOP on garbage, 50 on clean samples.
    cheap = outcome(made, "anomalous")
    assert (cheap.answer, cheap.text) == ("yes", "70.0 %")
    assert cheap.note == "FLOPs, % of dense: garbage 70 %, clean 50 %"
    dear = harder((80.0,) * 6, (50e6,) * 6, garbage_flops=99.5e6)  # less than 1 % below dense
    assert outcome(found(make(), make("moe", changed=dear)), "anomalous").answer == "no"


def shrunk(make: Any, share: float, speedup: float, **fields: Any) -> Record:
    record = make("small", share=share, speedup=speedup, **fields)
    record.provenance["entry_points"] = {"method": "methods.controls.shrunk_dense:ShrunkDense"}
    return record  # type: ignore[no-any-return]


def test_three_dense_baselines(make: Any, found: Any) -> None:
    """Parameters: dense itself. FLOPs 50 % of 48 %: the small model, as for quality.

    1.8 / 1.6 = 1.125. In logarithms the lower halves are ln(1.8 / 1.76) = 0.0225 and
    ln(1.64 / 1.6) = 0.0247, together 0.0334: 1.125 * exp(-0.0334) = 1.088.
    """
    small = shrunk(make, 0.48, 1.6, changed={"model/params": count(400_000)})
    made = found(make(), small, make("moe", share=0.5, speedup=1.8))
    whole = outcome(made, "beats_equal_params", 64)
    assert (whole.answer, whole.text, whole.baseline) == ("yes", "1.80x", "dense")
    same = outcome(made, "beats_equal_quality", 64)
    assert (same.answer, same.baseline) == ("yes", "small")
    assert same.value == pytest.approx(1.125)
    assert same.low == pytest.approx(1.088, abs=1e-3)
    assert same.note == "against small, 48.0 % of its FLOPs"
    # Both differences to dense are known to 0.004, that of both to 0.008; one-sided 0.0067,
    # below the tolerance of 1 % of 0.91.
    assert outcome(made, "beats_equal_flops", 64).answer == "yes"


def test_no_baseline_of_that_size(make: Any, found: Any) -> None:
    """Dense has 812,042 parameters, 81 % of a million: further than 10 %."""
    moe = make("moe", share=0.5, speedup=1.8, changed={"model/params": count(1_000_000)})
    one = outcome(found(make(), moe), "beats_equal_params", 64)
    assert one.answer == "not measured"
    assert one.note == "no dense model within 10%: dense has 81% of its parameters"


def test_a_smaller_dense_model_is_a_baseline(make: Any, found: Any) -> None:
    """It is asked what it gains and what its training costs, and compared with no baseline."""
    made = found(make(), shrunk(make, 0.5, 1.8))
    keys = {each.claim.key for each in made.findings}
    assert {"faster", "more_training", "unstable"} <= keys
    assert not keys & {"beats_equal_flops", "routing_time", "beats_random", "not_compiled"}
    assert "Smaller dense models that are faster at equal quality: small (batch 1, 64)." in summary(
        made
    )


def test_the_share_of_routing(make: Any, found: Any) -> None:
    """Router 6 + dispatch 3 + combine 2 = 11 % of the time; 2 of 50 MFLOP are 4 %."""
    shares = {"router": 0.06, "dispatch": 0.03, "combine": 0.02, "expert": 0.5}
    changed = {f"infer/time_share_{name}_b64": count(x, "1") for name, x in shares.items()}
    changed["infer/flops_router"] = count(2e6, "flop")
    made = found(make(), make("moe", share=0.5, speedup=1.8, changed=changed))
    one = outcome(made, "routing_time", 64)
    assert (one.answer, one.text) == ("yes", "11.0 %")
    assert one.note == "router 6 %, dispatch 3 %, combine 2 %"
    assert (outcome(made, "routing_flops").answer, outcome(made, "routing_flops").text) == (
        "no",
        "4.00 %",
    )
    assert outcome(made, "routing_time", 1).answer == "not measured"


def trained(flops: float, steps: int, after: float | None = None) -> dict[str, Metric]:
    found = {"train/flops_per_step": count(flops, "flop"), "train/num_steps": count(steps)}
    return found | ({"train/dense_time_s": count(after, "s")} if after is not None else {})


def test_training_includes_that_of_dense(make: Any, found: Any) -> None:
    """100 steps of 1 GFLOP; 50 more of 1.2 GFLOP after them are 1.6x, alone 0.6x."""
    dense = make(changed=trained(1e9, 100))
    after = make("moe", share=0.5, speedup=1.8, changed=trained(1.2e9, 50, 61.5))
    one = outcome(found(dense, after), "more_training")
    assert (one.answer, one.text) == ("yes", "1.60x")
    assert one.note == "61.5 s after 61.5 s of dense; dense 61.5 s"
    alone = make("moe", share=0.5, speedup=1.8, changed=trained(1.2e9, 50))
    assert outcome(found(dense, alone), "more_training").text == "0.600x"
    free = make("moe", share=0.5, speedup=1.8, changed={**trained(1.0, 0, 61.5)})
    assert outcome(found(dense, free), "more_training").answer == "no"


def test_a_recorded_total_contains_the_start(make: Any, found: Any) -> None:
    """A total of 90 GFLOP, whatever its start was; dense took 100 steps of 1 GFLOP."""
    dense = make(changed=trained(1e9, 100))
    total = {**trained(1.2e9, 50, 61.5), "train/flops": count(9e10, "flop")}
    bounded = make("moe", share=0.5, speedup=1.8, changed=total)
    assert outcome(found(dense, bounded), "more_training").text == "0.900x"


def test_spread_over_seeds(make: Any, found: Any) -> None:
    """Sd 0.03 against 0.01 over 3 seeds is 3x; F(2, 2) has quantiles 39 and 1 / 39."""
    records = [make(quality=0.9 + 0.01 * s, labels={"seed": s}) for s in range(3)]
    records += [
        make("moe", share=0.5, quality=0.9 + 0.03 * s, labels={"seed": s}) for s in range(3)
    ]
    one = outcome(found(*records), "unstable")
    assert one.value == pytest.approx(3.0)
    assert one.low == pytest.approx(3 / math.sqrt(39))
    assert one.high == pytest.approx(3 * math.sqrt(39))
    assert one.answer == "undecided"
    assert outcome(found(records[0], records[3]), "unstable").answer == "not measured"


def test_routing_errors_and_random_decisions(make: Any, found: Any) -> None:
    """Oracle 0.95 - 0.92 = 0.03, random 0.92 - 0.90 = 0.02: known to 0.004 + 0.004 each."""

    def control(name: str, quality: float, **fields: Any) -> Record:
        made = make(name, share=0.5, speedup=1.8, quality=quality, **fields)
        return made.model_copy(update={"config": {**made.config, "method": {"of": "moe"}}})  # type: ignore[no-any-return]

    made = found(
        make(),
        make("moe", share=0.5, speedup=1.8, quality=0.92),
        control("oracle_moe", 0.95, notes=[UPPER_BOUND]),
        control("random_skip", 0.90),
    )
    errors, random = outcome(made, "routing_errors"), outcome(made, "beats_random")
    assert [each.answer for each in (errors, random)] == ["yes", "yes"]
    assert [each.value for each in (errors, random)] == [pytest.approx(0.03), pytest.approx(0.02)]
    assert errors.low == pytest.approx(0.022)
    assert (
        random.note
        == "random_skip at 50.0 % of dense's FLOPs, the method at 50.0 % of dense's FLOPs"
    )
    # Controls are what a method is compared with: nothing is asked about them.
    assert {each.row.method for each in made.findings} == {"moe"}


@pytest.mark.parametrize(
    ("deployed", "profile", "answers", "note"),
    [
        ({}, "quick", ("not measured", "not measured"), "not in the record"),
        (
            {"compile": None, "compile_reason": "left out", "export": None, "export_reason": "x"},
            "quick",
            ("not measured", "not measured"),
            "left out",
        ),
        (
            {
                "compile": {"num_graphs": 3, "num_graph_breaks": 2, "break_reasons": ["nonzero"]},
                "export": None,
                "export_reason": "GuardOnDataDependent: nonzero",
            },
            "standard",
            ("yes", "yes"),
            "nonzero",
        ),
        (
            {"compile": {"num_graphs": 1, "num_graph_breaks": 0}, "export": {"batch_size": 64}},
            "standard",
            ("no", "no"),
            "",
        ),
    ],
)
def test_what_compilers_refuse(
    make: Any, found: Any, deployed: Any, profile: str, answers: tuple[str, str], note: str
) -> None:
    """Left out is not refused; two graph breaks are a refusal with their reason."""
    records = [
        make(name, speedup=gain, diagnostics={"deployability": deployed})
        for name, gain in (("dense", 1.0), ("moe", 1.8))
    ]
    for record in records:
        record.config["measure"]["profile"] = profile
    made = found(*records)
    both = outcome(made, "not_compiled"), outcome(made, "not_exported")
    assert tuple(each.answer for each in both) == answers
    assert both[0].note == note


def test_the_summary_says_where_it_pays(make: Any, found: Any) -> None:
    """moe pays in batches alone, topk loses quality, early has no interval of its quality."""
    unknown = {"infer/quality_vs_dense": missing("accuracy", "no samples")}
    noise = {"infer/noise_floor_b1": count(0.1, "1")}  # 1.08 * 0.9 = 0.97 is within it
    made = found(
        make(changed=batched(1.0)),
        make("moe", share=0.5, speedup=1.08, changed=noise | batched(0.5)),
        make("topk", share=0.5, speedup=1.8, quality=0.8),
        make("early", share=0.5, speedup=1.8, changed=unknown),
    )
    lines = summary(made)
    assert lines[0] == "Faster than dense at equal quality: moe (batch 64)."
    assert "By 30 % or more: none." in lines
    assert "Not faster, or at a loss of quality: topk (batch 1, 64)." in lines
    expected = (
        "Undecided (no difference in quality to dense with an interval): early (batch 1, 64)."
    )
    assert expected in lines
    assert any(line.startswith("Undecided (timing noise") for line in lines)
    assert any("less energy (not in the record)" in line or "no NVIDIA" in line for line in lines)
    # Slower than dense by as much as identical models differ is not "without a gain".
    assert not any(line.startswith("Fewer FLOPs") for line in lines)
    # 3 methods x 2 sizes; early twice and moe at batch 1 are undecided.
    assert "faster than dense at equal quality: 1 of 6, 3 undecided" in overall([made])


def test_dense_alone_is_asked_nothing(make: Any, tabulated: Any) -> None:
    """Nothing in it is conditional."""
    assert answers(tabulated(make())) == []
