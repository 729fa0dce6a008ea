"""A method that changes what the dense model runs under too: its row counts for nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.measure import run as running
from bench.measure.run import Run
from bench.meters.conditions import pinned_threads
from bench.plan.matrix import make_plan
from bench.plan.staleness import write_trials
from bench.records.record import TRIAL_NAME, Record
from bench.trial import run as trial
from bench.trial.prepare import prepare
from bench.trial.trial import read_trial

PLUGIN = """
import os, time
from dataclasses import dataclass
import torch
from torch import nn

FORWARD = nn.Linear.forward

def slow(layer, x):
    time.sleep(0.0003)
    return FORWARD(layer, x)

class Toggling(nn.Module):
    # Fast for itself, slow for whoever comes next.
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, batch):
        set_slow(False)
        out = self.inner(batch)
        if not self.training:
            set_slow(True)
        return out

def set_slow(on):
    {toggle}

@dataclass
class Method:
    def build(self, spec, backbone):
        {build}
        return Toggling(backbone.build(spec))

    def loss(self, model, batch, criterion, progress):
        {loss}
        return criterion(model(batch), batch)

    def calibrate(self, model, batches):
        {calibrate}

{module}
"""
PLACES = ("toggle", "build", "loss", "calibrate", "module")
PATCH = "nn.Linear.forward = slow"
THREADS = "torch.set_num_threads(3)"
CASES = {
    "import": ({"module": PATCH}, "importing the method", "Linear.forward was replaced"),
    "build": ({"build": THREADS}, "the method's build", "get_num_threads(): 1 before, 3 now"),
    "a patch in build": ({"build": PATCH}, "preparing the method", "Linear.forward was replaced"),
    "the dense family": (
        {"build": "type(backbone).depth_of_dense = lambda self: 3"},
        "preparing the method",
        "Transformer.depth_of_dense was replaced",
    ),
    "training": (
        {"loss": "torch.set_float32_matmul_precision('medium')"},
        "training",
        "get_float32_matmul_precision(): highest before, medium now",
    ),
    "threads of training": ({"loss": THREADS}, "training", "1 before, 3 now"),
    "calibrate": (
        {"calibrate": "os.environ['OMP_WAIT_POLICY'] = 'active'"},
        "the method's calibrate",
        "OMP_WAIT_POLICY: not set before, active now",
    ),
}
BRIEF = ["train.steps=2", "measure.num_inputs=2", "measure.batch_sizes=[1]", "gpu.threads=1"]
QUICK = [
    *("measure.warmup_s=0", "measure.block_ms=1", "measure.rounds=1", "measure.processes=1"),
    "backbone.depth=1",
]


def ignore(phase: str, share: float) -> None:
    """Takes progress."""


@pytest.fixture
def trial_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """A trial whose method is PLUGIN with code in some places; what it does is undone."""

    def make(**code: str) -> Path:
        filled = {place: code.get(place, "pass" if place != "module" else "") for place in PLACES}
        (tmp_path / "rude_method.py").write_text(PLUGIN.format(**filled))
        monkeypatch.syspath_prepend(tmp_path)
        plan = make_plan(["method=dense", *BRIEF, *QUICK, f"results={tmp_path}"])
        (made,) = write_trials(plan.trials)
        content = json.loads((made / TRIAL_NAME).read_text())
        content["entry_points"]["method"] = "rude_method:Method"
        content["labels"]["method"] = "rude_method"
        (made / TRIAL_NAME).write_text(json.dumps(content))
        monkeypatch.delitem(sys.modules, "rude_method", raising=False)
        return made

    forward, threads = nn.Linear.forward, torch.get_num_threads()
    yield make
    nn.Linear.forward = forward
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    os.environ.pop("OMP_WAIT_POLICY", None)


@pytest.fixture
def record_of(trial_of: Callable[..., Path]) -> Callable[..., Record]:
    """The record of such a trial."""
    return lambda **code: trial.run(trial_of(**code))


@pytest.mark.parametrize("name", CASES)
def test_a_change_before_measuring_fails_the_trial(
    name: str, record_of: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, with what was changed and in which hook."""
    code, doing, what = CASES[name]
    record = record_of(**code)
    assert record.status == "failed"
    assert record.reason.startswith("SharedStateChanged in phase ")
    assert f": {doing} changed what the dense model runs under too: " in record.reason
    assert what in record.reason


def test_a_pass_that_slows_the_next_one_is_seen_from_the_first_on(
    trial_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was quick when the run began; the points are chosen with the pass that made it slow."""
    toggle = "nn.Linear.forward = slow if on else FORWARD; torch.set_num_threads(2 if on else 1)"
    monkeypatch.setattr(running, "Resident", lambda subject, inputs: None)
    with pinned_threads(1):
        subject, _ = prepare(read_trial(trial_of(toggle=toggle)), ignore)
        run = Run(subject, ignore, {}, None)
        changes = run.shared.changes()
    assert changes[0] == "torch.get_num_threads(): 1 before, 2 now"
    assert "torch.nn.modules.linear.Linear.forward was replaced" in changes


def test_a_backbone_that_a_method_has_changed_is_its_own(trial_of: Callable[..., Path]) -> None:
    """Three blocks for the method; the dense model that it is compared with has its own one."""
    torch.manual_seed(99)  # as a process may have been seeded by anything else
    subject, _ = prepare(read_trial(trial_of(build="backbone.depth = 3")), ignore)
    assert len(subject.model.inner.blocks) == 3
    assert len(subject.make_baseline().blocks) == 1
