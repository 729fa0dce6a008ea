"""Whole trials beyond the forward pass: generating, translating, hard inputs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.record import RECORD_NAME, Record, read_record

BRIEF = (
    *("train.steps=2", "train.batch_size=8", "measure.rounds=3", "measure.num_inputs=8"),
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
        called = subprocess.run(
            [sys.executable, "-c", PROGRAM, "run", *words, *BRIEF],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert called.returncode == 0, called.stdout + called.stderr
        found = [read_record(path) for path in tmp_path.rglob(RECORD_NAME)]
        return {record.labels.method: record for record in found}

    return records


def test_a_trial_generates(run: Run) -> None:
    """Records of generations: 24 tokens after 24, usual columns for all of it, more per token."""
    found = run("task=text", "method=moe,expert_choice,random_skip", "workload=generate")
    assert {name: record.status for name, record in found.items()} == {
        "dense": "ok",
        "moe": "ok",
        "expert_choice": "skipped",
        "random_skip": "skipped",
    }
    assert "other tokens of its pass" in str(found["random_skip"].reason)
    dense, moe = found["dense"].metrics, found["moe"].metrics
    for metrics in (dense, moe):
        assert metrics["infer/num_output_tokens"].shown == 24
        for size in (1, 4):
            whole = metrics[f"infer/flops_per_sample_b{size}"].shown
            first = metrics[f"infer/flops_first_token_b{size}"].shown
            each = metrics[f"infer/flops_per_output_token_b{size}"].shown
            assert whole is not None
            assert first is not None
            assert each is not None
            assert first + 23 * each == pytest.approx(whole)
            for name in ("ttft_ms", "tpot_ms"):
                assert (metrics[f"infer/{name}_b{size}"].shown or 0) > 0
        # Keys and values: 2 blocks x 2 x 16 channels x 4 bytes
        assert metrics["infer/bytes_per_output_token_b1"].shown == pytest.approx(256, rel=0.3)
        assert "no NVIDIA GPU" in str(metrics["infer/energy_j_per_output_token"].reason)
    assert dense["infer/flops_share"].shown == 1
    assert (moe["infer/flops_share"].shown or 1) < 1


@pytest.mark.soak
def test_a_trial_translates(run: Run) -> None:
    """An encoder-decoder is trained, judged by greedy decoding and measured; others say why not."""
    found = run("task=numbers", "method=moe,early_exit,mixture_of_depths")
    assert {name: record.status for name, record in found.items()} == {
        "dense": "ok",
        "moe": "ok",
        "early_exit": "skipped",
        "mixture_of_depths": "skipped",
    }
    for name in ("dense", "moe"):
        quality = found[name].metrics["infer/quality"]
        assert quality.unit == "exact match %"
        assert quality.shown is not None
        assert found[name].metrics["infer/num_unknown_ops"].shown == 0


@pytest.mark.soak
def test_a_trial_meets_hard_inputs(run: Run) -> None:
    """With robustness, a record has every corruption's quality, FLOPs and confidence."""
    metrics = run("task=topics", "method=early_exit", "method.every=1", "measure.robustness=true")[
        "early_exit"
    ].metrics
    for severity in range(1, 6):
        for quantity in ("quality", "flops_per_sample", "confidence", "dense_quality"):
            assert metrics[f"infer/{quantity}_substitution_s{severity}"].shown is not None
    assert metrics["infer/confidence_unseen"].shown is not None
