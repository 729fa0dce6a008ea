"""A session: trained models from a folder, timed by new processes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.meters.time.replicated import PairedWork
from bench.selftest.sessions import trained
from bench.selftest.sessions.__main__ import main
from bench.selftest.sessions.coverage import readings_of


def folder_of_models(folder: Path) -> None:
    """The files that training leaves, with models of one layer."""
    layer = nn.Linear(8, 8)
    batches = {1: [torch.zeros(1, 8)], 4: [torch.zeros(4, 8)]}
    work = PairedWork(layer, nn.Linear(8, 8), batches, 9, 0.02, 0.5, 1)
    place = folder / trained.training_name(0)
    place.mkdir(parents=True)
    for method in trained.METHODS:
        (place / f"{method}.pickle").write_bytes(pickle.dumps(work))


@pytest.mark.soak
def test_a_session_times_every_method_in_new_processes(tmp_path: Path) -> None:
    """Two sessions of two processes and two rounds: a file each, every cell with its processes."""
    folder_of_models(tmp_path)
    for _ in range(2):
        assert main(["time", str(tmp_path), "--processes", "2", "--rounds", "2"]) == 0
    paths = sorted((tmp_path / "sessions").iterdir())
    assert [path.name for path in paths] == ["seed0-000.json", "seed0-001.json"]
    for path in paths:
        session = json.loads(path.read_text())
        assert set(session["cells"]) == set(trained.METHODS)
        for sizes in session["cells"].values():
            assert set(sizes) == {"1", "4"}
            assert all(len(cell["process_log_ratios"]) == 2 for cell in sizes.values())
        assert {size for _, size in readings_of(session)} <= {1, 4}


def test_what_is_trained_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an interruption only the missing methods are trained."""
    folder_of_models(tmp_path)
    (tmp_path / "seed0" / "moe.pickle").unlink()
    asked = []
    work = PairedWork(nn.Identity(), nn.Identity(), {}, 1, 0.1, 1.0, 1)

    def train(method: str, seed: int, results: Path) -> PairedWork:
        asked.append((method, seed, results))
        return work

    monkeypatch.setattr(trained, "_train", train)
    assert list(trained.train_all(tmp_path, 0)) == list(trained.METHODS)
    assert asked == [("moe", 0, tmp_path / "results")]
    assert trained.read_works(tmp_path, 0)["moe"].rounds == 1
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.soak
def test_a_trial_of_the_quickstart_becomes_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One method without a training step: candidate and dense model, 64 inputs at both sizes."""
    monkeypatch.setattr(trained, "SETTINGS", {**trained.SETTINGS, "train.steps": 0})
    monkeypatch.setattr(trained, "METHODS", ("moe",))
    assert list(trained.train_all(tmp_path, 0)) == ["moe"]
    work = trained.read_works(tmp_path, 0)["moe"]
    assert {size: len(batches) for size, batches in work.batches.items()} == {1: 64, 64: 1}
    with torch.no_grad():
        batch = work.batches[64][0]
        logits = [model.eval()(batch).logits for model in (work.candidate, work.baseline)]
    assert logits[0].shape == logits[1].shape
    assert not torch.equal(*logits)
