"""Records are read strictly: what no trial can have written is named, and the record left out."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.records.catalogue import ENTRIES
from bench.records.reading import read, read_one
from bench.records.record import RECORD_NAME, BadRecord, Metric
from bench.records.writable import writable

RESULTS = Path(__file__).parents[2] / "results" / "published"
IDENTITY = {"config": {}, "versions": {"torch": "2.13.0"}, "hardware": "cpu", "data": "d"}
LABELS = {
    "experiment": "demo",
    "hardware": "cpu",
    "task": "digits",
    "backbone": "transformer",
    "method": "moe",
    "seed": 0,
    "device": "cpu",
}
SPEEDUP = {"value": 1.5, "unit": "1", "low": 1.4, "high": 1.6, "valid": True, "reason": None}
VALID: dict[str, Any] = {
    "key": "k",
    "status": "ok",
    "schema_version": 1,
    "labels": LABELS,
    "config": {"seed": 0, "method": {"top_k": 2}, "measure": {"profile": "quick", "rounds": 9}},
    "environment": {"num_cores": 2, "memory_bytes": 10**9, "load_1min": 0.5, "gpus": []},
    "provenance": {"identity": IDENTITY, "started_unix_s": 5.0, "duration_s": 2.0},
    "metrics": {"infer/speedup_b64": SPEEDUP},
    "quality": {"direction": "higher", "chance": 0.1, "references": {"nearest": 0.7}},
    "points": [{"settings": {"k": 1}, "metrics": {"infer/speedup_b64": dict(SPEEDUP)}}],
    "notes": [],
}


def changed(place: str, value: Any) -> str:
    """VALID with another value at a dotted place, as JSON."""
    content = copy.deepcopy(VALID)
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    inner: Any = content
    for part in path:
        inner = inner[part]
    inner[last] = value
    return json.dumps(content)


@pytest.fixture
def problem_of(tmp_path: Path) -> Callable[[str], str]:
    """The problem of a record with this text; "" where it is read."""

    def find(text: str) -> str:
        path = tmp_path / RECORD_NAME
        path.write_text(text)
        try:
            read_one(path)
        except BadRecord as error:
            place, _, problem = str(error).partition(": ")
            return problem if place == str(path) else "another file is named"
        return ""

    return find


def test_the_record_that_the_cases_change_is_read(problem_of):
    """Otherwise the cases below would prove nothing."""
    assert problem_of(json.dumps(VALID)) == ""


METRIC = "metrics.infer/speedup_b64"


@pytest.mark.parametrize(
    ("place", "value", "names"),
    [
        (f"{METRIC}.value", "1.5", "speedup_b64"),
        (f"{METRIC}.value", True, "speedup_b64"),
        (f"{METRIC}.low", "1.4", "low"),
        (f"{METRIC}.low", 1.7, "interval"),  # low > high
        (f"{METRIC}.value", 1.7, "outside its own interval 1.4 to 1.6"),
        (f"{METRIC}.high", 1.45, "outside its own interval"),
        (f"{METRIC}.value", None, "missing value needs a reason"),
        (f"{METRIC}.unit", "furlong", "unit 'furlong' instead of '1'"),
        (f"{METRIC}.unit", 1, "unit"),
        (f"{METRIC}.valid", 1, "valid"),
        (f"{METRIC}.value", -1.5, "-1.5 is impossible"),
        (f"{METRIC}.low", -1.5, "-1.5 is impossible"),  # of logarithms: above 0
        ("points.0.metrics.infer/speedup_b64.unit", "ms", "points.0"),
        ("points.0.settings.k", True, "points.0.settings"),
        ("labels.seed", True, "labels.seed"),
        ("labels.seed", "0", "labels.seed"),
        ("labels.seed", 0.0, "labels.seed"),
        ("labels.seed", -1, "labels.seed"),
        ("labels.device", "FAKE", "labels.device"),
        ("labels.device", "tpu", "labels.device"),
        ("labels.task", 3, "labels.task"),
        ("schema_version", True, "schema version"),
        ("notes", [1], "notes"),
        ("quality.chance", "0.1", "quality.chance"),
        ("quality.references.nearest", False, "quality.references"),
        ("quality.direction", "up", "quality.direction"),
        ("provenance.started_unix_s", "soon", "started_unix_s"),
        ("provenance.started_unix_s", True, "started_unix_s"),
        ("provenance.started_unix_s", 2_208_988_800.0, "2040-01-01"),  # 70 years of 365.25 days
        ("provenance.started_unix_s", 1e300, "future"),
        ("provenance.duration_s", -1.0, "duration_s"),
        ("environment.num_cores", 0, "num_cores"),
        ("environment.load_1min", "low", "load_1min"),
        ("environment.gpus", [{"power_limit_w": -700.0}], "power_limit_w"),
        ("config.seed", True, "config.seed"),
        ("config.measure.rounds", "9", "config.measure.rounds"),
        ("config.measure.rounds", 0, "config.measure.rounds"),
        ("config.measure.profile", ["quick"], "config.measure.profile"),
        ("config.measure", [1], "config.measure"),
        ("config.method", "moe", "config.method"),
    ],
)
def test_what_no_trial_writes_is_named(problem_of, place, value, names):
    """Another type, a number outside its interval or range, another unit: the place is named."""
    assert names in problem_of(changed(place, value))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_every_metric_has_its_unit_and_range(problem_of, entry):
    """Of each line of the catalogue: another unit, and a value beyond each end of its range."""
    slots = {"B": "8", "P": "50", "region": "router", "part": "grads", "condition": "clean"}
    key = entry.at(*(slots.get(slot, "bleu") for slot in entry.slots))
    metric = {"value": 0.5, "unit": entry.unit or "accuracy %"}
    assert problem_of(changed("metrics", {key: metric})) == ""
    if entry.unit:
        assert "furlong" in problem_of(changed("metrics", {key: {**metric, "unit": "furlong"}}))
    quantity = entry.quantity
    beyond = [-0.5] if quantity.low == 0 else []
    beyond += [0.0] if not quantity.includes_low else []
    beyond += [1.5] if quantity.high == 1 else []
    for value in beyond:
        assert "impossible" in problem_of(changed("metrics", {key: {**metric, "value": value}}))


@pytest.mark.parametrize("place", ["key", "value", "seed", "unit", "num_cores", "top_k"])
def test_a_key_that_stands_twice_is_damage(problem_of, place):
    """The second would silently win, at any depth."""
    text = json.dumps(VALID).replace(f'"{place}": ', f'"{place}": 0, "{place}": ', 1)
    assert f"key '{place}' stands there twice" in problem_of(text)


def test_a_number_that_does_not_count_is_kept_for_inspection(problem_of):
    """An invalid metric may be implausible: that is why it is invalid."""
    withheld = {"value": -3.0, "unit": "1", "valid": False, "reason": "withheld: negative"}
    assert problem_of(changed(METRIC, withheld)) == ""


def test_what_a_trial_writes_can_be_read(problem_of):
    """A number that a reader would refuse is withheld by the trial, with the same words."""
    odd = Metric(value=2.0, unit="1", low=1.0, high=1.5)
    content = json.loads(json.dumps(VALID))
    metrics = writable({"metrics": {"infer/speedup_b64": odd}})["metrics"]
    assert not metrics["infer/speedup_b64"]["valid"]
    assert "outside its own interval" in metrics["infer/speedup_b64"]["reason"]
    assert problem_of(json.dumps({**content, "metrics": metrics})) == ""


def test_a_clock_may_differ_by_hours(problem_of):
    """Another machine's clock, or a time zone set wrongly, is no damage."""
    assert problem_of(changed("provenance.started_unix_s", time.time() + 3600)) == ""


def test_every_published_record_is_read():
    """Those of earlier versions too."""
    reading = read([RESULTS])
    assert reading.problems == []
    assert len(reading.found) == len(list(RESULTS.rglob(RECORD_NAME))) > 0
