"""Synthetic records: what a trial of the default experiment leaves behind, in a few words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.records.reading import Found
from bench.records.record import Metric, Record, missing, write_record
from bench.report.tables.rows import tables
from bench.report.tables.table import Table

NO_GPU = "no NVIDIA GPU: the driver does not answer"
HIGHER = {"direction": "higher", "chance": 0.1, "references": {"nearest": 0.71}}
UNITS = {
    **dict.fromkeys(("quality", "dense_quality"), "accuracy %"),
    **dict.fromkeys(("flops_per_sample", "dense_flops_per_sample"), "flop"),
    **dict.fromkeys(("confidence", "dense_confidence"), "1"),
}
Make = Callable[..., Record]
Tree = Callable[..., Path]


def metrics(share: float, speedup: float, quality: float, spread: float) -> dict[str, Metric]:
    """The default point's metrics of a method that executes `share` of 100 MFLOP."""

    def ratio(value: float) -> Metric:
        return Metric(value=value, unit="1", low=value - spread, high=value + spread)

    found = {
        "model/params": Metric(value=812_042, unit="count"),
        "train/time_s": Metric(value=61.5, unit="s"),
        "train/dense_time_s": missing("s", "trained from scratch, not from the dense model"),
        "train/peak_tensor_bytes": Metric(value=150 * 2**20, unit="bytes"),
        "infer/quality": Metric(value=quality, unit="accuracy"),
        "infer/flops_per_sample": Metric(value=100e6 * share, unit="flop"),
        "infer/flops_share": Metric(value=share, unit="1"),
        "infer/declared_flops_per_sample": Metric(value=100e6 * share, unit="flop"),
        "infer/energy_j_per_sample": missing("j", NO_GPU),
    }
    if share != 1.0 or speedup != 1.0:  # dense has no difference to itself
        difference = quality - 0.91
        found["infer/quality_vs_dense"] = Metric(
            value=difference, unit="accuracy", low=difference - 0.004, high=difference + 0.004
        )
    for size, gain in ((1, speedup * 0.9), (64, speedup)):
        found[f"infer/speedup_b{size}"] = ratio(gain)
        found[f"infer/tau_b{size}"] = Metric(value=1 / share, unit="1")
        found[f"infer/realised_b{size}"] = ratio(gain * share)
        found[f"infer/peak_tensor_bytes_b{size}"] = Metric(value=2**20 * size, unit="bytes")
    return found


@pytest.fixture
def make() -> Make:
    """`make("moe", share=0.5, speedup=1.4)`: a valid record of that method."""

    def build(
        method: str = "dense",
        *,
        share: float = 1.0,
        speedup: float = 1.0,
        quality: float = 0.91,
        spread: float = 0.04,
        code: str = "code1",
        started: float = 1000.0,
        changed: dict[str, Any] | None = None,
        labels: dict[str, Any] | None = None,
        quality_label: dict[str, Any] | None = HIGHER,
        **fields: Any,
    ) -> Record:
        where = {
            "experiment": "demo",
            "hardware": "cpu-2x-test",
            "task": "digits",
            "backbone": "transformer",
            "method": method,
            "seed": 0,
            **(labels or {}),
        }
        key = hashlib.sha256(repr((sorted(where.items()), code, started)).encode()).hexdigest()
        identity = {
            "config": {},
            "hardware": where["hardware"],
            "code": {"method": code},
            "versions": {"torch": "2.13.0"},
            "data": "d1f2",
        }
        content: dict[str, Any] = {
            "key": key,
            "status": "ok",
            "labels": where,
            "config": {
                "name": where["experiment"],
                "seed": where["seed"],
                "method": {},
                "task": {"robustness": False},
                "backbone": {"depth": 4},
                "train": {"steps": None},
                "measure": {"profile": "quick", "rounds": 10, "num_inputs": 64},
                "gpu": {"kind": "cpu", "device": None, "precision": "32", "threads": None},
            },
            "environment": {
                "cpu_model": "Test CPU 3000",
                "num_threads": 2,
                "versions": {"torch": "2.13.0", "condbench": "0.1.0", "python": "3.11.7"},
                "git_commit": "0123456789abcdef",
            },
            "provenance": {"identity": identity, "started_unix_s": started},
            "metrics": metrics(share, speedup, quality, spread),
            "quality": quality_label,
            **fields,
        }
        content["metrics"] |= changed or {}
        if content["status"] != "ok":
            content |= {"metrics": {}, "quality": None}
        return Record.model_validate(content)

    return build


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """`tree(record, ...)` writes records where a run would and returns the folder."""

    def write(*records: Record) -> Path:
        for record in records:
            labels = record.labels
            method = f"{labels.method},{labels.variant}" if labels.variant else labels.method
            where = (labels.experiment, labels.hardware, labels.task, labels.backbone, method)
            folder = tmp_path.joinpath(*where, f"seed{labels.seed}-{record.key[:8]}")
            folder.mkdir(parents=True, exist_ok=True)
            write_record(folder, record)
        return tmp_path

    return write


@pytest.fixture
def tabulated() -> Callable[..., list[Table]]:
    """`tabulated(record, ...)`: the tables of these records, without a disk."""

    def run(*records: Record) -> list[Table]:
        return tables(Found(record, Path(f"somewhere/{n}")) for n, record in enumerate(records))

    return run


@pytest.fixture
def harder() -> Callable[..., dict[str, Metric]]:
    """`harder(quality=(...), flops=(...))`: metrics on clean, harder and garbage inputs.

    Two corruptions, one as much above the given values as the other is below; dense loses 1 point
    per severity from 90 and always executes 100 MFLOP.
    """

    def build(
        quality: Sequence[float], flops: Sequence[float], garbage_flops: float = 70e6
    ) -> dict[str, Metric]:
        names = ["clean", *(f"s{severity}" for severity in range(1, 6))]
        found: dict[str, Metric] = {}
        for level, name in enumerate(names):
            values = {
                "quality": quality[level],
                "flops_per_sample": flops[level],
                "confidence": 0.9 - 0.1 * level,
                "dense_quality": 90.0 - level,
                "dense_flops_per_sample": 100e6,
                "dense_confidence": 0.8,
            }
            apart = {"": 0.0} if name == "clean" else {"noise_": 0.02, "blur_": -0.02}
            found |= {
                f"infer/{kind}_{corruption}{name}": Metric(value=value * (1 + by), unit=UNITS[kind])
                for kind, value in values.items()
                for corruption, by in apart.items()
            }
        for who, count in (("", garbage_flops), ("dense_", 100e6)):
            found[f"infer/{who}flops_per_sample_garbage"] = Metric(value=count, unit="flop")
            found[f"infer/{who}confidence_garbage"] = Metric(value=0.3, unit="1")
        return found

    return build


@pytest.fixture
def routing() -> Callable[..., dict[str, Any]]:
    """`routing(collapsed=[...])`: diagnostics of a model with one exit and one layer of experts."""

    def build(**changed: Any) -> dict[str, Any]:
        found: dict[str, Any] = {
            "num_gates": 2,
            "num_samples": 64,
            "gates": [
                {"name": "exit0", "executed_share": 0.25, "entropy": 0.5, "margin": 0.125},
                {
                    "name": "moe.1",
                    "executed_share": 0.5,
                    "load": [0.75, 0.25, 0.0],
                    "imbalance": 2.25,
                    "entropy": 0.75,
                },
            ],
            "dead_branches": [],
            "collapsed": [],
            "exit_histogram": [0.75, 0.25],
            "num_paths": 3,
            "path_entropy": 0.875,
            "compute_difficulty_correlation": None,
            "router_flops_share": 0.0125,
            "router_time_share_b1": 0.25,
            "reasons": {"compute_difficulty_correlation": "every input costs the same"},
            **changed,
        }
        return {"routing": found}

    return build
