"""A trial run by hand: every outcome, also a plugin's failure, is recorded in one line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.plan.matrix import make_plan
from bench.plan.staleness import write_trials
from bench.records.record import RECORD_NAME, TRIAL_NAME, read_record
from bench.trial import run as trial
from bench.trial.trial import read_trial

PLUGIN = """
import math
from dataclasses import dataclass
import torch

@dataclass
class Method:
    def build(self, spec, backbone):
        return backbone.build(spec)
"""
NAN_AT_THE_END = """
    def after_step(self, model, progress):
        if progress == 1:  # after the second of two steps
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)
"""
INFINITE_POINT = """
    def points(self):
        return [{"threshold": math.inf}]
    def set_point(self, model, point):
        pass
"""
SETTINGS_IN_SETTINGS = """
@dataclass
class Gate:
    keep: float = 0.5

@dataclass
class Nested(Method):
    gate: Gate

    def build(self, spec, backbone):
        raise RuntimeError(f"keeps {self.gate.keep}")
"""
TWO_LINES = """
    def calibrate(self, model, batches):
        raise RuntimeError("first\\n  second")
"""
LEAKS = """
    def calibrate(self, model, batches):
        import os
        from bench.types import Unsupported
        raise error(f"403 for {os.environ['HUB_TOKEN']}, api_key=sk-abcdefgh12345678")
"""
SECRET = "correct  horse battery"  # two spaces: a reason is one line with single ones
BRIEF = ["train.steps=2", "measure.num_inputs=2", "measure.batch_sizes=[1]", "gpu.threads=1"]
QUICK = [
    "measure.warmup_s=0",
    "measure.block_ms=1",
    "measure.rounds=1",
    "measure.processes=1",
    "backbone.depth=1",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """The folder of a trial whose method is PLUGIN with more methods of its own."""

    def make(more: str) -> Path:
        (tmp_path / "odd_method.py").write_text(PLUGIN + more)
        monkeypatch.syspath_prepend(tmp_path)
        plan = make_plan(["method=dense", *BRIEF, *QUICK, f"results={tmp_path}"])
        (made,) = write_trials(plan.trials)
        content = json.loads((made / TRIAL_NAME).read_text())
        content["entry_points"]["method"] = "odd_method:Method"
        content["labels"]["method"] = "odd_method"
        (made / TRIAL_NAME).write_text(json.dumps(content))
        monkeypatch.delitem(sys.modules, "odd_method", raising=False)
        return made

    return make


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (NAN_AT_THE_END, "Diverged in phase train: after the last step "),
        (
            INFINITE_POINT,
            "ValueError in phase choose: Method.points()[0]['threshold'] is inf: must be",
        ),
        (TWO_LINES, "RuntimeError in phase calibrate: first second"),
    ],
    ids=["weights are NaN after the last step", "a point that is not finite", "two lines"],
)
def test_a_failure_becomes_a_failed_record(
    folder: Callable[[str], Path], more: str, reason: str
) -> None:
    """The record on disk has status `failed`, the phase and the reason in one line."""
    place = folder(more)
    assert trial.main([str(place)]) == 1
    record = read_record(place / RECORD_NAME)
    assert record.status == "failed"
    assert record.reason.startswith(reason)
    assert "\n" not in record.reason


@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit", "Unsupported"])
def test_secrets_stay_out_of_record_and_log(
    folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: str,
) -> None:
    """A token that a plugin's error quotes is in neither reason nor traceback nor last line."""
    monkeypatch.setenv("HUB_TOKEN", SECRET)
    place = folder(LEAKS.replace("error(", f"{error}("))
    trial.main([str(place)])
    written = "".join([(place / RECORD_NAME).read_text(), *capfd.readouterr()])
    assert "403 for ***, api_key=***" in written
    for secret in (SECRET, " ".join(SECRET.split()), "sk-abcdefgh12345678"):
        assert secret not in written


def test_a_trial_finds_its_results_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`results` in trial.json may be relative: the dense model lies in the tree of the folder."""
    monkeypatch.chdir(tmp_path)
    (made,) = write_trials(make_plan(["method=dense", *BRIEF, *QUICK, "results=mine"]).trials)
    whole = made.resolve()
    checkpoint = json.loads((made / TRIAL_NAME).read_text())["dense"]["checkpoint"]
    assert read_trial(made).checkpoint == tmp_path / "mine" / checkpoint
    monkeypatch.chdir("/")
    assert read_trial(whole).checkpoint == tmp_path / "mine" / checkpoint
    shutil.copytree(whole, tmp_path / "copy")  # outside every tree: the config's path holds
    assert read_trial(tmp_path / "copy").checkpoint == Path("mine") / checkpoint


def test_settings_inside_settings_arrive_as_their_dataclass(folder: Callable[[str], Path]) -> None:
    """trial.json holds {"gate": {"keep": 0.25}}; the method sees gate.keep."""
    place = folder(SETTINGS_IN_SETTINGS)
    content = json.loads((place / TRIAL_NAME).read_text())
    content["entry_points"]["method"] = "odd_method:Nested"
    content["config"]["method"] = {"gate": {"keep": 0.25}}
    (place / TRIAL_NAME).write_text(json.dumps(content))
    assert trial.main([str(place)]) == 1
    assert read_record(place / RECORD_NAME).reason == "RuntimeError in phase train: keeps 0.25"
