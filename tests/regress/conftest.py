"""Result folders with chosen rounds, as `condbench run` would have written them; a toy project."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.records.record import Labels, Metric, QualityLabel, Record, write_record
from bench.regress.checkouts import environments
from bench.regress.verdict import Verdict
from tests.regress.toy_project import ToyProject

CONFIG = {
    "method": {"num_experts": 8},
    "task": {},
    "backbone": {"depth": 4},
    "seed": 0,
    "train": {"steps": 20},
    "measure": {"profile": "standard", "rounds": 30, "batch_sizes": [64]},
    "gpu": {"kind": "cpu", "device": None},
}
ENVIRONMENT = {
    "cpu_model": "Xeon",
    "num_cores": 2,
    "num_threads": 1,
    "memory_bytes": 8 * 2**30,
    "kernel": "6.1",
    "governor": None,
    "thread_settings": {"OMP_NUM_THREADS": None},
    "gpus": [],
    "versions": {"scikit-learn": "1.7", "condbench": "0"},
    "git_commit": "c" * 40,
}
NOISE = 0.005  # sd of a side's log time in a round


class Tree:
    """A results folder; `trial` adds one record with its rounds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.generator = folder, np.random.default_rng(seed)

    def trial(
        self,
        method: str,
        cost: float = 1.0,
        *,
        quality: float = 80.0,
        seed: int = 0,
        rounds: int = 30,
        change: Callable[[dict[str, Any]], None] = lambda content: None,
        **record: Any,
    ) -> Path:
        """A trial whose pass takes `cost` times dense's second; `change` edits the content."""
        hardware = record.pop("hardware", "cpu-2x-test")
        config = {**CONFIG, "seed": seed}
        identity = {
            "config": {key: config[key] for key in config},
            "code": {"method": "a"},
            "versions": {"torch": "2.13.0"},
            "hardware": hardware,
            "data": "d",
        }
        content: dict[str, Any] = {
            "key": f"{method}{seed}",
            "status": "ok",
            "labels": Labels(
                experiment="e",
                hardware=hardware,
                task="digits",
                backbone="transformer",
                method=method,
                seed=seed,
            ).model_dump(),
            "config": config,
            "environment": copy.deepcopy(ENVIRONMENT),
            "provenance": {"identity": identity, "started_unix_s": 1.0},
            "metrics": {
                "infer/speedup_b64": Metric(value=1 / cost, unit="1").model_dump(),
                "infer/quality": Metric(value=quality, unit="accuracy %").model_dump(),
                "model/params": Metric(value=1000, unit="count").model_dump(),
            },
            "quality": QualityLabel(direction="higher").model_dump(),
            "diagnostics": {"canary_s": 0.003},
            **record,
        }
        change(content)
        folder = self.folder / hardware / method / f"seed{seed}-{content['key'][:8]}"
        folder.mkdir(parents=True)
        write_record(folder, Record.model_validate(content))
        times = np.exp(NOISE * self.generator.standard_normal((2, rounds)))
        np.savez(
            folder / "raw.npz",
            candidate_s_b64_point0=cost * times[0],
            baseline_s_b64_point0=times[1],
        )
        return folder


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Tree]:
    """tree(name, moe=1.2): a folder with a dense trial and others of given relative cost."""
    made = 0

    def make(name: str, **costs: float) -> Tree:
        nonlocal made
        made += 1
        result = Tree(tmp_path / name, seed=made)
        for method, cost in {"dense": 1.0, **costs}.items():
            result.trial(method, cost)
        return result

    return make


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    """A toy project without a revision yet. uv is hidden, so that tests run as where it is not."""
    monkeypatch.setattr(environments, "find_uv", lambda: None)
    return ToyProject(tmp_path / "toy")


@pytest.fixture
def compared(toy: ToyProject) -> Callable[..., Verdict]:
    """compared(pass_s=0.11): the verdict on that revision against the plain one."""

    def compare(old: dict[str, Any] | None = None, **new: Any) -> Verdict:
        return toy.night(toy.commit(**(old or {})), toy.commit(**new))

    return compare
