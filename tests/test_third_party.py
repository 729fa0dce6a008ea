"""A package in a temporary folder is installed, discovered, run and reported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records.record import RECORD_NAME, Record, read_record

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "sometimes"
version = "0.3"

[tool.setuptools]
py-modules = ["sometimes"]

[project.entry-points."condbench.methods"]
sometimes = "sometimes:Sometimes"
picky = "sometimes:Picky"
raising = "sometimes:Raising"
unimportable = "sometimes_missing:Nothing"

[project.entry-points."condbench.backbones"]
small = "sometimes:Small"

[project.entry-points."condbench.tasks"]
sides = "sometimes:Sides"
"""
MATRIX = ("task=sides", "backbone=small", "method=sometimes,picky,raising,unimportable")
BRIEF = (
    *("train.steps=20", "measure.rounds=3", "measure.num_inputs=16", "measure.batch_sizes=[1,16]"),
    *("measure.processes=2", "measure.warmup_s=0.01", "measure.block_ms=1"),
    *("wandb.mode=disabled", "name=try"),
)


# Private locks: a benchmark that runs on this machine must neither block a test nor be disturbed.
PROGRAM = """
import sys
from pathlib import Path
from bench import cli
from bench.launch import devices
devices.lock_folder = lambda: Path.cwd()
sys.exit(cli.main(sys.argv[1:]))
"""


class Place:
    """A folder with the installed package, where condbench is called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        source, self.site = root / "source", root / "site"
        source.mkdir()
        shutil.copy(Path(__file__).parent / "fakes" / "third_party.py", source / "sometimes.py")
        (source / "pyproject.toml").write_text(PYPROJECT)
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--quiet")
        self.python("-m", "pip", "install", *offline, "--target", str(self.site), str(source))

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.site)}
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def condbench(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.python("-c", PROGRAM, *words)

    def records(self) -> dict[str, Record]:
        found = [read_record(path) for path in (self.root / "results").rglob(RECORD_NAME)]
        return {record.labels.method: record for record in found}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The package, built and installed by pip without a network."""
    return Place(tmp_path_factory.mktemp("third_party"))


@pytest.fixture(scope="module")
def first(place: Place) -> subprocess.CompletedProcess[str]:
    """The first run of the matrix."""
    return place.condbench("run", *MATRIX, *BRIEF)


def test_an_installed_plugin_is_discovered(place: Place) -> None:
    """`condbench list` shows it with its distribution, without an edit in this repository."""
    lines = place.condbench("list").stdout.splitlines()
    (method,) = (line for line in lines if line.split()[:1] == ["sometimes"])
    assert "Runs the second layer for the samples that a gate chooses." in method
    assert method.endswith(" [sometimes]")
    (task,) = (line for line in lines if line.split()[:1] == ["sides"])
    assert task.split()[1].rstrip(",:") == "image"
    assert "On which side of a plane does a point lie?" in task
    assert "[sometimes]" in task


def test_an_installed_plugin_is_trained_and_measured(
    place: Place, first: subprocess.CompletedProcess[str]
) -> None:
    """A trial of its own beside the dense model's, with exact FLOPs and a speed-up."""
    records = place.records()
    assert records["sometimes"].status == "ok", first.stderr
    metrics = records["sometimes"].metrics
    # 2 x (8 x 8 + 8 x 2) = 160 for the first layer and the head, 2 x 8 = 16 for the gate, and
    # 2 x 64 = 128 for the second layer where it runs: between 176 and 304 per sample.
    assert 176 <= metrics["infer/flops_per_sample"].value <= 304
    assert records["dense"].metrics["infer/flops_per_sample"].value == 288
    assert metrics["infer/speedup_b16"].value > 0
    assert metrics["infer/quality"].value > 60
    assert records["sometimes"].provenance["identity"]["versions"]["sometimes"] == "0.3"
    for name, num_gates in (("sometimes", 1), ("dense", 0)):
        assert records[name].diagnostics["routing"]["num_gates"] == num_gates
        assert "deployability" in records[name].diagnostics


def test_unsupported_is_skipped_and_errors_fail(
    place: Place, first: subprocess.CompletedProcess[str]
) -> None:
    """Unsupported is skipped with its reason, an exception fails; the other trials run."""
    records = place.records()
    assert (records["picky"].status, records["picky"].reason) == ("skipped", "needs tokens")
    assert records["raising"].status == "failed"
    assert "a mistake of its own" in str(records["raising"].reason)


def test_the_run_names_what_failed_and_exits_1(first: subprocess.CompletedProcess[str]) -> None:
    """A failed trial and a plugin that does not import make exit code 1, without a traceback."""
    assert first.returncode == 1
    assert (
        "left out: method 'unimportable' (sometimes 0.3, sometimes_missing:Nothing)" in first.stderr
    )
    assert "Traceback" not in first.stderr


def test_the_run_ends_with_the_table_and_its_path(
    place: Place, first: subprocess.CompletedProcess[str]
) -> None:
    """The output ends with the table, its files, the failures and their logs."""
    assert "sometimes" in first.stdout
    *_, report, summary, log = first.stdout.splitlines()
    assert report.startswith("report: results/try/report/table.md")
    assert summary == "2 ok, 1 failed, 1 skipped; logs of failed trials:"
    assert log.startswith("  results/try/")
    assert log.endswith("/trial.log")
    assert "needs tokens" in (place.root / "results/try/report/table.md").read_text()


def test_a_second_run_trains_nothing_again(
    place: Place, first: subprocess.CompletedProcess[str]
) -> None:
    """Records are unchanged, and the output explains why."""
    paths = sorted((place.root / "results").rglob(RECORD_NAME))
    before = [path.stat().st_mtime_ns for path in paths]
    second = place.condbench("run", *MATRIX, *BRIEF)
    assert "try: 4 trials: 3 done, 1 failed" in second.stdout
    assert "3 not run again: a record with the same configuration" in second.stdout
    assert [path.stat().st_mtime_ns for path in paths] == before
