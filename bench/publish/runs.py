"""Records as W&B runs. The only room that imports wandb.

    publish(folder, mode, project)      one trial's record, in this process
    publish_all(dirs, mode, project)    every record below some folders (`condbench publish`)
    with Mirror(mode, project) as mirror:
        mirror.send(folder)             between trials; see bench.publish.mirror
    python -m bench.publish MODE PROJECT    the process that a Mirror feeds

The records are the store and W&B is a mirror. wandb's files go below the experiment's folder, never
into the working directory. No code, console, machine description or environment is sent.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from bench.publish.mirror import GRACE_S, SEND_TIMEOUT_S, Mirror, PublishWarning
from bench.records.files import read_json
from bench.records.layout import trial_folder
from bench.records.reading import read_one, record_files
from bench.records.record import RECORD_NAME, BadRecord, Metric, Record
from bench.records.redaction import redact
from bench.records.validation import first_error

TAG_LENGTH = 64  # characters: W&B rejects a longer tag
NIGHT_NAME = "verdict.json"

__all__ = ["Mirror", "PublishWarning", "publish", "publish_all", "publish_night"]


class Ratio(BaseModel):
    """The cost of the candidate relative to the baseline."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: float | None


class NightRow(BaseModel):
    """A row of a verdict, as far as it is sent."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str
    metric: str
    judgement: str
    ratio: Ratio | None


class Night(BaseModel):
    """A verdict, likewise."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    baseline: str
    candidate: str
    hardware: str
    outcome: str
    exit_code: int
    canary_s: float | None
    rows: list[NightRow]


class NotSent(Exception):
    """A night was not sent to W&B; the message has its folder and the reason."""


def publish(folder: Path, mode: str, project: str) -> None:
    """Mirror the record in `folder` as a W&B run whose id is the trial's key.

    `mode` is offline (files below the experiment's folder, to be sent by `wandb sync`) or online;
    with disabled nothing happens. Raises BadRecord for an unreadable record and for one of a
    fake device, and whatever wandb raises.
    """
    if mode == "disabled":
        return
    record = read_one(folder / RECORD_NAME).record
    root = wandb_root(folder, record)
    # Read when wandb is imported; without it the debug log goes into the home directory.
    os.environ.setdefault("WANDB_CACHE_DIR", str(root / "wandb" / "cache"))
    import wandb

    run = wandb.init(
        project=project,
        id=record.key,
        name=run_name(record),
        group=record.labels.experiment,
        job_type=record.labels.method,
        tags=tags(record),
        config=record.config,
        resume="allow" if mode == "online" else None,  # sent twice, it is still one run
        settings=wandb.Settings(**_settings(root, mode)),
    )
    run.summary.update(summary(record))
    run.finish(exit_code=1 if record.status == "failed" else 0)


def publish_night(folder: Path, mode: str, project: str) -> None:
    """Send the verdict.json of a night in `folder` as one W&B run of job type nightly.

    Raises OSError, ValueError and KeyError for a missing or damaged verdict, NotSent with the
    error of wandb.
    """
    verdict = read_json(folder / NIGHT_NAME)
    if wrong := first_error(Night, verdict, NIGHT_NAME):
        raise ValueError(f"{folder}: {wrong}")
    rows = {f"{row['model']} {row['metric']}": row for row in verdict["rows"]}
    values = {"outcome": verdict["outcome"], "canary_s": verdict["canary_s"]}
    for name, row in rows.items():
        values[f"{name}/judgement"] = row["judgement"]
        if row["ratio"] is not None:
            values[f"{name}/cost_ratio"] = row["ratio"]["value"]
    config = {side: verdict[side] for side in ("baseline", "candidate", "hardware")}
    exit_code, tag = verdict["exit_code"], verdict["hardware"][:TAG_LENGTH]
    try:
        import wandb

        settings = wandb.Settings(**_settings(folder, mode))
        run = wandb.init(
            project=project, job_type="nightly", tags=[tag], config=config, settings=settings
        )
        run.summary.update(values)
        run.finish(exit_code=exit_code)
    except Exception as error:  # wandb has no common error: no key, no network, a full disk
        raise NotSent(redact(f"{folder}: {type(error).__name__}: {error}")) from error


def _settings(root: Path, mode: str) -> dict[str, Any]:
    """Quiet, without the system sampler, and without a copy of code, machine or console."""
    off = ("disable_git", "disable_code", "disable_job_creation")
    # x_ settings are wandb's internal ones. Its system sampler would disturb a measurement.
    private = ("x_disable_meta", "x_disable_machine_info", "x_disable_stats")
    return {
        "root_dir": str(root),
        "mode": mode,
        "silent": True,
        "console": "off",
        "save_code": False,
        "x_save_requirements": False,
        # wandb waits minutes for a dead network by default.
        "init_timeout": SEND_TIMEOUT_S,
        "finish_timeout": SEND_TIMEOUT_S,
        **dict.fromkeys((*off, *private), True),
    }


def wandb_root(folder: Path, record: Record) -> Path:
    """The experiment's folder above a trial's, so that `wandb/` lies once per experiment.

    The trial's own folder where it does not lie as its labels and key say: an experiment called
    "tmp" or ".." must not lead out of the tree.
    """
    whole = folder.resolve()
    below = trial_folder(Path(), record.labels, record.key).parts
    return whole.parents[len(below) - 2] if whole.parts[-len(below) :] == below else folder


def run_name(record: Record) -> str:
    """`digits moe,num_experts=16 seed 0`."""
    labels = record.labels
    method = f"{labels.method},{labels.variant}" if labels.variant else labels.method
    return f"{labels.task} {method} seed {labels.seed}"


def tags(record: Record) -> list[str]:
    """Tags to filter runs by: task, backbone, method, hardware, device and status."""
    labels = record.labels
    words = (labels.task, labels.backbone, labels.method, labels.hardware, labels.device)
    # Without duplicates, which W&B rejects: a method may be called as its backbone is.
    return [word[:TAG_LENGTH] for word in dict.fromkeys((*words, record.status)) if word]


def summary(record: Record) -> dict[str, Any]:
    """The run's summary: valid metrics by their keys, the others' reasons, operating points."""
    values: dict[str, Any] = {"status": record.status, **_metric_values(record.metrics)}
    # A missing number is absent, never 0: W&B would plot it.
    values["reasons"] = {k: m.reason for k, m in record.metrics.items() if m.shown is None}
    if record.reason:
        values["reason"] = record.reason
    for point in record.points[1:]:  # the first is the default, whose metrics stand above
        name = ",".join(f"{key}={value}" for key, value in point.settings.items())
        values |= {f"point {name}/{k}": v for k, v in _metric_values(point.metrics).items()}
    return values


def _metric_values(metrics: dict[str, Metric]) -> dict[str, float]:
    """Value and bounds of every metric that a table may show."""
    values: dict[str, float] = {}
    for key, metric in metrics.items():
        if metric.shown is not None:
            bounds = {key: metric.shown, f"{key}_low": metric.low, f"{key}_high": metric.high}
            values |= {name: value for name, value in bounds.items() if value is not None}
    return values


def publish_all(dirs: Sequence[Path], mode: str, project: str) -> tuple[int, list[str]]:
    """Mirror every record below `dirs`; returns the number sent and the problems.

    Stops when W&B fails, as the next record would fail too. Raises FileNotFoundError for a folder
    that does not exist.
    """
    for folder in dirs:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; name one that `run` wrote")
    folders = [path.parent for path in record_files(dirs)]
    with Mirror(mode, project) as mirror, warnings.catch_warnings():
        warnings.simplefilter("ignore", PublishWarning)  # they are returned instead
        num_sent = sum(mirror.send(folder) for folder in folders)
    return num_sent, mirror.problems


def serve(mode: str, project: str) -> None:
    """The mirror's process: a folder per line in, one JSON line out; ends with its parent."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of wandb must not mix with the replies
    folders: queue.Queue[str | None] = queue.Queue()
    # A thread reads, so that the end of the parent is seen also while wandb hangs.
    threading.Thread(target=_read_folders, args=(folders,), daemon=True).start()
    while (line := folders.get()) is not None:
        replies.write(json.dumps(_reply(Path(json.loads(line)), mode, project)) + "\n")


def _read_folders(folders: queue.Queue[str | None]) -> None:
    """Queue the lines of stdin; after its end, exit within GRACE_S whatever wandb does."""
    for line in sys.stdin:
        folders.put(line)
    folders.put(None)
    time.sleep(GRACE_S)  # the parent has ended: a hanging upload must not outlive it
    os._exit(1)  # sys.exit() would end this thread only


def _reply(folder: Path, mode: str, project: str) -> dict[str, Any]:
    try:
        publish(folder, mode, project)
    except BadRecord as error:
        return {"record": True, "error": str(error)}
    except BaseException as error:  # wandb may call sys.exit()
        # One line of bounded length, as the reply is one line.
        message = redact(f"{type(error).__name__}: {error}")  # wandb quotes a rejected key
        return {"error": message.splitlines()[0][:300]}
    return {"ok": True}
