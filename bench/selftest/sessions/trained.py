"""The models that every session times: trained once, kept as they are sent to a replica.

<folder>/<training>/<method>.pickle     candidate, dense model and inputs, as one PairedWork

A state dict would not do: thresholds that `calibrate` finds are attributes of the method's choice.
Written and read by the same installation, as the work of a replica is.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure.inputs import choose_inputs
from bench.measure.speed import paired_work
from bench.meters.conditions import pinned_threads
from bench.meters.time.replicated import PairedWork
from bench.records.record import TRIAL_NAME, write_json
from bench.records.scratch import Scratch

if TYPE_CHECKING:
    from bench.trial.trial import Trial

METHODS = ("early_exit", "moe", "topk_ffn", "mixture_of_depths")
SETTINGS: dict[str, Any] = {  # those of the quickstart
    "task": "digits",
    "backbone": "transformer_small",
    "measure": "quick",
}
SUFFIX = ".pickle"


def train_all(folder: Path, seed: int) -> Iterator[str]:
    """Train what is missing in `folder`/seed<k>; yields each method's name when it is there."""
    place = folder / training_name(seed)
    place.mkdir(parents=True, exist_ok=True)
    for method in METHODS:
        path = place / f"{method}{SUFFIX}"
        if not path.exists():
            _write(path, _train(method, seed, folder / "results"))
        yield method


def read_works(folder: Path, seed: int) -> dict[str, PairedWork]:
    """The trained models by method. Raises FileNotFoundError where training is not complete."""
    place = folder / training_name(seed)
    return {m: pickle.loads((place / f"{m}{SUFFIX}").read_bytes()) for m in METHODS}


def training_name(seed: int) -> str:
    """The name of a training's folder."""
    return f"seed{seed}"


def _train(method: str, seed: int, results: Path) -> PairedWork:
    # Here and below: a session, which only times, starts without Lightning and Hydra.
    from bench.trial.prepare import prepare

    with Scratch() as scratch:
        trial = _planned(method, seed, results, scratch)
        with pinned_threads(trial.num_threads):
            subject, _ = prepare(trial, lambda phase, share: None)
            config = subject.config
            inputs = choose_inputs(
                subject.task, config.num_inputs, config.batch_sizes, subject.device, blind=True
            )
            return paired_work(subject, subject.make_baseline(), inputs)


def _planned(method: str, seed: int, results: Path, scratch: Path) -> Trial:
    from bench.plan.matrix import make_plan
    from bench.trial.trial import read_trial

    chosen = {"method": method, "seed": seed, "name": "sessions", **SETTINGS}
    chosen["results"] = results  # the dense model's checkpoint lies there and is shared
    plan = make_plan([f"{key}={value}" for key, value in chosen.items()])
    (content,) = (t.content() for t in plan.trials if t.labels.method == method)
    write_json(scratch / TRIAL_NAME, content)
    return read_trial(scratch)


def _write(path: Path, work: PairedWork) -> None:
    # Whole or not at all: a session reads it while the next method is trained.
    part = path.with_suffix(".part")
    part.write_bytes(pickle.dumps(work))
    part.replace(path)
