"""A launcher that is interrupted, killed or doubled, with real processes."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.records.record import RECORD_NAME, read_record, read_state
from tests.fakes.fake_trials import PATIENCE_S, make_trial, wait_for

ROOT = Path(__file__).parents[2]


@dataclass
class Launcher:
    """A launcher's process, and the environment variable that marks all its descendants."""

    process: subprocess.Popen[str]
    mark: str

    def ends(self) -> tuple[dict, str]:
        """Wait for its end; its summary (empty if killed) and what it showed."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return json.loads(out or "{}"), err

    def family(self) -> list[int]:
        """Every live process that descends from it, itself included."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if not dead and self.mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture
def launch(tmp_path):
    """Starts launchers on tmp_path, and kills what is left of them at the end."""
    started = []

    def start(locks: str = "locks", **variables: str) -> Launcher:
        mark = f"CONDBENCH_TEST={uuid.uuid4()}"
        name, _, value = mark.partition("=")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.launch_driver", tmp_path, tmp_path / locks],
            cwd=ROOT,
            env={**os.environ, name: value, "WANDB_API_KEY": "0123456789abcdef", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(Launcher(process, mark))
        return started[-1]

    yield start
    for launcher in started:
        for pid in launcher.family():
            os.kill(pid, signal.SIGKILL)
        launcher.process.communicate()


def begun(folder: Path, mark: str = "") -> bool:
    """Whether the trial has reached its last step."""
    path = folder / "begun"
    text = path.read_text() if path.exists() else ""
    return text != "" and text.endswith(mark)  # a file exists before its content does


def behave(folder: Path, behaviour: str) -> None:
    """Change how a trial will behave, as if the cause of its trouble were fixed."""
    trial = json.loads((folder / "trial.json").read_text())
    trial["config"]["do"] = behaviour
    (folder / "trial.json").write_text(json.dumps(trial))


def to_process(launcher: Launcher, number: int) -> None:
    """Signal the launcher alone, as `kill` does."""
    os.kill(launcher.process.pid, number)


def to_group(launcher: Launcher, number: int) -> None:
    """Signal the launcher and its fork server, as a terminal's Ctrl-C does."""
    os.killpg(launcher.process.pid, number)


@pytest.mark.parametrize("send", [to_process, to_group])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_cleanly_and_resumes(tmp_path, launch, number, send) -> None:
    """Ctrl-C ends the running trial without a record; a rerun resumes and nothing is lost."""
    folders = [make_trial(tmp_path, n, name) for n, name in enumerate(("ok", "wait", "ok"))]
    launcher = launch()
    wait_for(lambda: begun(folders[1]))
    send(launcher, number)
    summary, shown = launcher.ends()
    assert launcher.process.returncode == 1
    assert summary == {
        "statuses": {folders[0].name: "ok", folders[1].name: "interrupted"},
        "num_left": 2,
    }
    assert "rerun to resume" in shown
    assert "Traceback" not in shown
    assert [read_state(folder) for folder in folders] == [("key0", "ok"), None, None]
    wait_for(lambda: not launcher.family())

    behave(folders[1], "ok")
    resumed = launch()
    assert resumed.ends()[0]["num_left"] == 0
    assert [read_state(folder)[1] for folder in folders] == ["ok", "ok", "ok"]
    assert (folders[0] / "runs").read_text() == "run\n"


SLOW_IMPORT = """
import time
from pathlib import Path
Path(__file__).with_name("imports").touch()
while not Path(__file__).with_name("go_on").exists():
    time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_the_fork_server_imports_is_no_failure(tmp_path, launch, number) -> None:
    """Ctrl-C in the first seconds leaves all trials to the next run and writes no failed record."""
    # The first one starts once the imports are done, and must not end before it is interrupted.
    folders = [make_trial(tmp_path, n, "wait") for n in range(2)]
    (tmp_path / "slow_import.py").write_text(SLOW_IMPORT)
    launcher = launch(PRELOAD_FIRST="slow_import", PYTHONPATH=str(tmp_path))
    wait_for((tmp_path / "imports").exists)
    to_group(launcher, number)
    (tmp_path / "go_on").touch()
    summary, shown = launcher.ends()
    assert summary["num_left"] == 2
    assert "rerun to resume" in shown
    assert "Traceback" not in shown
    assert [read_state(folder) for folder in folders] == [None, None]
    wait_for(lambda: not launcher.family())


def test_fork_server_lost_to_an_interrupt_is_no_failure(tmp_path, launch) -> None:
    """A trial that cannot start because Ctrl-C also hit the fork server is left, not failed."""
    folder = make_trial(tmp_path, 0)
    (tmp_path / "slow_import.py").write_text(SLOW_IMPORT)
    launcher = launch(PRELOAD_FIRST="slow_import", PYTHONPATH=str(tmp_path))
    wait_for((tmp_path / "imports").exists)
    launcher.process.send_signal(signal.SIGINT)
    for pid in set(launcher.family()) - {launcher.process.pid}:
        os.kill(pid, signal.SIGKILL)
    assert launcher.ends()[0] == {"statuses": {}, "num_left": 1}
    assert not (folder / RECORD_NAME).exists()


def test_trials_receive_every_signal(tmp_path, launch) -> None:
    """The signals that the fork server blocks are unblocked in its children."""
    folder = make_trial(tmp_path, 0)
    launch().ends()
    assert _seen(folder)["held_signals"] == []


def test_failure_of_an_interrupted_trial_is_not_kept(tmp_path, launch) -> None:
    """A trial that reports the interrupt as its own failure leaves no record and is run again."""
    folder = make_trial(tmp_path, 0, "report_sigterm")
    launcher = launch()
    wait_for(lambda: begun(folder, " "))
    launcher.process.send_signal(signal.SIGINT)
    assert launcher.ends()[0]["statuses"] == {folder.name: "interrupted"}
    assert not (folder / RECORD_NAME).exists()


def test_second_interrupt_kills(tmp_path, launch) -> None:
    """A second Ctrl-C does not wait for a trial that ignores the first."""
    folder = make_trial(tmp_path, 0, "ignore_sigterm")
    launcher = launch()
    wait_for(lambda: begun(folder, " "))
    launcher.process.send_signal(signal.SIGINT)
    wait_for(lambda: (folder / "begun").read_text().endswith("SIGTERM"))
    launcher.process.send_signal(signal.SIGINT)
    summary, shown = launcher.ends()
    assert summary["num_left"] == 1
    assert "Traceback" not in shown
    wait_for(lambda: not launcher.family())


@pytest.mark.parametrize("behaviour", ["wait", "stray_then_wait"])
def test_killed_launcher_leaves_no_orphan(tmp_path, launch, behaviour) -> None:
    """After kill -9 of the launcher no process of it lives on, and finished trials are kept.

    Nor does one that a trial has put into a session of its own.
    """
    folders = [make_trial(tmp_path, n, name) for n, name in enumerate(("ok", behaviour))]
    launcher = launch()
    wait_for(lambda: begun(folders[1]))
    wait_for(lambda: behaviour == "wait" or (folders[1] / "strays").exists())
    assert len(launcher.family()) >= 3  # launcher, fork server, trial
    launcher.process.kill()
    wait_for(lambda: not launcher.family())
    assert [read_state(folder) for folder in folders] == [("key0", "ok"), None]


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_distributed_trial_leaves_no_orphan(tmp_path, launch, number) -> None:
    """Ranks have sessions of their own under torchrun, and end with the launcher all the same."""
    folder = make_trial(tmp_path, 0, "wait", kind="ddp")
    launcher = launch()
    wait_for(lambda: (folder / "runs").exists() and (folder / "runs").read_text() == "run\n" * 2)
    launcher.process.send_signal(number)
    wait_for(lambda: not launcher.family())
    assert not (folder / RECORD_NAME).exists()


def test_killed_fork_server_fails_one_trial(tmp_path, launch) -> None:
    """When the fork server dies its running trial ends and fails; the next gets a new server."""
    folders = [make_trial(tmp_path, n, name) for n, name in enumerate(("wait", "ok"))]
    launcher = launch()
    wait_for(lambda: begun(folders[0]))
    trial = int((folders[0] / "begun").read_text())
    server = int(Path(f"/proc/{trial}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGKILL)
    summary, _ = launcher.ends()
    assert summary["statuses"] == {folders[0].name: "failed", folders[1].name: "ok"}
    wait_for(lambda: not launcher.family())


def test_two_launchers_share_a_tree(tmp_path, launch) -> None:
    """Two launchers on one tree and one CPU run every trial once, never two at a time."""
    folders = [make_trial(tmp_path, number, "brief") for number in range(6)]
    both = [launch(), launch()]
    for launcher in both:
        assert set(launcher.ends()[0]["statuses"].values()) == {"ok"}
    assert [(folder / "runs").read_text() for folder in folders] == ["run\n"] * 6
    spans = sorted((seen["began_s"], seen["ended_s"]) for seen in map(_seen, folders))
    for earlier, later in itertools.pairwise(spans):
        assert earlier[1] <= later[0]


def test_two_machines_share_a_tree(tmp_path, launch) -> None:
    """Launchers that share files but no devices work side by side and run every trial once."""
    folders = [make_trial(tmp_path, number, "brief") for number in range(12)]
    both = [launch("locks0"), launch("locks1")]
    for launcher in both:
        assert set(launcher.ends()[0]["statuses"].values()) <= {"ok"}
    assert [(folder / "runs").read_text() for folder in folders] == ["run\n"] * 12


def test_trials_see_neither_key_nor_program_of_the_launcher(tmp_path, launch) -> None:
    """A trial neither has the launcher's W&B key nor imports its main program."""
    folder = make_trial(tmp_path, 0)
    launch().ends()
    assert _seen(folder)["wandb_key"] is None
    assert _seen(folder)["main"] is None


def _seen(folder: Path) -> dict:
    return read_record(folder / RECORD_NAME).diagnostics


@pytest.mark.soak
def test_any_moment_to_be_killed(tmp_path, launch) -> None:
    """Killed at 50 random moments, launchers leave no orphan and no half record, and get done."""
    moments = random.Random(0)
    folders = [make_trial(tmp_path, number, "brief") for number in range(40)]
    for _ in range(50):
        kept = {f: (f / RECORD_NAME).stat().st_mtime_ns for f in folders if read_state(f)}
        launcher = launch()
        try:
            launcher.process.wait(timeout=moments.uniform(0.05, 1.2))
        except subprocess.TimeoutExpired:
            launcher.process.kill()
        wait_for(lambda: not launcher.family())  # noqa: B023
        assert all((f / RECORD_NAME).stat().st_mtime_ns == kept[f] for f in kept)
        for folder in folders:
            assert read_state(folder) in (None, (f"key{int(folder.name[4:].split('-')[0])}", "ok"))
    launch().ends()
    assert all(read_state(folder)[1] == "ok" for folder in folders)
