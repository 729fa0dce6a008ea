"""Training on a cluster: Lightning neither looks for a scheduler nor takes its tasks for ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.config import GpuConfig
from bench.plugins.hooks import DEFAULT_HOOKS
from bench.trial.train import fit
from bench.types import Recipe
from tests.fakes.line import Line, Points

# Variables of task 1 of 4 on the second of two nodes.
TASK = {
    "SLURM_JOB_ID": "1234",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "node[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
MACHINES = {
    "login node": {},
    "tasks of a job": {**TASK, "SLURM_NTASKS_PER_NODE": "2"},
    "tasks that Lightning refuses": TASK,
    "interactive job": {**TASK, "SLURM_JOB_NAME": "bash"},
    "LSF": {
        "LSB_JOBID": "1",
        "LSB_DJOB_RANKFILE": "/none",
        "JSM_NAMESPACE_RANK": "1",
        "JSM_NAMESPACE_LOCAL_RANK": "1",
        "JSM_NAMESPACE_SIZE": "4",
    },
}
ROOT = Path(__file__).parents[2]


def fake_srun(folder: Path) -> Path:
    """A Slurm client that leaves a file where it is called."""
    folder.mkdir()
    script = folder / "srun"
    script.write_text(f"#!/bin/sh\ntouch {folder / 'called'}\n")
    script.chmod(0o755)
    return folder


@pytest.mark.parametrize("machine", MACHINES)
def test_a_model_is_trained_by_this_process_alone(
    machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps, no warning, no checkpoint of somebody else's job taken up, nothing started."""
    folder = fake_srun(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name, value in MACHINES[machine].items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("of a job that was requeued here")
    model, before = Line(), os.environ.copy()
    start = model.layer.bias.detach().clone()
    found = fit(model, DEFAULT_HOOKS, Points(), Recipe(3, 4, 0.1), seed=0, gpu=GpuConfig())
    assert found.num_steps == 3
    assert not torch.equal(model.layer.bias, start)
    assert not (folder / "called").exists()
    assert os.environ.copy() == before  # no address of a node that trials would inherit


@pytest.mark.soak
def test_the_suite_passes_on_a_cluster(tmp_path: Path) -> None:
    """Everything that trains or starts trials, also those of two ranks, as a task of a job."""
    folder = fake_srun(tmp_path / "bin")
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    tests = ["tests/trial", "tests/launch", "tests/test_run.py", "--ignore", __file__]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **MACHINES["tasks of a job"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    assert not (folder / "called").exists()
