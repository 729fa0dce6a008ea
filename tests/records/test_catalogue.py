"""The metric catalogue holds what records hold: every key once, with its unit and range."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.records import catalogue
from bench.records.catalogue import ENTRIES, FLOPS, REGION_TIME, SPEEDUP, find
from bench.records.entry import Entry

RESULTS = Path(__file__).parents[2] / "results"
# A value for every slot, and one that another entry of the same stem could claim.
SAMPLES = {
    "B": ["1", "64"],
    "P": ["50"],
    "region": ["backbone", "exit_head"],
    "part": ["optimizer"],
    "condition": ["clean", "garbage", "unseen", "noise_s3", "cut_out_s5"],
    "score": ["bleu", "digits", "noise_s6", "clean_read", "b64", "max"],
}


def published() -> Iterator[dict[str, Any]]:
    """The metrics of every tracked record and of each of its operating points."""
    for folder in ("published", "baseline"):
        for path in sorted((RESULTS / folder).rglob("record.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            yield record["metrics"]
            yield from (point["metrics"] for point in record["points"])


def examples(entry: Entry) -> list[str]:
    """Keys of an entry: each slot takes its samples in turn."""
    longest = max([len(SAMPLES[slot]) for slot in entry.slots], default=1)
    return [
        entry.at(*(SAMPLES[slot][number % len(SAMPLES[slot])] for slot in entry.slots))
        for number in range(longest)
    ]


def test_every_published_metric_is_in_the_catalogue_with_its_unit_and_range() -> None:
    """A key, unit or value that the catalogue does not allow is named."""
    num_metrics = 0
    for metrics in published():
        for key, metric in metrics.items():
            num_metrics += 1
            entry = find(key)
            assert entry is not None, key
            assert metric["unit"] == (entry.unit or metric["unit"]), key
            assert metric["value"] is None or entry.quantity.allows(metric["value"]), (key, metric)
    assert num_metrics > 10_000  # else the glob above found nothing


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_no_two_entries_share_a_key(entry: Entry) -> None:
    """Every key that an entry builds is its own and no other's."""
    for key in examples(entry):
        assert [each.key for each in ENTRIES if each.match(key) is not None] == [entry.key]
        assert find(key) is entry


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_a_key_gives_back_what_it_was_built_from(entry: Entry) -> None:
    """`match` returns the values that `at` filled in; a title takes the same values."""
    for key in examples(entry):
        values = entry.match(key)
        assert values is not None
        assert entry.at(*values) == key
        assert "{" not in entry.title_at(*values)


def test_keys_of_families() -> None:
    """The way in which other rooms write and read keys."""
    assert SPEEDUP.at(64) == "infer/speedup_b64"
    assert REGION_TIME.at("router", 1) == "infer/time_share_router_b1"
    assert FLOPS.at() == FLOPS.key == "infer/flops_per_sample"
    assert REGION_TIME.match("infer/time_share_exit_head_b16") == ("exit_head", "16")
    assert SPEEDUP.match("infer/ttft_speedup_b64") is None
    keys = ["infer/speedup_b64", "infer/tau_b8", "infer/speedup_b1", "infer/speedup_bx"]
    assert SPEEDUP.batch_sizes(keys) == [1, 64]
    assert catalogue.quality_key("Exact match") == "infer/quality_exact_match"
    assert catalogue.module_key(catalogue.ENERGY) == "infer/module_energy_j_per_sample"


def test_too_few_or_too_many_values_are_refused() -> None:
    """A key is never built with a slot left open or a value left over."""
    for values in ((), (1, 2)):
        with pytest.raises(ValueError, match="zip"):
            SPEEDUP.at(*values)


def test_unknown_keys_are_not_found() -> None:
    """A key that no meter writes has no entry."""
    for key in ("infer/speed", "infer/speedup_b", "infer/flops_attention", "train/gradient_bytes"):
        assert find(key) is None


def test_ranges() -> None:
    """Amounts are never negative, times and bytes of inference never 0, shares at most 1."""
    latency, confidence = find("infer/latency_ms_p50"), find("infer/confidence_clean")
    assert latency is not None
    assert confidence is not None
    assert [latency.quantity.allows(value) for value in (-1.0, 0.0, 0.1)] == [False, False, True]
    assert [confidence.quantity.allows(value) for value in (-0.1, 0.0, 1.0, 1.1)] == [
        *(False, True, True, False)
    ]
    assert catalogue.UNKNOWN_OPS.quantity.allows(0)
    assert catalogue.SAVING_REALISED.quantity.allows(-35.8)
