"""Whole trials beyond the quickstart: generating, translating, hard inputs, two tasks, speech."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.plan.matrix import make_plan
from bench.plan.staleness import write_trials
from bench.records.record import RECORD_NAME, Record, read_record
from bench.trial import run as trial

BRIEF = (
    *(
        "train.steps=2",
        "train.batch_size=8",
        "measure.processes=1",
        "measure.rounds=3",
        "measure.num_inputs=8",
    ),
    *("measure.batch_sizes=[1,4]", "measure.warmup_s=0.01", "measure.block_ms=1"),
    *("backbone.dim=16", "backbone.depth=2", "backbone.num_heads=2", "gpu.threads=1"),
    *("wandb.mode=disabled", "name=brief"),
)
# Locks of its own: a benchmark that runs on this machine must not hold up a test, nor be disturbed.
PROGRAM = """
import sys
from pathlib import Path
from bench import cli
from bench.launch import devices
devices.lock_folder = lambda: Path.cwd()
sys.exit(cli.main(sys.argv[1:]))
"""
Run = Callable[..., dict[str, Record]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`condbench run` with tiny settings in a folder of its own; the records by method."""

    def records(*words: str) -> dict[str, Record]:
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM, "run", *words, *BRIEF],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        found = [read_record(path) for path in tmp_path.rglob(RECORD_NAME)]
        return {record.labels.method: record for record in found}

    return records


@pytest.fixture
def by_hand(tmp_path: Path) -> Run:
    """The same for the named methods, in this process: no command, queue or fork server starts."""

    def records(methods: str, *words: str) -> dict[str, Record]:
        plan = make_plan([f"method={methods}", *words, *BRIEF, f"results={tmp_path}"])
        # A plan has the dense trial too. Where that is not named, a trial trains its own.
        named = [each for each in plan.trials if each.labels.method in methods.split(",")]
        found = [trial.run(folder) for folder in write_trials(named)]
        return {record.labels.method: record for record in found}

    return records


@pytest.mark.usefixtures("without_resident_child")
def test_a_trial_generates(by_hand: Run) -> None:
    """Records of generations: 8 tokens after 8, usual columns for all of it, more per token."""
    methods = "dense,moe,expert_choice,random_skip"
    found = by_hand(methods, "task=text", "task.length=16", "workload=generate")
    assert {name: record.status for name, record in found.items()} == {
        "dense": "ok",
        "moe": "ok",
        "expert_choice": "skipped",
        "random_skip": "skipped",
    }
    assert "other tokens of its pass" in str(found["random_skip"].reason)
    dense, moe = found["dense"].metrics, found["moe"].metrics
    for metrics in (dense, moe):
        assert metrics["infer/num_output_tokens"].shown == 8
        for size in (1, 4):
            whole = metrics[f"infer/flops_per_sample_b{size}"].shown
            first = metrics[f"infer/flops_first_token_b{size}"].shown
            each = metrics[f"infer/flops_per_output_token_b{size}"].shown
            assert whole is not None
            assert first is not None
            assert each is not None
            assert first + 7 * each == pytest.approx(whole)
            for name in ("ttft_ms", "tpot_ms"):
                assert (metrics[f"infer/{name}_b{size}"].shown or 0) > 0
        # Keys and values: 2 blocks x 2 x 16 channels x 4 bytes
        assert metrics["infer/bytes_per_output_token_b1"].shown == pytest.approx(256, rel=0.3)
        for key in ("infer/{}energy_j_per_output_token", "infer/{}energy_j_per_sample"):
            assert metrics[key.format("")].shown is None  # the trial computes on the CPU
            assert metrics[key.format("")].reason
            assert key.format("cpu_") in metrics  # with a number only where RAPL can be read
    assert dense["infer/flops_share"].shown == 1
    assert (moe["infer/flops_share"].shown or 1) < 1


@pytest.mark.usefixtures("without_resident_child")
def test_a_trial_serves_two_tasks(by_hand: Run) -> None:
    """The record has each task's own quality, FLOPs and routing, the two of equal size."""
    moe = by_hand("moe", "task=multitask")["moe"]
    assert moe.quality is not None
    assert moe.quality.more == ["digits", "keywords"]
    whole, *each = (moe.metrics[f"infer/quality{name}"] for name in ("", "_digits", "_keywords"))
    assert {metric.unit for metric in each} == {whole.unit}
    scores = [metric.shown for metric in each if metric.shown is not None]
    assert sum(scores) / 2 == pytest.approx(whole.shown)  # as many samples of each
    assert moe.points[0].metrics["infer/quality_digits"] == each[0]
    by_task = moe.diagnostics["routing"]["by_task"]
    assert [entry["task"] for entry in by_task] == ["digits", "keywords"]
    assert sum(entry["num_samples"] for entry in by_task) == 8
    for entry in by_task:
        assert all(sum(gate["load"]) == pytest.approx(1) for gate in entry["gates"])


def test_a_trial_recognises_keywords(by_hand: Run) -> None:
    """Spectrograms are trained on, evaluated and measured like pictures."""
    moe = by_hand("moe", "task=keywords")["moe"]
    assert (moe.status, moe.reason) == ("ok", None)
    assert moe.metrics["infer/quality"].shown is not None
    assert moe.metrics["infer/num_unknown_ops"].shown == 0
    assert 0 < (moe.metrics["infer/flops_share"].shown or 1) < 1


@pytest.mark.soak
def test_a_trial_translates(run: Run) -> None:
    """An encoder-decoder is trained, evaluated greedily and measured; others are skipped."""
    found = run("task=numbers", "method=moe,early_exit,mixture_of_depths,downsample")
    assert {name: record.status for name, record in found.items()} == {
        "dense": "ok",
        "moe": "ok",
        "early_exit": "ok",
        "mixture_of_depths": "ok",
        "downsample": "skipped",
    }
    for name in ("dense", "moe", "early_exit", "mixture_of_depths"):
        quality = found[name].metrics["infer/quality"]
        assert quality.unit == "exact match %"
        assert quality.shown is not None
        assert found[name].metrics["infer/quality_bleu"].unit == "BLEU"
        assert found[name].metrics["infer/num_unknown_ops"].shown == 0


@pytest.mark.soak
def test_a_trial_meets_hard_inputs(run: Run) -> None:
    """With robustness, a record has every corruption's quality, FLOPs and confidence."""
    metrics = run("task=topics", "method=early_exit", "method.every=1", "measure.robustness=true")[
        "early_exit"
    ].metrics
    for severity in range(1, 6):
        for quantity in ("quality", "flops_per_sample", "confidence", "dense_quality"):
            assert metrics[f"infer/{quantity}_characters_s{severity}"].shown is not None
    assert metrics["infer/num_robustness_samples"].shown == 512
    assert metrics["infer/num_unseen_samples"].shown == 512
    assert metrics["infer/confidence_unseen"].shown is not None
