"""The table of the dense model's quality on every bundled task."""

from __future__ import annotations

from bench.records.record import Labels, Metric, QualityLabel, Record
from tests.studies import bundled


def record(seed: int, quality: float, seconds: float) -> Record:
    values = {
        "infer/quality": (quality, "accuracy %"),
        "train/time_s": (seconds, "s"),
        "train/num_steps": (500, "count"),
        "model/params": (501_600, "count"),
    }
    labels = Labels(
        experiment="bundled",
        hardware="cpu",
        task="digits",
        backbone="transformer_small",
        method="dense",
        seed=seed,
    )
    return Record(
        key="k",
        status="ok",
        labels=labels,
        config={},
        metrics={name: Metric(value=value, unit=unit) for name, (value, unit) in values.items()},
        quality=QualityLabel(direction="higher", chance=10.0, references={"majority": 9.05}),
    )


def test_seeds_are_sorted_and_seconds_are_a_range() -> None:
    """Seeds 1 and 0 took 36.6 and 35.2 s: "35 to 37", scores by seed."""
    assert bundled.row("digits", [record(1, 91.75, 36.6), record(0, 92.45, 35.2)]) == (
        "| `digits` | 502 K | 500 | 35 to 37 | 0, 1: 92.45, 91.75 accuracy % | 10.00 "
        "| majority 9.05 |"
    )
