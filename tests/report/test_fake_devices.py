"""A measurement of a fake device is in no table, figure or frame, however it is marked."""

from __future__ import annotations

import pytest

from bench.publish.runs import publish
from bench.records.reading import NoRecords, read
from bench.records.record import BadRecord, Labels, Metric, Record, write_record
from bench.regress.folders.side import read_side
from bench.regress.verdict import BadInput


def write(folder, device="cuda", energy=None):
    labels = Labels(
        experiment="e", hardware="h", task="t", backbone="b", method="m", seed=0, device=device
    )
    metrics = {"infer/energy_j_per_sample": Metric(value=1.0, unit="j")}
    diagnostics = {} if energy is None else {"energy": energy}
    folder.mkdir()
    identity = {"config": {}, "versions": {}, "hardware": "h", "data": "d"}
    record = Record(
        key="k",
        status="ok",
        labels=labels,
        config={},
        metrics=metrics,
        diagnostics=diagnostics,
        provenance={"identity": identity},
    )
    write_record(folder, record)


@pytest.mark.parametrize(
    ("device", "energy"),
    [
        ("fake", None),
        ("cuda", [{"device": "fake"}]),
        ("cuda", [{"device": "cuda"}, {"device": "fake"}]),
    ],
)
def test_a_fake_reading_is_left_out_and_named(tmp_path, device, energy):
    """By its label, or because one operating point's energy came from a fake board."""
    write(tmp_path / "fake", device, energy)
    with pytest.raises(NoRecords, match="fake device"):
        read([tmp_path])
    write(tmp_path / "real", "cuda", [{"device": "cuda"}])
    reading = read([tmp_path])
    assert [found.folder.name for found in reading.found] == ["real"]
    assert len(reading.problems) == 1


def test_a_fake_reading_is_neither_compared_nor_sent_to_wandb(tmp_path):
    """The nightly and the mirror refuse it too."""
    write(tmp_path / "fake", "cuda", [{"device": "fake"}])
    with pytest.raises(BadInput, match="fake device"):
        read_side(tmp_path)
    with pytest.raises(BadRecord, match="fake device"):
        publish(tmp_path / "fake", "offline", "condbench")


@pytest.mark.parametrize("energy", [None, {}, [], "fake", [None, 3], [{"refused": "no GPU"}]])
def test_other_diagnostics_leave_a_record_in(tmp_path, energy):
    """Other or missing diagnostics are no reason to drop a record."""
    write(tmp_path / "real", "cuda", energy)
    assert len(read([tmp_path]).found) == 1
