"""The rule of tests/conftest.py that CI sets: only a test that needs a GPU may be skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NEEDS_A_GPU = """
import pytest

def test_on_a_gpu():
    pytest.skip("needs an NVIDIA GPU")

def test_that_runs():
    pass
"""
SKIPS_ITSELF = """
import pytest

def test_that_hides_a_hole():
    pytest.skip("no browser")
"""
SKIPS_ITS_FILE = 'import pytest\npytest.importorskip("no_such_package", exc_type=ImportError)\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A suite with our conftest.py: one test that passes, one skipped for lack of a GPU."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    (tmp_path / "test_gpu.py").write_text(NEEDS_A_GPU)
    return tmp_path


def run(folder: Path, jobs: str) -> subprocess.CompletedProcess[str]:
    """The suite in `folder`, as CI runs it."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", jobs]
    return subprocess.run(
        command,
        cwd=folder,
        # Without the settings of the run that this test is part of.
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        | {"CONDBENCH_NO_SKIP": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("jobs", ["0", "2"])
def test_a_skip_that_needs_no_gpu_fails_the_run(folder: Path, jobs: str) -> None:
    """In one process and in two, for a test as for a whole file, with the names of both."""
    (folder / "test_itself.py").write_text(SKIPS_ITSELF)
    (folder / "test_file.py").write_text(SKIPS_ITS_FILE)
    done = run(folder, jobs)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    _, named = done.stdout.split("skipped without needing a GPU:\n")
    skipped = {line.strip() for line in named.splitlines()[:2]}
    assert skipped == {"test_itself.py::test_that_hides_a_hole", "test_file.py"}
    assert "test_gpu.py" not in named.splitlines()[2]
    assert "1 passed, 3 skipped in " in done.stdout.splitlines()[-1]


def test_a_skip_for_lack_of_a_gpu_does_not(folder: Path) -> None:
    """The run is green, and its closing line counts the skipped test."""
    done = run(folder, "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 1 skipped in " in done.stdout.splitlines()[-1]
