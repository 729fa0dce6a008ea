"""Trials without models, for tests of the launcher; the config of each sets its behaviour."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.launch.messages import Reporter
from bench.records.record import Labels, Record, write_record

ENTRY = "tests.fakes.fake_trials:run"
PRELOAD = ("tests.fakes.fake_trials", "bench.launch.child")  # no torch, for a fast start
PATIENCE_S = 120.0  # longer than any wait on a busy machine
SECRET = "correct horse battery"
num_runs = 0  # in this process


def make_trial(
    root: Path, number: int, behaviour: str = "ok", *, timeout_s: float = 300.0, **gpu: str
) -> Path:
    """A trial folder as the plan writes it, whose trial will show `behaviour`."""
    folder = root / "digits/transformer" / f"method,do={behaviour}" / f"seed{number}-{number:08x}"
    folder.mkdir(parents=True)
    labels = Labels(
        experiment="x",
        hardware="cpu",
        task="digits",
        backbone="transformer",
        method="method",
        variant=f"do={behaviour}",
        seed=number,
    )
    gpu_config = {"kind": "cpu", "device": None, **gpu}
    content = {
        "schema_version": 1,
        "key": f"key{number}",
        "labels": labels.model_dump(),
        "config": {"do": behaviour, "timeout_s": timeout_s, "gpu": gpu_config},
    }
    (folder / "trial.json").write_text(json.dumps(content))
    return folder


def run(folder: Path, on_phase: Callable[[str, float], None] = lambda phase, share: None) -> None:
    """The entry point: behave, and write an `ok` record if that returns."""
    global num_runs
    num_runs += 1
    trial = json.loads((folder / "trial.json").read_text())
    began = time.monotonic()
    (folder / "begun").write_text(str(os.getpid()))
    with (folder / "runs").open("a") as runs:
        runs.write("run\n")
    print("behaving as", trial["config"]["do"])
    on_phase("train", 0.5)
    BEHAVIOURS[trial["config"]["do"]](folder)
    seen = {
        "began_s": began,
        "ended_s": time.monotonic(),
        "num_runs": num_runs,
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "wandb_key": os.environ.get("WANDB_API_KEY"),
        "torch": "torch" in sys.modules,
        "held_signals": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "main": getattr(sys.modules["__main__"], "__file__", None),
    }
    write(folder, "ok", diagnostics=seen)


def write(folder: Path, status: str, **content: Any) -> None:
    trial = json.loads((folder / "trial.json").read_text())
    fields = {name: trial[name] for name in ("key", "labels", "config")}
    write_record(folder, Record.model_validate({"status": status, **fields, **content}))


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until `condition` returns a true value and return it. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise TimeoutError("the condition never became true")


def _raise(folder: Path) -> None:
    print("api_key = abcdefgh12345678")
    raise ValueError(f"boom with {SECRET}")


def _starve(folder: Path) -> None:
    bytearray(1 << 60)


def _wait(folder: Path) -> None:
    time.sleep(600)


def _leave_a_process(folder: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    (folder / "sleeper").write_text(str(sleeper.pid))
    os.kill(os.getpid(), signal.SIGKILL)


def _stray(folder: Path) -> None:
    """Leave processes in sessions of their own: a copy of this one, another program, a daemon.

    The daemon's parent has ended, and no signal but SIGKILL ends it.
    """
    copy = os.fork()
    if copy == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
    program = subprocess.Popen(["sleep", "600"], start_new_session=True)
    parent = os.fork()
    if parent == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            (folder / "daemon").write_text(f"{os.getpid()} ")
            time.sleep(600)
        os._exit(0)
    os.waitpid(parent, 0)
    wait_for(lambda: os.getsid(copy) == copy)
    daemon = wait_for(lambda: (folder / "daemon").exists() and (folder / "daemon").read_text())
    (folder / "strays").write_text(f"{copy} {program.pid} {daemon}")


def _stray_then(end: Callable[[Path], Any]) -> Callable[[Path], None]:
    def behave(folder: Path) -> None:
        _stray(folder)
        end(folder)

    return behave


def _outlive_the_other(folder: Path) -> None:
    """End well, with a process of its own, once those of the other trial have ended."""
    own = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (other,) = [each for each in folder.parents[1].glob("*/*") if each != folder]
    strays = wait_for(lambda: (other / "strays").exists() and (other / "strays").read_text())
    wait_for(lambda: not any(Path(f"/proc/{pid}/status").exists() for pid in strays.split()))
    assert own.poll() is None, "the process of a trial that runs was ended"


def _finish_then_die(folder: Path) -> None:
    write(folder, "ok")
    os.kill(os.getpid(), signal.SIGKILL)


def _ignore_sigterm(folder: Path) -> None:
    begun = folder / "begun"
    signal.signal(signal.SIGTERM, lambda *_: begun.write_text("SIGTERM"))
    begun.write_text(" ")
    time.sleep(600)


def _report_sigterm(folder: Path) -> None:
    """Behave like a framework that turns the signal into an exception."""

    def fail(number: int, frame: object) -> None:
        write(folder, "failed", reason="received SIGTERM")
        os._exit(0)

    signal.signal(signal.SIGTERM, fail)
    (folder / "begun").write_text(str(os.getpid()) + " ")
    time.sleep(600)


def _wrap_sigterm(folder: Path) -> None:
    """Behave like Lightning, which calls the previous handler after its own."""
    found = signal.getsignal(signal.SIGTERM)
    assert callable(found)
    signal.signal(signal.SIGTERM, lambda number, frame: found(number, frame))
    _wait(folder)


def _meet(folder: Path) -> None:
    """Wait until two trials have begun: passes only where they run side by side."""
    wait_for(lambda: len(list(folder.parent.glob("*/begun"))) == 2)


def _show_rank(folder: Path) -> None:
    rank = os.environ["RANK"]
    (folder / f"rank{rank}").write_text(os.environ["WORLD_SIZE"])


def _fail_in_rank_1(folder: Path) -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("rank 1 cannot")
    time.sleep(600)


def _write_nan(folder: Path) -> None:
    write(folder, "ok", metrics={"train/loss": {"value": float("nan"), "unit": "nat"}})


def _write_junk(folder: Path) -> None:
    """Write what no reporter writes into the pipe to the launcher."""
    (reporter,) = [each for each in gc.get_objects() if isinstance(each, Reporter)]
    for junk in (
        b"\x00\xff junk\n",
        b'{"phase": 5, "share": []}\n',
        b'{"phase": "\x1b[2J", "share": NaN}\n',
        b'{"error": {"a": 1}}\n',
        b"[" * 30_000 + b"\n",
        # As the header of a message of 2 GB, of which nothing follows.
        b"\x7f\xff\xff\xff",
    ):
        os.write(reporter._messages.fileno(), junk)


def _look_for_keys(folder: Path) -> None:
    """Print a secret in three ways, and record the names of the variables."""
    print("py", SECRET, flush=True)
    os.write(2, f"fd {SECRET}\n".encode())
    subprocess.run(["echo", "sh", SECRET], check=True)
    start = Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0")
    names = [each.partition("=")[0] for each in start]
    write(folder, "ok", diagnostics={"environ": sorted(os.environ), "start": sorted(names)})
    os._exit(0)


BEHAVIOURS: dict[str, Callable[[Path], Any]] = {
    "ok": lambda folder: None,
    "brief": lambda folder: time.sleep(0.05),
    "raise": _raise,
    "exit": lambda folder: sys.exit(0),
    "vanish": lambda folder: os._exit(0),
    "kill": lambda folder: os.kill(os.getpid(), signal.SIGKILL),
    "abort": lambda folder: os.abort(),
    "starve": _starve,
    "nan": _write_nan,
    "junk": _write_junk,
    "look_for_keys": _look_for_keys,
    "wait": _wait,
    "leave_a_process": _leave_a_process,
    "stray": _stray,
    "stray_then_wait": _stray_then(_wait),
    "stray_then_kill": _stray_then(lambda folder: os.kill(os.getpid(), signal.SIGKILL)),
    "stray_then_abort": _stray_then(lambda folder: os.abort()),
    "stray_then_vanish": _stray_then(lambda folder: os._exit(0)),
    "stray_then_raise": _stray_then(_raise),
    "outlive_the_other": _outlive_the_other,
    "finish_then_die": _finish_then_die,
    "ignore_sigterm": _ignore_sigterm,
    "report_sigterm": _report_sigterm,
    "wrap_sigterm": _wrap_sigterm,
    "meet": _meet,
    "show_rank": _show_rank,
    "fail_in_rank_1": _fail_in_rank_1,
}
