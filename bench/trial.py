"""One trial: build, train, calibrate, evaluate, measure, write the record.

    python -m bench.trial FOLDER      runs the trial that FOLDER/trial.json describes

The launcher, torchrun and a person all come through this door. Everything is resolved in
trial.json: no Hydra here. Whatever happens inside, a record says so; only an interrupt leaves none.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import environment
from bench.config import Config, typed
from bench.dense import DenseStart, dense_start
from bench.measure import Findings, Subject, measure
from bench.measure.generation import refuse_unsupported
from bench.measure.probe import TrainingProbe
from bench.measure.training_energy import TrainingEnergy, training_devices
from bench.meters.time import pinned_threads
from bench.plugins import construct
from bench.record import RAW_NAME, TRIAL_NAME, Labels, Metric, Record, missing, write_record
from bench.redaction import redact
from bench.train import fit, resolve_recipe
from bench.types import Backbone, Task, Unsupported

OnPhase = Callable[[str, float], None]
CALIBRATION_BATCH = 64


class BadTrial(Exception):
    """A folder without a readable trial.json; the message says what is wrong."""


@dataclass(frozen=True)
class Trial:
    """trial.json, typed. Plugins are loaded later, so that a broken one becomes a record."""

    folder: Path
    key: str
    labels: Labels
    config: Config
    entry_points: dict[str, str]
    checkpoint: Path  # of the dense model
    raw: dict[str, Any]

    @property
    def is_dense(self) -> bool:
        return self.labels.method == "dense"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.config.gpu.kind == "cpu" else "cuda")

    @property
    def num_threads(self) -> int:
        """Threads that the whole trial computes with."""
        return self.config.gpu.threads or environment.num_physical_cores()

    def plugin(self, kind: str) -> Any:
        """The method, backbone or task with its settings."""
        module, _, name = self.entry_points[kind].partition(":")
        cls = getattr(importlib.import_module(module), name)
        return construct(cls, getattr(self.config, kind))


def read_trial(folder: Path) -> Trial:
    """Read `folder`/trial.json. Raises BadTrial naming the file and what is wrong with it."""
    path = folder / TRIAL_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        config = typed(raw["config"])
        return Trial(
            folder=folder,
            key=raw["key"],
            labels=Labels.model_validate(raw["labels"]),
            config=config,
            entry_points=raw["entry_points"],
            checkpoint=Path(config.results) / raw["dense"]["checkpoint"],
            raw=raw,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadTrial(f"{path}: {type(error).__name__}: {error}") from error


def run(folder: Path, on_phase: OnPhase = lambda phase, share: None) -> Record:
    """Run the trial in `folder` and write its record there; returns the record.

    `on_phase(phase, share)` is told where the trial is. Raises BadTrial for an unreadable folder;
    every other failure, sys.exit included, ends in a `failed` record and a traceback in the log.
    """
    trial = read_trial(folder)
    told: list[str] = ["start"]

    def tell(phase: str, share: float) -> None:
        told.append(phase)
        on_phase(phase, share)

    started = time.time()
    try:
        with pinned_threads(trial.num_threads):
            findings = _execute(trial, tell)
        record = _record(trial, started, findings)
    except Unsupported as answer:
        reason = redact(str(answer)) or "unsupported"
        record = _record(trial, started, Findings(), "skipped", reason)
    except (Exception, SystemExit) as error:
        _show_traceback()
        record = _record(trial, started, Findings(), "failed", _reason(error, told[-1]))
    on_phase("record", 1.0)
    try:
        write_record(folder, record)
    except (ValueError, TypeError) as error:  # a plugin's word that no JSON holds, such as NaN
        _show_traceback()
        record = _record(trial, started, Findings(), "failed", _reason(error, "record"))
        write_record(folder, record)
    return record


def _reason(error: BaseException, phase: str) -> str:
    if isinstance(error, SystemExit):
        return redact(f"the trial called sys.exit({error.code!r}) in phase {phase}")
    return f"{type(error).__name__} in phase {phase}: {' '.join(redact(str(error)).split())}"


def _show_traceback() -> None:
    """The traceback of the error at hand, for the log."""
    print(redact(traceback.format_exc()), file=sys.stderr, end="")


def prepare(trial: Trial, tell: OnPhase) -> tuple[Subject, dict[str, Metric]]:
    """Build, train and calibrate what `trial` describes: ready to be measured, and its cost."""
    tell("build", 0.0)
    task, backbone, method = (trial.plugin(kind) for kind in ("task", "backbone", "method"))
    refuse_unsupported(trial.config.measure, task.spec, method)
    _seed(trial.config.seed)
    tell("train", 0.0)
    model, metrics = _trained(trial, task, backbone, method, tell)
    model.to(trial.device).eval()
    with _precision(trial):
        if hasattr(method, "calibrate"):
            tell("calibrate", 0.0)
            with torch.no_grad():
                held_out = task.batches("calibration", CALIBRATION_BATCH)
                method.calibrate(model, [batch.to(trial.device) for batch in held_out])
    subject = Subject(
        model=model,
        method=method,
        task=task,
        device=trial.device,
        config=trial.config.measure,
        make_baseline=lambda: _dense(trial, task, backbone, tell).model.to(trial.device).eval(),
        is_dense=trial.is_dense,
    )
    return subject, metrics


def _precision(trial: Trial) -> AbstractContextManager[Any]:
    """Inference in the number format that the model was trained in: the table names that one."""
    if trial.config.gpu.precision == "32":
        return contextlib.nullcontext()
    dtype = {"bf16": torch.bfloat16, "16": torch.float16}[trial.config.gpu.precision]
    return torch.autocast(trial.device.type, dtype)


def _execute(trial: Trial, tell: OnPhase) -> Findings:
    subject, metrics = prepare(trial, tell)
    with _precision(trial):
        findings = measure(subject, tell, metrics)
    if findings.raw:
        np.savez_compressed(trial.folder / RAW_NAME, **findings.raw)  # type: ignore[arg-type]
    return findings


def _trained(
    trial: Trial, task: Task, backbone: Backbone, method: Any, tell: OnPhase
) -> tuple[nn.Module, dict[str, Metric]]:
    """The trained model and what training it cost."""
    if trial.is_dense:
        start = _dense(trial, task, backbone, tell)
        return start.model, start.metrics
    if hasattr(method, "convert"):
        start = _dense(trial, task, backbone, tell)
        _seed(trial.config.seed)
        model = method.convert(start.model, list(task.batches("calibration", CALIBRATION_BATCH)))
        dense_s = start.metrics["train/time_s"]
    else:
        _seed(trial.config.seed)
        model = method.build(task.spec, backbone)
        dense_s = missing("s", "trained from scratch, not from the dense model")
    metrics = _train(trial, task, method, model, tell)
    return model, {**metrics, "train/dense_time_s": dense_s}


def _dense(trial: Trial, task: Task, backbone: Backbone, tell: OnPhase) -> DenseStart:
    """The shared dense model of this task, backbone, seed and recipe."""

    def build() -> nn.Module:
        _seed(trial.config.seed)
        return backbone.build(task.spec)

    def train(model: nn.Module) -> dict[str, Metric]:
        return _train(trial, task, None, model, tell)

    return dense_start(trial.checkpoint, build, train)


def _train(
    trial: Trial, task: Task, method: Any, model: nn.Module, tell: OnPhase
) -> dict[str, Metric]:
    share = getattr(method, "train_share", 1.0)
    recipe = resolve_recipe(task.recipe, trial.config.train, share)
    probe = TrainingProbe(model)
    used = training_devices(trial.device, trial.config.gpu.kind) if recipe.steps else []
    energy = TrainingEnergy(used)
    with energy:
        training = fit(
            model,
            method,
            task,
            recipe,
            seed=trial.config.seed,
            gpu=trial.config.gpu,
            on_step=lambda done: tell("train", done),
            probes=(energy.leaving_out(probe.memory), energy.leaving_out(probe.flops)),
        )
    no_step = "training free: the method takes no training step"
    unprobed = no_step if training.num_steps == 0 else "too few training steps to probe one"
    return {
        "train/time_s": Metric(value=training.time_s, unit="s"),
        "train/num_steps": Metric(value=training.num_steps, unit="count"),
        "train/loss": missing("nat", no_step)
        if training.loss is None
        else Metric(value=training.loss, unit="nat"),
        **probe.metrics(unprobed),
        **energy.metrics(no_step if training.num_steps == 0 else None),
    }


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _record(
    trial: Trial, started: float, findings: Findings, status: str = "ok", reason: str | None = None
) -> Record:
    return Record.model_validate(
        {
            "key": trial.key,
            "status": status,
            "reason": reason,
            "labels": trial.labels,
            "config": trial.raw["config"],
            "environment": {**environment.fingerprint(), "num_threads": trial.num_threads},
            "provenance": {
                "identity": trial.raw["identity"],
                "entry_points": trial.entry_points,
                "started_unix_s": started,
                "duration_s": time.time() - started,
            },
            "metrics": findings.metrics,
            "quality": findings.quality,
            "points": findings.points,
            "diagnostics": findings.diagnostics,
            "notes": findings.notes,
        }
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one trial folder by hand: exit code 0 ok or skipped, 1 failed, 2 not a trial."""
    parser = argparse.ArgumentParser(prog="python -m bench.trial", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with trial.json")
    folder = parser.parse_args(arguments).folder
    try:
        record = run(folder, lambda phase, share: print(f"{phase} {share:.0%}", file=sys.stderr))
    except BadTrial as error:
        print(f"condbench: {error}", file=sys.stderr)
        return 2
    print(f"{record.status}: {folder}" + (f" ({record.reason})" if record.reason else ""))
    return 1 if record.status == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
