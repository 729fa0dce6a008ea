"""Resident memory in a record: a figure of another kind is kept with its reason, shown nowhere."""

from __future__ import annotations

from bench.measure.resident import Resident
from bench.meters.memory.resident import RssChild, RssReading


class Finished(RssChild):
    """A child that has measured where the kernel clears no high-water mark."""

    def __init__(self) -> None: ...

    def reading(self, timeout_s: float = 600.0) -> RssReading:
        return RssReading(9_000_000, 4_000_000, cleared=False)


def test_a_peak_that_contains_building_the_model_is_not_shown() -> None:
    """The whole life's peak is not that of a pass; the settled size is what it is."""
    resident = Resident.__new__(Resident)
    resident.child, resident.reason = Finished(), ""
    found = resident.wait().metrics
    peak, warm = found["infer/peak_rss_bytes"], found["infer/rss_after_warmup_bytes"]
    assert (peak.value, peak.shown, warm.shown) == (9_000_000, None, 4_000_000)
    assert "contains building" in str(peak.reason)
