"""What is fuzzed: for each kind of file one case, which must end as its reader promises.

A case reads one mutated file as the command line does. An exception that the reader does not
promise, a number that a type or bound contradicts, or a file outside the case's folder is a fault.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from bench.launch.failures import ProcessExit, write_failure
from bench.launch.pending import PendingTrial
from bench.launch.queue import START_ERRORS
from bench.plan.explain import PlanError
from bench.plan.matrix import make_plan
from bench.publish.runs import NIGHT_NAME, publish_night
from bench.records.catalogue import find
from bench.records.reading import NoRecords, read_one, read_rounds
from bench.records.record import RAW_NAME, RECORD_NAME, TRIAL_NAME, BadRecord, Metric, Record
from bench.regress.history import BadHistory
from bench.regress.trend import trend
from bench.report import build
from bench.trial.trial import BadTrial, read_trial
from tests.fuzz.mutations import mutated_bytes, mutated_json, mutated_text

if TYPE_CHECKING:
    from conftest import House

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
WHOLE_REPORT = 0.04  # share of the records for which tables, page and figures are made too
OVERRIDES = (
    *("method=moe,dense", "task=digits", "seed=0,1", "train.steps=4", "name=a", "gpu=cpu"),
    *("measure.batch_sizes=[1,8]", "method.widths=[1,2]", "method.router.rate=0.5"),
    *("measure=quick", "retry=failed", "timeout_s=3.5", "backbone.depth=2", "wandb.mode=offline"),
)
EXPERIMENT = """# A comparison.
defaults:
  - override /method: moe
  - override /task: digits
name: bad
seed: 1
measure:
  rounds: 3
  batch_sizes: [1, 8]
method:
  num_experts: 4
  widths: [1, 2]
hydra:
  sweeper:
    params:
      method.top_k: 1,2
      seed: range(0, 2)
"""


@dataclass
class Source:
    """A published trial, a night, and where the cases of one test write."""

    trial: Path
    night: dict[str, Any]
    place: Path
    house: House

    def folder(self, number: int) -> Path:
        """A new trial folder, with the published files in it."""
        made = self.place / f"case{number}" / "seed0"
        shutil.copytree(self.trial, made)
        return made

    def content(self, name: str) -> Any:
        """A JSON file of the published trial."""
        return json.loads((self.trial / name).read_text())


def _mutated(source: Source, name: str, chance: random.Random) -> bytes:
    """A JSON file of the trial: its values mutated, or its bytes."""
    if chance.random() < 0.8:
        text = mutated_json(source.content(name), chance)
        return text.encode("utf-8", "surrogatepass")
    return mutated_bytes((source.trial / name).read_bytes(), chance)


def record(source: Source, number: int, chance: random.Random) -> None:
    """record.json is read, with honest numbers, or left out by name; so is it in a report."""
    folder = source.folder(number)
    path = folder / RECORD_NAME
    path.write_bytes(_mutated(source, RECORD_NAME, chance))
    with refusals_name(path):
        check_numbers(read_one(path).record)
    if chance.random() < WHOLE_REPORT:
        with contextlib.suppress(NoRecords):
            build([folder])
    shutil.rmtree(folder.parent)


@contextlib.contextmanager
def refusals_name(path: Path) -> Iterator[None]:
    """A record may be refused, by the name of the file."""
    refused = str(path)
    try:
        yield
    except BadRecord as error:
        refused = str(error)
    assert str(path) in refused


def check_numbers(found: Record) -> None:
    """Every number that a table would show has its type, unit, range and interval."""
    assert type(found.labels.seed) is int
    for metrics in (found.metrics, *(point.metrics for point in found.points)):
        for key, metric in metrics.items():
            if metric.shown is not None:
                _check_number(key, metric)


def _check_number(key: str, metric: Metric) -> None:
    numbers = [each for each in (metric.low, metric.value, metric.high) if each is not None]
    assert all(type(each) in (int, float) and math.isfinite(each) for each in numbers), key
    assert numbers == sorted(numbers), key
    entry = find(key)
    if entry is not None:
        assert metric.unit == entry.unit or not entry.unit, key
        assert entry.quantity.allows(metric.value or 0.0), key


def raw(source: Source, number: int, chance: random.Random) -> None:
    """raw.npz gives positive finite rounds, or is damaged by name."""
    folder = source.folder(number)
    path = folder / RAW_NAME
    path.write_bytes(mutated_bytes(path.read_bytes(), chance))
    found = read_one(folder / RECORD_NAME)
    for size in found.batch_sizes:
        with refusals_name(path):
            rounds = read_rounds(found, size)
            assert rounds is None or (rounds.method_s > 0).all()
    shutil.rmtree(folder.parent)


def trial(source: Source, number: int, chance: random.Random) -> None:
    """trial.json is a trial, or a failure of that trial alone, for launcher and trial."""
    folder = source.folder(number)
    (folder / TRIAL_NAME).write_bytes(_mutated(source, TRIAL_NAME, chance))
    with contextlib.suppress(BadTrial):
        read_trial(folder)
    pending = PendingTrial(folder)
    with contextlib.suppress(*START_ERRORS):
        assert pending.limit_s is not None
        assert pending.gpu[0] in ("cpu", "one", "ddp")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        write_failure(folder, ProcessExit(1, "train", 1.0))
    # Its configuration is the file's: a report may have to leave it out.
    with refusals_name(folder / RECORD_NAME):
        check_numbers(read_one(folder / RECORD_NAME).record)
    shutil.rmtree(folder.parent)


def verdict(source: Source, number: int, chance: random.Random) -> None:
    """verdict.json is sent, or refused by what the command line expects."""
    folder = source.place / f"case{number}"
    folder.mkdir()
    text = mutated_json(source.night, chance).encode("utf-8", "surrogatepass")
    path = folder / NIGHT_NAME
    path.write_bytes(text if chance.random() < 0.8 else mutated_bytes(text, chance))
    sent: list[dict[str, Any]] = []
    run = SimpleNamespace(summary=SimpleNamespace(update=sent.append), finish=lambda **_: None)
    fake = SimpleNamespace(Settings=lambda **settings: settings, init=lambda **_: run)
    before = sys.modules.get("wandb")
    sys.modules["wandb"] = fake  # type: ignore[assignment]
    try:
        with contextlib.suppress(OSError, ValueError, KeyError):
            publish_night(folder, "offline", "condbench")
    finally:
        del sys.modules["wandb"]
        if before is not None:
            sys.modules["wandb"] = before
    for values in sent:
        json.dumps(values, allow_nan=False).encode()
    shutil.rmtree(folder)


NIGHT = {
    "schema_version": 1,
    "unix_s": 1.7e9,
    "hardware": "cpu-2x-test",
    "baseline": "main (aaa)",
    "candidate": "HEAD (bbb)",
    "outcome": "ok",
    "canary_s": 0.003,
    "metrics": {
        "digits/moe time b64": {
            "value": 0.2,
            "unit": "s",
            "ratio": 1.01,
            "low": 1.0,
            "high": 1.02,
            "judgement": "equal",
            "reason": None,
        }
    },
}


def history(source: Source, number: int, chance: random.Random) -> None:
    """A history of two nights, one of them mutated: a page of those that can be read."""
    folder = source.place / f"case{number}"
    folder.mkdir()
    line = mutated_json(NIGHT, chance).encode("utf-8", "surrogatepass")
    line = line if chance.random() < 0.8 else mutated_bytes(line, chance)
    (folder / "cpu.jsonl").write_bytes(json.dumps(NIGHT).encode() + b"\n" + line + b"\n")
    with contextlib.suppress(BadHistory):
        trend(folder)
    shutil.rmtree(folder)


def override(source: Source, number: int, chance: random.Random) -> None:
    """Up to three settings, mutated: a plan, or one sentence."""
    given = chance.sample(OVERRIDES, chance.randint(1, 3))
    given[0] = mutated_text(given[0], chance)
    _plan(given)


def experiment(source: Source, number: int, chance: random.Random) -> None:
    """An experiment file, mutated: a plan, or one sentence."""
    text = mutated_text(EXPERIMENT, chance)
    path = source.house.conf / "experiment" / "bad.yaml"
    path.write_bytes(b"# @package _global_\n" + text.encode("utf-8", "surrogatepass"))
    _plan(["experiment=bad"])


def _plan(overrides: list[str]) -> None:
    with contextlib.suppress(PlanError):
        make_plan(overrides)


Case = Callable[[Source, int, random.Random], None]
# How many of each in soak, and in the ordinary suite.
CASES: dict[Case, tuple[int, int]] = {
    record: (700, 40),
    raw: (400, 20),
    trial: (300, 20),
    verdict: (200, 20),
    history: (100, 4),
    override: (150, 10),
    experiment: (150, 10),
}
