"""The local queue, with real processes that behave badly and need no torch."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.launch import process
from bench.launch.devices import Machine
from bench.launch.local import run_trials
from bench.launch.outcome import Outcome, Summary
from bench.launch.pending import PendingTrial
from bench.launch.progress import Lines
from bench.records.record import LOG_NAME, RECORD_NAME, Record, read_record
from tests.fakes.fake_trials import ENTRY, PATIENCE_S, PRELOAD, SECRET, make_trial, wait_for, write

LIMIT_S = 1.0  # from the first message on, see `clock_from_ready`
DEADLINE = process.TrialProcess.deadline_s.fget
OVER_LIMIT = ("wait", "report_sigterm", "wrap_sigterm")
BAD_ENDS = {
    "raise": "ValueError: boom",
    "exit": "called sys.exit(0)",
    "vanish": "exited with code 0 without a record",
    "kill": "killed by SIGKILL",
    "abort": "killed by SIGABRT",
    "starve": "out of memory (MemoryError)",
    "nan": "a value must be finite",
    "wait": "exceeded its time limit of 1 s",
    "report_sigterm": "exceeded its time limit of 1 s",
    "wrap_sigterm": "exceeded its time limit of 1 s",
    "leave_a_process": "killed by SIGKILL",
}


STRAYS = (
    *("stray", "stray_then_raise", "stray_then_wait"),
    *("stray_then_kill", "stray_then_abort", "stray_then_vanish"),
)


def launch(folders: list[Path], place: Path, gpus: tuple[str, ...] = (), **options) -> Summary:
    """run_trials on a machine with locks of its own, with fake trials; shown in place/shown."""
    locks = place / "locks"
    locks.mkdir(exist_ok=True)
    with (place / "shown").open("a") as shown:
        return run_trials(
            folders,
            machine=Machine(gpus, locks),
            display=Lines(shown),
            entry=ENTRY,
            preload=PRELOAD,
            **options,
        )


def seen_by(folder: Path) -> dict:
    """What a fake trial recorded about its process."""
    return read_record(folder / RECORD_NAME).diagnostics


@pytest.fixture(scope="module", autouse=True)
def clock_from_ready() -> Iterator[None]:
    """The time limit counts from the first message, however slowly a busy machine starts it."""

    def deadline_s(live: process.TrialProcess) -> float:
        patience_s = PATIENCE_S if live.phase == "start" else 0.0
        limit_s = live.phase_started_s + live.limit_s + patience_s
        return limit_s if live.kill_at_s is None else live.kill_at_s

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process.TrialProcess, "deadline_s", property(deadline_s))
        yield


def test_a_time_limit_counts_from_the_start_of_the_process() -> None:
    """Outside these tests it does: imports are part of a trial; after SIGTERM the grace counts."""
    live = process.TrialProcess(
        Path(), "cpu", 7.0, None, None, None, None, started_s=10.0, phase_started_s=12.0
    )
    assert DEADLINE(live) == 17.0
    live.kill_at_s = 22.0
    assert DEADLINE(live) == 22.0


@pytest.fixture(scope="module")
def night(tmp_path_factory) -> dict[str, Outcome]:
    """One queue in which everything goes wrong, between two good trials."""
    place = tmp_path_factory.mktemp("night")
    names = ["brief", *BAD_ENDS, "ok"]
    limits = [LIMIT_S if name in OVER_LIMIT else 300.0 for name in names]
    folders = [
        make_trial(place, number, name, timeout_s=limit_s)
        for number, (name, limit_s) in enumerate(zip(names, limits, strict=True))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_SECRET", SECRET)
        patch.setattr(process, "GRACE_S", 60.0)  # SIGTERM is enough, as exit codes show
        summary = launch(folders, place)
    assert [one.folder for one in summary.outcomes] == folders
    assert (summary.exit_code, summary.interrupted) == (1, False)
    return dict(zip(names, summary.outcomes, strict=True))


@pytest.mark.parametrize("behaviour", BAD_ENDS)
def test_bad_end_leaves_a_failed_record(night, behaviour) -> None:
    """A trial that ends badly in any way leaves a failed record with the cause as its reason."""
    outcome = night[behaviour]
    record = read_record(outcome.folder / RECORD_NAME)
    assert (outcome.status, record.status) == ("failed", "failed")
    assert BAD_ENDS[behaviour] in record.reason
    assert record.reason == outcome.reason
    assert record.labels.variant == f"do={behaviour}"
    assert record.key == json.loads((outcome.folder / "trial.json").read_text())["key"]


def test_the_others_still_run(night) -> None:
    """Trials before and after failing ones run and keep their records."""
    for name in ("brief", "ok"):
        assert night[name].status == "ok"
        assert read_record(night[name].folder / RECORD_NAME).status == "ok"


def test_output_goes_to_the_log(night) -> None:
    """The output of a trial is in its trial.log, with the traceback of its failure."""
    log = (night["raise"].folder / LOG_NAME).read_text()
    assert "behaving as raise" in log
    assert "Traceback (most recent call last)" in log


@pytest.mark.parametrize("behaviour", ["wait", "wrap_sigterm"])
def test_log_shows_where_a_trial_hung(night, behaviour) -> None:
    """A trial ended at its time limit leaves its stack in the log, and its place in the reason."""
    assert "in _wait" in (night[behaviour].folder / LOG_NAME).read_text()
    assert "in _wait" in night[behaviour].reason
    assert seen_by(night[behaviour].folder)["exit_code"] == -signal.SIGTERM


def test_records_hold_no_secrets(night) -> None:
    """Values of secret variables and text that looks like a key stay out of a failed record."""
    text = (night["raise"].folder / RECORD_NAME).read_text()
    assert SECRET not in text
    assert "abcdefgh12345678" not in text  # printed as api_key = ...
    assert "boom with ***" in text


def test_what_a_trial_started_ends_with_it(night) -> None:
    """Processes that a dead trial left behind are ended before the next trial."""
    pid = int((night["leave_a_process"].folder / "sleeper").read_text())
    wait_for(lambda: not _is_running(pid))


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie has ended; reaping orphans is the init process's job


@pytest.fixture(scope="module")
def strays(tmp_path_factory) -> Iterator[dict[str, list[int]]]:
    """Processes in sessions of their own, by the behaviour of the trial that started them."""
    place = tmp_path_factory.mktemp("strays")
    folders = [make_trial(place, n, name, timeout_s=LIMIT_S) for n, name in enumerate(STRAYS)]
    launch(folders, place)
    found = {
        name: [int(pid) for pid in (folder / "strays").read_text().split()]
        for name, folder in zip(STRAYS, folders, strict=True)
    }
    running = {pid for pids in found.values() for pid in pids if _is_running(pid)}
    yield found | {"place": place, "folders": folders, "running": running}
    for pid in running:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("name", STRAYS)
def test_no_session_outlives_its_trial(strays, name) -> None:
    """However the trial ends: by itself, at its time limit, in a crash; daemons included."""
    assert len(strays[name]) == 3
    assert not strays["running"] & set(strays[name])


def test_processes_of_a_trial_that_runs_are_left_alone(tmp_path) -> None:
    """Beside it another trial crashes, and what that had started ends."""
    names = ("outlive_the_other", "stray_then_kill")
    folders = [make_trial(tmp_path, n, name, kind="one") for n, name in enumerate(names)]
    summary = launch(folders, tmp_path, gpus=("GPU-a", "GPU-b"))
    assert sorted(one.status for one in summary.outcomes) == ["failed", "ok"]


def test_no_process_keeps_the_locks_of_an_ended_trial(strays) -> None:
    """Neither the device nor its folder is locked."""
    claim = Machine((), strays["place"] / "locks").claim(((),))
    assert claim is not None
    claim.release()
    for folder in strays["folders"]:
        log = PendingTrial(folder).lock()
        assert log is not None
        os.close(log)


def test_fresh_process_per_trial(night) -> None:
    """Every trial starts with freshly imported modules."""
    for name in ("brief", "ok"):
        seen = seen_by(night[name].folder)
        assert seen["num_runs"] == 1
        assert seen["torch"] is False


def test_phases_are_timed(night) -> None:
    """An outcome holds the seconds that the trial spent in each phase that it reported."""
    outcome = night["brief"]
    assert outcome.phases_s["train"] >= 0.05  # it sleeps that long
    assert sum(outcome.phases_s.values()) <= outcome.took_s


def test_record_of_a_trial_that_dies_later_stands(tmp_path) -> None:
    """A trial that is killed after its record was written counts by the status of its record."""
    folder = make_trial(tmp_path, 0, "finish_then_die")
    assert launch([folder], tmp_path).count("ok") == 1
    assert read_record(folder / RECORD_NAME).status == "ok"


def test_trial_that_ignores_sigterm_is_killed(tmp_path, monkeypatch) -> None:
    """A trial over its limit that does not end on SIGTERM is ended by SIGKILL."""
    monkeypatch.setattr(process, "GRACE_S", 0.1)
    folder = make_trial(tmp_path, 0, "ignore_sigterm", timeout_s=LIMIT_S)
    assert launch([folder], tmp_path).count("failed") == 1
    assert read_record(folder / RECORD_NAME).diagnostics["exit_code"] == -signal.SIGKILL


def test_old_record_gives_way(tmp_path) -> None:
    """A trial that is run again and dies does not count by the record from before."""
    folder = make_trial(tmp_path, 0, "kill")
    write(folder, "ok")
    assert launch([folder], tmp_path).count("failed") == 1
    assert read_record(folder / RECORD_NAME).status == "failed"


def test_cpu_trials_run_one_at_a_time(tmp_path) -> None:
    """On a CPU machine no trial begins before the one before it has ended."""
    folders = [make_trial(tmp_path, number, "brief") for number in range(4)]
    assert launch(folders, tmp_path).exit_code == 0
    spans = [seen_by(folder) for folder in folders]
    for earlier, later in itertools.pairwise(spans):
        assert earlier["ended_s"] <= later["began_s"]


def test_one_trial_per_gpu(tmp_path) -> None:
    """With two GPUs two trials run side by side, each seeing only the GPU that it was given."""
    folders = [make_trial(tmp_path, number, "meet", kind="one") for number in range(2)]
    assert launch(folders, tmp_path, gpus=("GPU-a", "GPU-b")).exit_code == 0
    assert sorted(seen_by(folder)["gpus"] for folder in folders) == ["GPU-a", "GPU-b"]


@pytest.mark.soak
def test_distributed_trial(tmp_path) -> None:
    """gpu=ddp runs a trial in one rank per GPU under torchrun; a failing rank fails the trial."""
    names = ("show_rank", "fail_in_rank_1")
    folders = [make_trial(tmp_path, number, name, kind="ddp") for number, name in enumerate(names)]
    summary = launch(folders, tmp_path, gpus=("GPU-a", "GPU-b"))
    assert [one.status for one in summary.outcomes] == ["ok", "failed"]
    assert [(folders[0] / f"rank{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    assert seen_by(folders[0])["gpus"] == "GPU-a,GPU-b"
    assert "RankFailed: rank 1: ValueError: rank 1 cannot" in summary.outcomes[1].reason
    assert "ValueError: rank 1 cannot" in (folders[1] / LOG_NAME).read_text()


def test_cpu_trial_sees_no_gpu(tmp_path) -> None:
    """A trial with gpu=cpu has every GPU hidden from it."""
    folder = make_trial(tmp_path, 0)
    launch([folder], tmp_path, gpus=("GPU-a",))
    assert seen_by(folder)["gpus"] == ""


def test_absent_gpu_is_named(tmp_path) -> None:
    """A trial that requires an absent GPU fails; the reason names it and the GPUs present."""
    folders = [make_trial(tmp_path, 0, kind="one", device="GPU-z"), make_trial(tmp_path, 1)]
    summary = launch(folders, tmp_path, gpus=("GPU-a",))
    failed = next(one for one in summary.outcomes if one.status == "failed")
    assert "GPU-z" in failed.reason
    assert "this machine has GPU-a" in failed.reason
    assert summary.count("ok") == 1


@pytest.mark.parametrize("content", [None, "{", '{"config": {}}'])
def test_bad_trial_json_stops_nothing(tmp_path, content) -> None:
    """A folder without a readable trial.json fails with that reason; the others run."""
    folders = [make_trial(tmp_path, 0), make_trial(tmp_path, 1)]
    (folders[0] / "trial.json").unlink()
    if content is not None:
        (folders[0] / "trial.json").write_text(content)
    summary = launch(folders, tmp_path)
    assert [one.status for one in summary.outcomes] == ["failed", "ok"]
    assert "could not be started" in summary.outcomes[0].reason
    assert "by another run" not in (tmp_path / "shown").read_text()


ODD_CONFIGS = {
    "a list": [["gpu", 1], ["timeout_s", 2]],
    "a list for gpu": {"gpu": ["cpu"], "timeout_s": 9},
    "an unknown kind": {"gpu": {"kind": "tpu", "device": None}, "timeout_s": 9},
    "a list for kind": {"gpu": {"kind": ["cpu"], "device": None}, "timeout_s": 9},
    "a number for device": {"gpu": {"kind": "one", "device": 5}, "timeout_s": 9},
    "a text for a time": {"gpu": {"kind": "cpu", "device": None}, "timeout_s": "9"},
    "a truth value for a time": {"gpu": {"kind": "cpu", "device": None}, "timeout_s": True},
    "null": None,
}


def test_odd_settings_stop_nothing(tmp_path) -> None:
    """Of another type than a plan writes, or nested without end: each fails alone, with a reason;
    a time limit of 10^300 seconds is one."""
    folders = [make_trial(tmp_path, number) for number in range(len(ODD_CONFIGS) + 1)]
    for folder, config in zip(folders, ODD_CONFIGS.values(), strict=False):
        content = json.loads((folder / "trial.json").read_text())
        (folder / "trial.json").write_text(json.dumps({**content, "config": config}))
    (folders[-1] / "trial.json").write_text("[" * 100_000)
    folders.append(make_trial(tmp_path, len(folders), timeout_s=1e300))
    summary = launch(folders, tmp_path)
    assert [one.status for one in summary.outcomes] == ["failed"] * (len(folders) - 1) + ["ok"]
    assert all("could not be started" in one.reason for one in summary.outcomes[:-1])


def test_no_process_can_be_made(tmp_path, monkeypatch) -> None:
    """Where no process can be made the trial fails with the cause, and its device is free again."""

    def refuse(*arguments: object) -> None:
        raise OSError("Resource temporarily unavailable")

    folder = make_trial(tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(process, "start", refuse)
        assert "temporarily unavailable" in launch([folder], tmp_path).outcomes[0].reason
    assert launch([folder], tmp_path).count("ok") == 1


def test_a_trial_that_cannot_start_is_published_too(tmp_path) -> None:
    """Its failed record is passed to `after_record` like any other."""
    folder = make_trial(tmp_path, 0, kind="one", device="GPU-z")
    published = []
    launch([folder], tmp_path, gpus=("GPU-a",), after_record=published.append)
    assert published == [folder]


def test_after_record_follows_every_trial(tmp_path) -> None:
    """Every record is published once, before the next trial starts; errors there stop nothing."""
    folders = [
        make_trial(tmp_path, number, name) for number, name in enumerate(("ok", "kill", "ok"))
    ]
    begun_at_publication = []

    def publish(folder: Path) -> None:
        assert isinstance(read_record(folder / RECORD_NAME), Record)
        begun_at_publication.append((folder, sum((f / "begun").exists() for f in folders)))
        raise ConnectionError("no network")

    assert launch(folders, tmp_path, after_record=publish).count("ok") == 2
    assert begun_at_publication == [(folder, number + 1) for number, folder in enumerate(folders)]
    assert (tmp_path / "shown").read_text().count("not published: ConnectionError: no network") == 3


def test_a_trial_that_another_launcher_ran_is_not_run(tmp_path) -> None:
    """A folder that another launcher finishes while we wait counts by its record and is not run."""
    mine, other = make_trial(tmp_path, 0, "ok"), make_trial(tmp_path, 1, "ok")
    published = []

    def publish(folder: Path) -> None:
        published.append(folder)
        write(other, "skipped", reason="needs tokens")  # by another launcher, meanwhile

    summary = launch([mine, other], tmp_path, after_record=publish)
    assert [one.status for one in summary.outcomes] == ["ok", "skipped"]
    assert not (other / "begun").exists()
    assert published == [mine]
    assert "by another run" in (tmp_path / "shown").read_text()


def test_outside_the_main_thread(tmp_path) -> None:
    """Trials can be launched from a thread, where no signal handler can be set."""
    folder = make_trial(tmp_path, 0)
    thread = threading.Thread(target=launch, args=([folder], tmp_path))
    thread.start()
    thread.join()
    assert read_record(folder / RECORD_NAME).status == "ok"


def test_nothing_is_left_open(tmp_path) -> None:
    """A run closes every file that it opened: locks, logs and pipes."""
    launch([make_trial(tmp_path, 0)], tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    launch(
        [make_trial(tmp_path, number, name) for number, name in ((1, "ok"), (2, "kill"))], tmp_path
    )
    assert len(list(Path("/proc/self/fd").iterdir())) == before
