"""Every value of every choice in conf/ is trained with, on something tiny.

An advertised setting that no test trains with may fail for everybody: methods, tasks, profiles,
workloads, devices and number formats are prepared as a trial prepares them, backbones fitted with
their switches as they are and their sizes made small.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from bench.check.tiny_tasks import TINY, Tiny
from bench.config import GpuConfig, Precision
from bench.plan.compose import composing, variant
from bench.plan.matrix import make_plan
from bench.plan.planned import PlannedTrial
from bench.plugins import construct
from bench.plugins.hooks import DEFAULT_HOOKS
from bench.records.record import TRIAL_NAME
from bench.trial.prepare import prepare
from bench.trial.train import fit
from bench.trial.trial import read_trial
from bench.types import Batch, Recipe, TaskSpec, Unsupported

with composing() as composer:
    CHOICES = {
        group: composer.choices(group)
        for group in ("method", "backbone", "task", "gpu", "measure", "workload")
    }

SMALL = (
    *("task=digits", "backbone=transformer", "backbone.dim=16", "backbone.depth=4"),
    *("backbone.num_heads=2", "backbone.hidden_multiple=2", "backbone.image_stride=4"),
    *("train.steps=2", "train.batch_size=4"),
)

NEEDS_SYMBOLS = ("keyword_allocation", "layer_skip")  # and their variants


def planned(results: Path, *overrides: str) -> list[PlannedTrial]:
    plan = make_plan([*SMALL, f"results={results}", *overrides])
    assert plan.left_out == []
    return plan.trials


def trained(trial: PlannedTrial) -> Any:
    """The subject that a trial of its own would measure: built, trained and calibrated."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / TRIAL_NAME).write_text(json.dumps(trial.content()))
    torch.manual_seed(0)
    subject, metrics = prepare(read_trial(trial.folder), lambda phase, share: None)
    assert metrics["train/num_steps"].value in (0, 1, 2)
    assert all(parameter.isfinite().all() for parameter in subject.model.parameters())
    return subject


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlannedTrial]:
    """One trial of every method and named variant; they share one dense model."""
    names = [each for each in CHOICES["method"] if not each.startswith(NEEDS_SYMBOLS)]
    trials = planned(tmp_path_factory.mktemp("images"), f"method={','.join(names)}")
    others = sorted(set(CHOICES["method"]) - set(names))
    text = ("task=text", "task.length=8", f"method={','.join(others)}")
    trials += planned(tmp_path_factory.mktemp("text"), *text)
    return {trial.labels.method: trial for trial in trials}


@pytest.mark.parametrize("name", CHOICES["method"])
def test_every_method_trains(methods: dict[str, PlannedTrial], name: str) -> None:
    """Every plugin and every file in conf/method."""
    trained(methods[name])


@pytest.mark.parametrize("name", CHOICES["task"])
def test_every_task_trains(tmp_path: Path, name: str) -> None:
    """Every bundled task and every file in conf/task."""
    (trial,) = planned(tmp_path, f"task={name}", "method=dense")
    trained(trial)


@pytest.mark.parametrize("precision", [each for each in get_args(Precision) if each != "16"])
@pytest.mark.parametrize("method", ["dense", "moe", "early_exit"])
def test_every_number_format_of_a_cpu_trains(tmp_path: Path, precision: str, method: str) -> None:
    """The dense model, a method from scratch and one from the dense model; 16 is a GPU's."""
    for trial in planned(tmp_path, f"gpu.precision={precision}", f"method={method}"):
        trained(trial)


@pytest.mark.parametrize(
    ("group", "name"), [(g, n) for g in ("measure", "workload") for n in CHOICES[g]]
)
def test_every_profile_and_workload_trains(tmp_path: Path, group: str, name: str) -> None:
    """A language model, which every workload suits."""
    (trial,) = planned(tmp_path, f"{group}={name}", "task=text", "task.length=8", "method=dense")
    assert trained(trial).config.workload == (name if group == "workload" else "forward")


def test_a_cpu_is_one_of_the_devices() -> None:
    """The others need a GPU, and are trained with below; a new one gets a test."""
    assert CHOICES["gpu"] == ["cpu", "ddp", "one"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("kind", ["one", "ddp"])
def test_every_device_and_number_format_trains(tmp_path: Path, kind: str, precision: str) -> None:
    """ddp with a single GPU is one process; with several, tests/trial/test_ranks.py."""
    if kind == "ddp" and torch.cuda.device_count() > 1:
        kind = "one"
    (trial,) = planned(tmp_path, f"gpu={kind}", f"gpu.precision={precision}", "method=dense")
    trained(trial)


# What sizes a backbone; every other setting is a switch and stays as the file has it.
SIZES: dict[str, Any] = {
    "dim": 16,
    "depth": 1,
    "num_heads": 2,
    "hidden_multiple": 2.0,
    "image_stride": 2,
    "width": 8,
    "growth": 2,
    "head_width": 8,
    "num_blocks": 1,
}


def small(name: str) -> Any:
    """The backbone of that name with its switches as they are, and small."""
    plugin, settings = variant("backbone", name)
    sizes = {key: size for key, size in SIZES.items() if settings.get(key) is not None}
    if isinstance(settings.get("width"), float):  # a share of the channels
        sizes["width"] = 0.25
    if settings.get("num_kv_heads") is not None:
        sizes["num_kv_heads"] = 1
    if isinstance(settings.get("blocks"), list):
        sizes |= {"blocks": [1] * len(settings["blocks"]), "widths": [8] * len(settings["blocks"])}
    if isinstance(settings.get("layers"), list):
        sizes["layers"] = [1] * len(settings["layers"])
    return construct(plugin.load(), {**settings, **sizes})


class TinyTask:
    """Batches of a tiny task without an end."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny, self.criterion = tiny, tiny.criterion

    def num_samples(self, split: str) -> int:
        return 8

    def batches(self, split: str, size: int, *, seed: int | None = None) -> list[Batch]:
        return [self.tiny.batch(size, seed or 0)]


IMAGE = Tiny(TaskSpec("images", "image", (3, 32, 32), 5))  # large enough for five halvings


@pytest.mark.parametrize("name", CHOICES["backbone"])
def test_every_backbone_trains(name: str) -> None:
    """Every plugin and every file in conf/backbone, on the first kind of task that it serves."""
    torch.manual_seed(0)
    backbone = small(name)
    for tiny in (IMAGE, *TINY.values()):
        try:
            model = backbone.build(tiny.spec)
        except Unsupported:
            continue
        recipe = Recipe(1, 4, 0.01)
        training = fit(model, DEFAULT_HOOKS, TinyTask(tiny), recipe, seed=0, gpu=GpuConfig())
        assert training.num_steps == 1
        return
    pytest.fail(f"{name} serves no kind of task")
