"""A trial that behaves as foreign code may: it writes into the pipe, and looks for keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.launch.messages import Receiver, parse
from bench.records.record import LOG_NAME, RECORD_NAME, read_record
from tests.fakes.fake_trials import SECRET, make_trial

HIDDEN = {
    "MY_SECRET": SECRET,
    "HF_TOKEN": "a token of a hub",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "AZURE_CLIENT_CREDENTIALS": "some credentials",
    "DB_PASSWORD": "hunter2hunter2",
    "GITHUBTOKEN": "without an underscore",
}
KEPT = {
    "SLURM_JOB_KEYS": "a setting of Slurm",
    "CUDA_CACHE_KEY": "a setting of CUDA",
    "LD_TOKEN_PATH": "a setting of the loader",
    "TOKENIZERS_PARALLELISM": "false",
    "MY_SETTING": "a setting of mine",
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of three trials that a launcher with secret variables has run."""
    place = tmp_path_factory.mktemp("foreign")
    names = ["junk", "look_for_keys", "ok"]
    folders = {name: make_trial(place, number, name) for number, name in enumerate(names)}
    command = [sys.executable, "-m", "tests.fakes.launch_driver", str(place), str(place / "locks")]
    environ = {**os.environ, **HIDDEN, **KEPT}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert json.loads(done.stdout)["statuses"] == {
        folder.name: "ok" for folder in folders.values()
    }, done.stderr
    assert "Traceback" not in done.stderr
    return folders


def test_junk_in_the_pipe_stops_nothing(foreign: dict[str, Path]) -> None:
    """Bytes, numbers for names, depth, a message that never ends: its own record counts, and the
    trials after it run."""
    assert read_record(foreign["junk"] / RECORD_NAME).status == "ok"
    assert read_record(foreign["ok"] / RECORD_NAME).status == "ok"


def test_a_trial_has_no_keys(foreign: dict[str, Path]) -> None:
    """Neither in its environment nor in the one that its process was started with; settings of
    Slurm, CUDA and loaders stay."""
    seen = read_record(foreign["look_for_keys"] / RECORD_NAME).diagnostics
    for where in ("environ", "start"):
        assert not set(HIDDEN) & set(seen[where])
    assert set(KEPT) <= set(seen["environ"])


def test_a_key_that_is_printed_is_not_in_the_log(foreign: dict[str, Path]) -> None:
    """By Python, by file descriptor and by a process that the trial started."""
    text = (foreign["look_for_keys"] / LOG_NAME).read_text()
    assert [line for line in text.splitlines() if "***" in line] == ["py ***", "fd ***", "sh ***"]
    assert SECRET not in text


@pytest.mark.parametrize(
    ("message", "taken"),
    [
        (b'{"phase": "train", "share": 0.5}', {"phase": "train", "share": 0.5}),
        (b'{"phase": "train"}', {"phase": "train", "share": 0.0}),
        (b'{"phase": "train", "share": 7}', {"phase": "train", "share": 1.0}),
        (b'{"phase": "train", "share": "half"}', {"phase": "train", "share": 0.0}),
        (b'{"phase": "train", "share": 1e999}', {}),
        (b'{"phase": ["train"], "share": 0.5}', {}),
        (b'{"error": 5}', {}),
        (b"[" * 5000, {}),
        (b"\xff\xfe", {}),
        (b"null", {}),
    ],
)
def test_only_fields_of_their_type_are_taken(message: bytes, taken: dict[str, object]) -> None:
    """Everything else that comes through the pipe is not there."""
    assert parse(message) == taken


def test_a_message_in_pieces_is_not_waited_for() -> None:
    """Half a message gives nothing yet; an endless one closes the pipe."""
    from multiprocessing import Pipe

    reader, writer = Pipe(duplex=False)
    receiver = Receiver(reader)
    os.write(writer.fileno(), b'{"phase": "tr')
    assert receiver.read() == []
    os.write(writer.fileno(), b'ain"}\n')
    assert receiver.read() == [{"phase": "train", "share": 0.0}]
    os.write(writer.fileno(), b"x" * 50_000)
    assert receiver.read() == []
    assert not reader.closed
    os.write(writer.fileno(), b"x" * 50_000)
    assert receiver.read() == []
    assert reader.closed
    writer.close()
