"""W&B mirrors records and stops no run: real offline runs, and a broken wandb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import cli
from bench.publish.runs import (
    NIGHT_NAME,
    Mirror,
    PublishWarning,
    publish_all,
    run_name,
    summary,
    tags,
    wandb_root,
)
from bench.records.layout import trial_folder
from bench.records.record import Metric, PointResult, Record, missing, write_record

KEY = "ab" * 32
IDENTITY = {"config": {}, "versions": {"torch": "2.13.0"}, "hardware": "cpu-2x-test", "data": "d"}
SECRET = "not-a-key-" * 4  # 40 characters, as an API key has


def record(key: str = KEY) -> Record:
    """A trial with a valid, a missing and an invalid metric and two operating points."""
    slower = {"infer/quality": Metric(value=0.8, unit="accuracy")}
    return Record.model_validate(
        {
            "key": key,
            "status": "ok",
            "labels": {
                "experiment": "demo",
                "hardware": "cpu-2x-test",
                "task": "digits",
                "backbone": "transformer",
                "method": "moe",
                "variant": "num_experts=16",
                "seed": 3,
            },
            "config": {"method": {"num_experts": 16}},
            "provenance": {"identity": IDENTITY},
            "metrics": {
                "infer/speedup_b1": Metric(value=1.5, unit="1", low=1.4, high=1.6),
                "infer/energy_j_per_sample": missing("j", "no GPU"),
                "train/loss": Metric(value=9.0, unit="nat", valid=False, reason="diverged"),
            },
            "points": [
                PointResult(settings={"k": 2}, metrics={}),
                PointResult(settings={"k": 1}, metrics=slower),
            ],
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trial folder within an experiment named demo."""
    path = trial_folder(tmp_path / "results", record().labels, KEY)
    path.mkdir(parents=True)
    write_record(path, record())
    return path


@pytest.mark.parametrize("name", ["tmp", "/", ".", "..", "results", "../../other", "", "digits"])
def test_files_of_wandb_stay_in_the_tree(tmp_path: Path, name: str) -> None:
    """An experiment called as a folder further up, or as a way out: the trial's own folder."""
    path = tmp_path / "results" / "demo" / "hardware" / "digits" / "transformer" / "moe" / "seed3-1"
    made = record()
    labels = made.labels.model_copy(update={"experiment": name})
    assert wandb_root(path, made.model_copy(update={"labels": labels})) == path


def test_files_of_wandb_lie_once_per_experiment(folder: Path, tmp_path: Path) -> None:
    """Where a trial lies as its labels say, beside all others of its experiment."""
    assert wandb_root(folder, record()) == tmp_path / "results" / "demo"


@pytest.fixture
def broken_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`broken_wandb(code)` puts a module wandb made of that code before the real one."""

    def install(code: str) -> None:
        (tmp_path / "fake").mkdir()
        (tmp_path / "fake" / "wandb.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))

    return install


def test_summary_holds_valid_numbers_and_the_reasons_of_the_others():
    """A missing or invalid metric is absent from the summary, its reason is not."""
    values = summary(record())
    assert values["infer/speedup_b1"] == 1.5
    assert (values["infer/speedup_b1_low"], values["infer/speedup_b1_high"]) == (1.4, 1.6)
    assert "infer/energy_j_per_sample" not in values
    assert "train/loss" not in values
    reasons = {"infer/energy_j_per_sample": "no GPU", "train/loss": "diverged"}
    assert values["reasons"] == reasons


def test_summary_holds_the_other_operating_points():
    """The default point stands at the top, every other one under its settings."""
    assert summary(record())["point k=1/infer/quality"] == 0.8
    assert not any(name.startswith("point k=2") for name in summary(record()))


def test_labels_become_name_and_tags():
    """A run is named by task, method, variant and seed, and tagged with short words."""
    assert run_name(record()) == "digits moe,num_experts=16 seed 3"
    assert tags(record()) == ["digits", "transformer", "moe", "cpu-2x-test", "cpu", "ok"]
    long = record().model_copy(update={"labels": record().labels.model_copy()})
    object.__setattr__(long.labels, "hardware", "x" * 99)
    assert max(map(len, tags(long))) == 64


def test_real_wandb_writes_offline_runs_below_the_experiment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run's id is the trial's key; nothing goes elsewhere; no key or environment is written."""
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    home.mkdir()
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("PRIVATE_VARIABLE", "private-value")
    with Mirror("offline", "condbench") as mirror:
        assert mirror.send(folder)
        assert mirror.send(folder)
    assert mirror.problems == []
    root = tmp_path / "results" / "demo"
    files = [path for path in root.rglob("*") if path.is_file() and path.parent != folder]
    written = b"".join(path.read_bytes() for path in files)
    assert list(root.glob(f"wandb/offline-run-*-{KEY}/run-{KEY}.wandb"))
    assert b"infer/speedup_b1" in written
    assert SECRET.encode() not in written
    assert b"private-value" not in written
    assert list(cwd.iterdir()) == []
    assert list(home.iterdir()) == []


BROKEN = {
    "import": ("raise ImportError('libfoo is missing')", "libfoo is missing"),
    "init": ("def init(**_): raise OSError('no network')\nSettings = dict", "no network"),
    "exit": ("import sys\ndef init(**_): sys.exit(3)\nSettings = dict", "SystemExit"),
    "crash": ("import os\nos.kill(os.getpid(), 9)", "its process ended"),
    "hang": ("import time\ntime.sleep(600)", "no reply within"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_wandb_warns_once_and_stops_nothing(kind: str, folder: Path, broken_wandb):
    """Every failure: sending returns False, warns once and is off for the rest of the run."""
    code, cause = BROKEN[kind]
    broken_wandb(code)
    with Mirror("offline", "p", timeout_s=2.0 if kind == "hang" else 60.0) as mirror:
        with pytest.warns(PublishWarning, match="the W&B mirror is off") as seen:
            assert not mirror.send(folder)
        assert not mirror.send(folder)
    assert len(seen) == 1
    assert cause in mirror.problems[0]
    assert "condbench publish" in mirror.problems[0]


def test_an_error_that_quotes_the_api_key_loses_it(
    folder: Path, broken_wandb, monkeypatch: pytest.MonkeyPatch
):
    """An error about a wrong key is passed on without the key."""
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    broken_wandb(f"def init(**_): raise ValueError('bad key {SECRET}!')\nSettings = dict")
    with Mirror("online", "p") as mirror, pytest.warns(PublishWarning):
        mirror.send(folder)
    assert "bad key ***!" in mirror.problems[0]


def test_processes_of_a_hanging_wandb_are_ended(folder: Path, tmp_path: Path, broken_wandb):
    """A process that wandb started does not outlive a mirror that was turned off."""
    pid_file = tmp_path / "pid"
    broken_wandb(
        "import os, subprocess, time\n"
        f"path = {str(pid_file)!r}\n"
        "class Run:\n"
        "    summary = {}\n"
        "    def finish(self, exit_code): pass\n"
        "def init(**_):\n"
        "    if os.path.exists(path): time.sleep(600)\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    open(path, 'w').write(str(child.pid))\n"
        "    return Run()\n"
        "Settings = dict\n"
    )
    with Mirror("offline", "p", timeout_s=60.0) as mirror:
        assert mirror.send(folder)
        mirror.timeout_s = 0.5
        with pytest.warns(PublishWarning):
            assert not mirror.send(folder)
    assert _gone(int(pid_file.read_text()))


def test_a_damaged_record_does_not_end_the_mirror(folder: Path, broken_wandb):
    """A record that cannot be read is named; the next one is still sent."""
    broken_wandb(
        "class Run:\n"
        "    summary = {}\n"
        "    def finish(self, exit_code): pass\n"
        "def init(**_): return Run()\n"
        "Settings = dict\n"
    )
    damaged = folder.parent / "seed4"
    damaged.mkdir()
    (damaged / "record.json").write_text("{")
    with Mirror("offline", "p") as mirror:
        with pytest.warns(PublishWarning, match="not mirrored"):
            assert not mirror.send(damaged)
        assert mirror.send(folder)
    assert publish_all([folder.parent], "offline", "p")[0] == 1


def test_disabled_starts_no_process(folder: Path):
    """With mode disabled nothing is started, sent or warned about."""
    with Mirror("disabled", "p") as mirror:
        assert not mirror.send(folder)
    assert mirror.problems == []


def test_an_unknown_mode_is_refused():
    """The choices are named."""
    with pytest.raises(ValueError, match="offline, online, disabled"):
        Mirror("sometimes", "p")


def test_publishing_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    """The missing folder is named instead of nothing being sent."""
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        publish_all([tmp_path / "nowhere"], "offline", "p")


def test_the_launchers_side_does_not_import_wandb():
    """Importing the room costs no import of wandb or torch."""
    code = "import sys, bench.publish.runs; print(sorted({'wandb', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.soak
def test_a_hanging_mirror_does_not_outlive_its_killed_parent(
    folder: Path, tmp_path: Path, broken_wandb
):
    """kill -9 of the launcher ends the mirror's process, also in the middle of an upload."""
    pid_file = tmp_path / "pid"
    broken_wandb(
        f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )
    code = (
        "import sys, pathlib\nfrom bench.publish.runs import Mirror\n"
        "with Mirror('offline', 'p') as mirror: mirror.send(pathlib.Path(sys.argv[1]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    _wait_for(lambda: pid_file.exists() and pid_file.read_text() != "")
    parent.kill()
    parent.wait()
    assert _gone(int(pid_file.read_text()))


def _gone(pid: int) -> bool:
    return _wait_for(lambda: not _alive(pid))


def _wait_for(condition, patience_s: float = 60.0) -> bool:
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


NIGHT = {
    "rows": [],
    "outcome": "no regression",
    "canary_s": 0.1,
    "baseline": "a",
    "candidate": "b",
    "hardware": "cpu-2x-test",
    "exit_code": 0,
}


def test_a_night_that_wandb_rejects_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Without a key wandb raises: exit 1, its message, and no traceback."""

    def refuse(**_: object) -> None:
        raise RuntimeError("api_key not configured (no-tty)")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse, Settings=dict))
    (tmp_path / NIGHT_NAME).write_text(json.dumps(NIGHT))
    assert cli.main(["publish", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error == f"not sent: {tmp_path}: RuntimeError: api_key not configured (no-tty)\n"
    (tmp_path / NIGHT_NAME).write_text("{}")
    assert cli.main(["publish", str(tmp_path)]) == 2
