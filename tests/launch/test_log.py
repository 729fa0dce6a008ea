"""What a trial prints reaches its log without secrets, bounded, and whatever happens to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.launch import log as module
from bench.launch.log import TrialLog
from tests.fakes.odd_files import at_most

SECRET = "correct horse battery"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialLog:
    """A log into tmp_path/trial.log, of a launcher with a secret variable."""
    monkeypatch.setenv("MY_SECRET", SECRET)
    file = os.open(tmp_path / "trial.log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    made = TrialLog(file)
    os.close(file)
    return made


def written(log: TrialLog, place: Path) -> str:
    """The log, once everything is in it."""
    with at_most(60):
        log.close()
    return (place / "trial.log").read_text()


def test_no_secret_reaches_the_log(log: TrialLog, tmp_path: Path) -> None:
    """Its value, whole, in two pieces, or without a line's end; other lines stay as they are."""
    os.write(log.output, b"before\nit is correct horse")
    os.write(log.output, b" battery\nbytes \xff\nand correct horse battery")
    text = written(log, tmp_path)
    assert text == "before\nit is ***\nbytes \\udcff\nand ***\n"


def test_a_secret_of_several_lines_is_found_line_by_line(
    log: TrialLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a private key is printed: each of its lines counts."""
    monkeypatch.setenv("MY_KEY", "-----BEGIN-----\nAAAABBBBCCCC\nDDDDEEEEFFFF\n")
    os.write(log.output, b"AAAABBBBCCCC\n")
    os.write(log.output, b"key: DDDDEEEEFFFF.\n")
    text = written(log, tmp_path)
    assert "AAAA" not in text
    assert "DDDD" not in text


def test_a_flood_is_cut_in_the_middle(
    log: TrialLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2 MB the beginning and the end stay, and the number of bytes between them."""
    monkeypatch.setattr(module, "MAX_TAIL_BYTES", 50_000)
    log._head_left = 50_000
    code = "for n in range(200_000): print(f'{n:09}')"
    done = subprocess.run([sys.executable, "-c", code], stdout=log.output, check=True)
    assert done.returncode == 0
    text = written(log, tmp_path)
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == ("000000000", "000199999")
    (cut,) = [line for line in lines if line.endswith(" bytes cut]")]
    kept = sum(len(line) + 1 for line in lines if not line.startswith("["))
    assert int(cut.removeprefix("[").split()[0].replace(",", "")) + kept == 2_000_000
    assert len(text) < 500_000


def test_a_line_without_an_end_is_written(log: TrialLog, tmp_path: Path) -> None:
    """A progress bar, or a megabyte of text: in pieces, nothing of it lost."""
    code = "import sys; sys.stdout.write('x' * 1_000_000)"
    subprocess.run([sys.executable, "-c", code], stdout=log.output, check=True)
    assert written(log, tmp_path).replace("\n", "") == "x" * 1_000_000


def test_a_process_that_escaped_is_not_waited_for(log: TrialLog, tmp_path: Path) -> None:
    """It holds the pipe open for a minute; the log is complete at once, and it is left alone."""
    code = "import time; print('here', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", f"print('first', flush=True)\n{code}"], stdout=log.output
    ) as escaped:
        while "here" not in (tmp_path / "trial.log").read_text():
            assert escaped.poll() is None
        assert written(log, tmp_path) == "first\nhere\n"
        escaped.kill()


def test_a_full_disk_costs_the_log_only() -> None:
    """The trial goes on printing."""
    file = os.open("/dev/full", os.O_WRONLY)
    made = TrialLog(file)
    os.close(file)
    for _ in range(100):
        os.write(made.output, b"x" * 10_000 + b"\n")
    with at_most(60):
        made.close()
