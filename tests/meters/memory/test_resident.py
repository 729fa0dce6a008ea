"""Resident memory of a fresh child: real processes, without torch, so that they start fast."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import partial

import pytest

from bench.meters.memory.resident import (
    RssError,
    RssReading,
    measure_here,
    measure_peak_rss,
    start_peak_rss,
)

MIB = 2**20

WORKLOADS = """
import os, subprocess, sys, time

def touch(mib):
    return b"x" * (mib * 2**20)

def touched(mib):
    def work():
        return b"x" * (int(mib) * 2**20)
    return work

def built_with_a_peak(mib):
    len(b"x" * (400 * 2**20))
    return touched(mib)

def broken():
    raise ValueError("no such checkpoint")

def silent():
    os._exit(3)

def endless():
    time.sleep(60)

def counting(file):
    def work():
        with open(file, "a") as calls:
            calls.write("x")
        return b"x" * 2**21
    return work

def clearing():
    def work():
        len(b"x" * (64 * 2**20))
        time.sleep(0.1)
        block = b"x" * (64 * 2**20)
        time.sleep(0.1)
        del block
        with open("/proc/self/clear_refs", "w") as mark:
            mark.write("5")
    return work

def elsewhere(kind):
    def work():
        command = [sys.executable, "-c", "import time; b'x' * 2**20; time.sleep(%s)"]
        seconds = "0" if kind == "ended" else "5"
        child = subprocess.Popen([*command[:2], command[2] % seconds])
        if kind == "ended":
            child.wait()
        return child
    return work
"""


@pytest.fixture(autouse=True)
def _workloads(tmp_path, monkeypatch):
    """A module of workloads that a child can import."""
    (tmp_path / "workloads.py").write_text(WORKLOADS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_touched_memory_is_measured_independently_of_this_process():
    """256 MiB more raise the peak by 256 MiB (-1 %, +8 MiB), also after this process held more."""
    held = b"x" * (300 * MIB)
    del held
    empty, full = (measure_peak_rss("workloads:touched", [mib]) for mib in ("1", "257"))
    grown = full.peak_rss_bytes - empty.peak_rss_bytes
    assert 0.99 * 256 * MIB <= grown <= 264 * MIB
    assert empty.rss_after_warmup_bytes <= empty.peak_rss_bytes


def test_building_is_not_part_of_the_measured_run():
    """A peak of 400 MiB while building does not count where the kernel clears the mark."""
    reading = measure_peak_rss("workloads:built_with_a_peak", ["8"])
    least = 8 * MIB if reading.cleared else 400 * MIB
    assert least <= reading.peak_rss_bytes
    assert (reading.peak_rss_bytes < 200 * MIB) is reading.cleared


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("workloads:broken", "no such checkpoint"),
        ("workloads:missing", "missing"),
        ("nowhere:touched", "No module named 'nowhere'"),
        ("workloads:silent", "ended with 3: no message on stderr"),
    ],
)
def test_a_failed_child_is_an_error_with_the_last_line_of_its_stderr(target, words):
    """There is no reading then."""
    with pytest.raises(RssError, match=words):
        measure_peak_rss(target)


def test_a_child_that_hangs_is_killed():
    """At the time limit, with a message that names it."""
    with pytest.raises(RssError, match=r"longer than 0\.5 s"):
        measure_peak_rss("workloads:endless", timeout_s=0.5)


def test_an_existing_workload_is_sent_to_a_child(tmp_path, monkeypatch):
    """This process continues meanwhile; the child can import the same modules."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PYTHONPATH")
    workloads = importlib.import_module("workloads")
    empty, full = (start_peak_rss(partial(workloads.touch, mib)) for mib in (1, 257))
    grown = full.reading().peak_rss_bytes - empty.reading().peak_rss_bytes
    assert 0.99 * 256 * MIB <= grown <= 264 * MIB


def test_a_workload_that_cannot_be_pickled_is_an_error_with_its_reason():
    """A closure cannot be sent to another process."""
    with pytest.raises(RssError, match="cannot be sent"):
        start_peak_rss(lambda: None)


def test_the_workload_runs_twice_and_the_second_run_counts(tmp_path):
    """The first run is dry, the second is measured."""
    file = tmp_path / "calls"
    reading = measure_peak_rss("workloads:counting", [str(file)])
    assert file.read_text() == "xx"
    assert reading.peak_rss_bytes > MIB


def test_a_process_that_ran_something_else_is_no_fresh_child():
    """This one holds what its tests left; its figure would be of another kind."""
    with pytest.raises(RssError, match="fresh process only"):
        measure_here(lambda: None)


def test_a_mark_that_the_work_clears_is_an_error():
    """A peak of 64 MiB more was seen on the way, and the kernel's mark lies below it."""
    with pytest.raises(RssError, match="was cleared while the work ran"):
        measure_peak_rss("workloads:clearing")


@pytest.mark.parametrize("kind", ["ended", "running"])
def test_memory_of_processes_that_the_work_starts_is_in_doubt(kind):
    """They are resident elsewhere: the reading is of the child alone."""
    reading = measure_peak_rss("workloads:elsewhere", [kind])
    assert reading.reason == "memory of the processes that the work started was not seen"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, None),
        ({"cleared": False}, "contains building"),
        ({"swapped_bytes": 4096}, "swapped out"),
        ({"has_children": True}, "not seen"),
    ],
)
def test_a_figure_of_another_kind_has_its_reason(change, word):
    """A whole life's peak, a part of a process, a part of several: none is that of the run."""
    reading = replace(RssReading(2 * MIB, MIB, cleared=True), **change)
    assert reading.reason is None if word is None else word in str(reading.reason)
