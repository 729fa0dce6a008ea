"""`condbench run` from end to end, with a launcher that writes records without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bench import cli
from bench import run as run_module
from bench.launch import devices
from bench.launch import local as launch
from bench.launch.outcome import Outcome, Summary
from bench.records.record import RECORD_NAME, TRIAL_NAME, Labels, Record, write_record

if TYPE_CHECKING:
    from conftest import House

QUIET = "wandb.mode=disabled"


class Launcher:
    """Stands in for bench.launch.local: every trial ends at once, with `status`."""

    def __init__(self) -> None:
        self.status = "ok"
        self.ran: list[str] = []
        self.num_left = 0

    def __call__(
        self, folders: Sequence[Path], *, after_record: Callable[[Path], None], **_: Any
    ) -> Summary:
        summary = Summary(num_left=self.num_left)
        for folder in folders:
            trial = json.loads((folder / TRIAL_NAME).read_text())
            self.ran.append(folder.parent.name)
            fields = {name: trial[name] for name in ("key", "labels", "config")}
            reason = None if self.status == "ok" else "because"
            record = Record(status=self.status, reason=reason, **fields)
            record.provenance["identity"] = trial["identity"]  # the report requires it
            write_record(folder, record)
            summary.outcomes.append(Outcome(folder, self.status, reason))
            after_record(folder)
        return summary


@pytest.fixture
def launcher(house: House, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """A launcher without processes, and a house of fake plugins."""
    made = Launcher()
    monkeypatch.setattr(launch, "run_trials", made)
    return made


def test_a_run_writes_records_and_a_report(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials run, dense first; the report's paths end the output; exit 0."""
    assert cli.main(["run", "method=moe", QUIET]) == 0
    assert launcher.ran == ["dense", "moe"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "adhoc: 2 trials: 2 to do"
    assert lines[-1].startswith("report: results/adhoc/report/table.md ")
    assert Path("results/adhoc/report/report.html").exists()


def test_a_second_run_trains_nothing_and_explains_why(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """Completed trials are reported again, not run again."""
    cli.main(["run", "method=moe", QUIET])
    launcher.ran.clear()
    capsys.readouterr()
    assert cli.main(["run", "method=moe", QUIET]) == 0
    assert launcher.ran == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "adhoc: 2 trials: 2 done",
        "2 not run again: a record with the same configuration, code, versions, hardware and data "
        "exists",
    ]
    assert lines[-1].startswith("report: ")


def test_only_what_is_missing_runs(launcher: Launcher) -> None:
    """A larger matrix adds its new trials."""
    cli.main(["run", "method=moe", QUIET])
    launcher.ran.clear()
    cli.main(["run", "method=moe", "method.top_k=1,2", QUIET])
    assert launcher.ran == ["moe,top_k=2"]


def test_stale_trials_run_again_with_the_reason(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """The changed setting is printed before the trial runs."""
    cli.main(["run", "method=dense", "measure.rounds=10", QUIET])
    capsys.readouterr()
    cli.main(["run", "method=dense", "measure.rounds=20", QUIET])
    assert launcher.ran == ["dense", "dense"]
    assert ": measure.rounds 10 -> 20\n" in capsys.readouterr().out


def test_failed_trials_exit_1_and_wait_for_retry(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failure is an exit code now and on the next run, until retry=failed succeeds."""
    launcher.status = "failed"
    assert cli.main(["run", "method=dense", QUIET]) == 1
    launcher.status = "ok"
    assert cli.main(["run", "method=dense", QUIET]) == 1
    assert launcher.ran == ["dense"]
    assert "1 failed before and not run again; retry=failed runs them" in capsys.readouterr().out
    assert cli.main(["run", "method=dense", "retry=failed", QUIET]) == 0
    assert cli.main(["run", "method=dense", QUIET]) == 0
    assert launcher.ran == ["dense", "dense"]


def test_failures_are_summed_up_with_their_logs(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last lines count the statuses of the whole plan and name the logs of failed trials."""
    cli.main(["run", "method=dense", QUIET])
    launcher.status = "failed"
    capsys.readouterr()
    assert cli.main(["run", "method=moe", "method.top_k=1,2,3,4,5", QUIET]) == 1
    lines = capsys.readouterr().out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("report: "))
    assert lines[start + 1] == "1 ok, 5 failed, 0 skipped; logs of failed trials:"
    logs = lines[start + 2 : -1]
    assert [Path(line.strip()).name for line in logs] == ["trial.log"] * 3
    assert all(line.startswith("  results/adhoc/") for line in logs)
    assert lines[-1] == "  and 2 more"


def test_skipped_trials_exit_0(launcher: Launcher, capsys: pytest.CaptureFixture[str]) -> None:
    """Unsupported is a result, not a failure."""
    launcher.status = "skipped"
    assert cli.main(["run", "method=dense", QUIET]) == 0
    assert "failed" not in capsys.readouterr().out


def test_an_interrupted_run_exits_130_without_a_report(launcher: Launcher) -> None:
    """Ctrl-C keeps the finished records, and the next run resumes."""
    launcher.num_left = 1
    assert cli.main(["run", "method=dense", QUIET]) == 130
    assert not Path("results/adhoc/report").exists()


def test_a_broken_plugin_makes_the_run_exit_1(house: House, launcher: Launcher) -> None:
    """The other trials ran, but not everything that was requested."""
    house.offer("method", broken="no_such_module_here:Broken")
    assert cli.main(["run", "method=moe,broken", QUIET]) == 1
    assert launcher.ran == ["dense", "moe"]


def test_a_damaged_record_is_named_and_nothing_runs(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message with the path and a remedy, exit 2, and an unchanged file."""
    cli.main(["run", "method=dense", QUIET])
    (path,) = Path("results").rglob(RECORD_NAME)
    path.write_text("{ damaged")
    capsys.readouterr()
    assert cli.main(["run", "method=moe", QUIET]) == 2
    printed = capsys.readouterr().err
    assert str(path) in printed
    assert "move it away or delete it, then run again" in printed
    assert path.read_text() == "{ damaged"
    assert launcher.ran == ["dense"]


def hollow(path: Path) -> str:
    """Damage a record in its middle; its begin and end stay intact."""
    text = path.read_text()
    half = len(text) // 2
    path.write_text(text[:half] + "\x00" + text[half:])
    return path.read_text()


def test_a_record_damaged_within_is_named_after_the_report(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resume reads keys only; the report finds the damage, prints the rest, and exit is 2."""
    cli.main(["run", "method=moe", QUIET])
    path = next(p for p in Path("results").rglob(RECORD_NAME) if "moe" in str(p))
    damaged = hollow(path)
    capsys.readouterr()
    assert cli.main(["run", "method=moe", QUIET]) == 2
    printed = capsys.readouterr()
    assert "report: results/adhoc/report/table.md" in printed.out
    assert f"condbench: {path}: not readable as JSON" in printed.err
    assert printed.err.endswith("move it away or delete it, then run again\n")
    assert printed.err.count(str(path)) == 1
    assert path.read_text() == damaged


def test_a_run_without_any_readable_record_exits_2(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run without a table fails."""
    cli.main(["run", "method=dense", QUIET])
    (path,) = Path("results").rglob(RECORD_NAME)
    hollow(path)
    capsys.readouterr()
    assert cli.main(["run", "method=dense", QUIET]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("condbench: no report: ")
    assert str(path) in printed
    assert printed.endswith("move it away or delete it, then run again\n")


def test_a_damaged_record_of_another_run_is_left_out(launcher: Launcher) -> None:
    """Only the requested trials decide the exit code."""
    cli.main(["run", "method=moe", QUIET])
    hollow(next(p for p in Path("results").rglob(RECORD_NAME) if "moe" in str(p)))
    assert cli.main(["run", "method=dense", QUIET]) == 0


def test_device_locks_of_another_user_are_named(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message, exit 2, and nothing is written."""

    def reject() -> Path:
        raise PermissionError("/tmp/condbench-0 is owned by another user")

    monkeypatch.setattr(devices, "lock_folder", reject)
    assert cli.main(["run", "method=dense", QUIET]) == 2
    printed = capsys.readouterr().err
    assert printed == (
        "condbench: cannot lock a device: /tmp/condbench-0 is owned by another user; "
        "its owner must remove it\n"
    )
    assert not Path("results").exists()


def test_a_single_process_is_noted_before_anything_trains(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounds of one process do not see what changes between processes."""
    note = "note: measure.processes=1: intervals of speed-ups need at least 2 processes\n"
    for more in (["--plan"], []):
        cli.main(["run", "method=dense", "measure.processes=1", QUIET, *more])
        assert note in capsys.readouterr().out
    cli.main(["run", "method=dense", "measure.processes=2", QUIET])
    assert "note: measure" not in capsys.readouterr().out


def test_one_set_of_processes_serves_every_trial_of_a_run(launcher: Launcher, house: House) -> None:
    """As many as the trial with the most of them times in; none where one process is enough."""
    cli.main(["run", "method=dense", "measure.processes=1", QUIET])
    assert house.num_servers == []
    cli.main(["run", "method=dense", "measure.processes=2,3", QUIET])
    assert house.num_servers == [3]


def test_an_unwritable_results_folder_is_named(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path below a file cannot be written, even by root; exit 2 with a remedy."""
    Path("file").write_text("x")
    assert cli.main(["run", "method=dense", "results=file/results", QUIET]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("condbench: cannot write ")
    assert printed.endswith("Not a directory; choose another folder with results=PATH\n")
    assert launcher.ran == []


def test_records_are_mirrored_as_configured(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each record goes to the mirror of its mode and project; a mirror's problems are printed."""
    from bench.publish import mirror

    sent: list[tuple[str, str, str]] = []

    class Mirror:
        def __init__(self, mode: str, project: str) -> None:
            self.target = (mode, project)
            self.problems = [f"{project} is full"] if project == "b" else []

        def __enter__(self) -> Mirror:
            return self

        def __exit__(self, *_: object) -> None: ...

        def send(self, folder: Path) -> bool:
            sent.append((*self.target, folder.parent.name))
            return True

    monkeypatch.setattr(mirror, "Mirror", Mirror)
    cli.main(["run", "method=dense", "seed=0,1", "wandb.project=a"])
    ours = ["seed=2", "wandb.project=b", "wandb.mode=online"]
    assert cli.main(["run", "method=dense", *ours]) == 0
    assert "not mirrored: b is full\n" in capsys.readouterr().err
    assert sent == [("offline", "a", "dense")] * 2 + [("online", "b", "dense")]


def map_trials() -> list[Any]:
    """Planned trials of one method at three widths, as far as a map's budget reads them."""
    labels = Labels(
        experiment="map", hardware="h", task="shapes", backbone="b", method="moe", seed=0
    )
    task = {"kind": "tokens", "shape": [16]}
    return [
        SimpleNamespace(
            folder=Path(f"nowhere/{width}"),
            labels=labels,
            config={"map": {"minutes": 1.0}, "task": task, "backbone": {"dim": width}},
        )
        for width in (96, 192, 384)
    ]


@pytest.mark.parametrize(("step_s", "expected"), [(10.0, [96, 384]), (40.0, [96])])
def test_a_map_ends_before_its_time_is_up(
    step_s: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 60 s: sizes of 10 s are both run; after one of 40 s another would end at 80 s.

    The middle width waits for records on both sides of 1, and there are none.
    """
    clock = [0.0]
    monkeypatch.setattr(run_module.time, "monotonic", lambda: clock[0])
    trials = map_trials()
    ran = []
    for batch in run_module._batches(SimpleNamespace(trials=trials), trials):
        ran += [trial.config["backbone"]["dim"] for trial in batch]
        clock[0] += step_s
    assert ran == expected


def test_only_what_is_missing_counts_against_the_time() -> None:
    """What is done is not run again, and sizes without a trial to run take none."""
    trials = map_trials()
    batches = run_module._batches(SimpleNamespace(trials=trials), trials[2:])
    assert [[t.config["backbone"]["dim"] for t in batch] for batch in batches] == [[384]]


def test_without_a_budget_all_trials_are_one_batch() -> None:
    """A map without one runs every size."""
    trials = map_trials()
    for trial in trials:
        trial.config["map"] = {"minutes": None}
    assert list(run_module._batches(SimpleNamespace(trials=trials), trials)) == [trials]
