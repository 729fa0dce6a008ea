"""One trial in two processes under torchrun, with gloo on the CPU in place of nccl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import ranks
from bench.plan.matrix import make_plan
from bench.plan.staleness import write_trials
from bench.records.record import RAW_NAME, RECORD_NAME, TRIAL_NAME, Record, read_record
from bench.trial import prepare
from bench.trial import run as trial
from bench.trial.batches import EndlessBatches
from bench.trial.trial import read_trial
from bench.types import Batch

TRAIN = ["train.steps=4", "train.batch_size=32", "backbone.depth=2", "gpu.threads=1"]
BRIEF = [
    "measure.num_inputs=2",
    "measure.batch_sizes=[1]",
    "measure.rounds=1",
    "measure.processes=1",
]
QUICK = ["measure.warmup_s=0", "measure.block_ms=1"]
FAILING = """
import os
from dataclasses import dataclass
import torch

@dataclass
class Method:
    def build(self, spec, backbone):
        model = backbone.build(spec)
        model.spare = torch.nn.Linear(1, 1)  # as an expert without tokens: no gradient
        return model

    def loss(self, model, batch, criterion, progress):
        if progress > 0 and os.environ["RANK"] == "1":
            raise RuntimeError("rank 1 cannot")
        return criterion(model(batch), batch)
"""


def plan_trial(results: Path, *words: str) -> Path:
    """The folder of one trial on `digits` that takes seconds."""
    plan = make_plan([*TRAIN, *BRIEF, *QUICK, f"results={results}", *words])
    return write_trials(plan.trials[-1:])[0]


def run_in_two(folder: Path, *, more_paths: Path = Path()) -> subprocess.CompletedProcess[str]:
    """Run the trial in `folder` in two processes, as the launcher would on two GPUs."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = [str(Path(ranks.__file__).parents[1]), str(more_paths)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, *start, "-m", "bench.launch.child", str(folder), "bench.trial.run:run"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def read_result(folder: Path, finished: subprocess.CompletedProcess[str]) -> Record:
    assert (folder / RECORD_NAME).exists(), finished.stderr
    record = read_record(folder / RECORD_NAME)
    assert finished.returncode == 0, finished.stderr
    return record


def load_weights(results: Path) -> dict[str, torch.Tensor]:
    """The dense model that the trials below `results` share: there is one."""
    (path,) = (results / "checkpoints").glob("*.pt")
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """Trials in two processes, one after the other: the first also trains the dense model."""
    results = tmp_path_factory.mktemp("pair")
    settings = {"moe": [], "early_exit": ["method.every=1", "method.train_share=1"]}
    folders = {
        name: plan_trial(results, f"method={name}", *more) for name, more in settings.items()
    }
    found = {name: read_result(folder, run_in_two(folder)) for name, folder in folders.items()}
    assert all((folder / RAW_NAME).exists() for folder in folders.values())
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """The dense trial in one process."""
    results = tmp_path_factory.mktemp("alone")
    return results, trial.run(plan_trial(results, "method=dense"))


@pytest.mark.soak
@pytest.mark.parametrize("method", ["moe", "early_exit"])
def test_a_trial_in_two_processes_is_recorded_once(pair: dict[str, Record], method: str) -> None:
    """Experts without tokens, a loss of the method's own: trained, measured, no number missing."""
    record = pair[method]
    assert (record.status, record.reason) == ("ok", None)
    assert record.environment["world_size"] == 2
    assert record.metrics["train/num_steps"].value == 4
    for name in ("train/flops_per_step", "train/peak_tensor_bytes", "infer/quality"):
        assert record.metrics[name].valid, record.metrics[name]
    assert any("2 processes" in note for note in record.notes)


@pytest.mark.soak
def test_two_processes_train_the_weights_that_one_trains(
    pair: dict[str, Record], alone: tuple[Path, Record]
) -> None:
    """The same samples in the same order: the same weights, but for rounding; stored once."""
    results, _ = alone
    single, double = load_weights(results), load_weights(Path(pair["moe"].config["results"]))
    assert single.keys() == double.keys()
    off = torch.cat([(double[name] - single[name]).abs().flatten() for name in single])
    # Where a gradient is about zero, rounding decides the sign of AdamW's step: in few weights.
    assert (off > 1e-5).float().mean() < 1e-4
    assert off.max() < 1e-3


@pytest.mark.soak
def test_a_step_is_that_of_the_whole_batch(
    pair: dict[str, Record], alone: tuple[Path, Record]
) -> None:
    """FLOPs of both processes add up to those of one; each keeps half of the activations."""
    cost = json.loads(next((alone[0] / "checkpoints").glob("*.json")).read_text())
    results = Path(pair["moe"].config["results"])
    shared = json.loads(next((results / "checkpoints").glob("*.json")).read_text())
    flops, memory = "train/flops_per_step", "train/activation_bytes"
    assert shared[flops]["value"] == cost[flops]["value"]
    assert 0.4 < shared[memory]["value"] / cost[memory]["value"] < 0.6
    assert shared["train/grads_bytes"]["value"] == 2 * cost["train/grads_bytes"]["value"]


@pytest.mark.soak
def test_a_failure_of_all_ranks_is_recorded_with_its_reason(tmp_path: Path) -> None:
    """A batch that cannot be shared: rank 0 records it, and the others wait for that."""
    folder = plan_trial(tmp_path, "method=dense", "train.batch_size=33")
    record = read_result(folder, run_in_two(folder))
    assert record.reason == (
        "ValueError in phase train: train.batch_size=33 does not divide evenly among 2 devices: "
        "try 32 or 34"
    )


@pytest.mark.soak
def test_a_failure_of_one_rank_ends_the_other(tmp_path: Path) -> None:
    """Rank 0 waits for a second gradient that never comes; its record names rank 1.

    The first step has an unused parameter, which is no failure.
    """
    (tmp_path / "failing.py").write_text(FAILING)
    folder = plan_trial(tmp_path, "method=dense")
    content = json.loads((folder / TRIAL_NAME).read_text())
    content["entry_points"]["method"] = "failing:Method"
    content["labels"]["method"] = "failing"
    (folder / TRIAL_NAME).write_text(json.dumps(content))
    finished = run_in_two(folder, more_paths=tmp_path)
    assert finished.returncode == 1
    assert "rank 1: RuntimeError in phase train: rank 1 cannot" in finished.stderr
    record = read_record(folder / RECORD_NAME)
    assert record.status == "failed"
    assert record.reason == "rank 1: RuntimeError in phase train: rank 1 cannot"


def test_shares_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks take every third sample, each starting at its own rank."""

    class Count:
        def batches(self, split, batch_size, *, seed=None):
            rows = torch.arange(batch_size)
            yield Batch(rows, rows)

    monkeypatch.setattr(ranks, "group_size", lambda: 3)
    for rank, rows in enumerate(([0, 3], [1, 4], [2, 5])):
        monkeypatch.setattr(ranks, "rank", lambda n=rank: n)
        batch = next(iter(EndlessBatches(Count(), 6, seed=0)))
        assert batch.inputs.tolist() == batch.targets.tolist() == rows


@pytest.mark.parametrize(("size", "way_out"), [(33, "try 32 or 36"), (3, "try 4")])
def test_an_uneven_share_is_refused(
    monkeypatch: pytest.MonkeyPatch, size: int, way_out: str
) -> None:
    """The message names the setting, the devices and sizes that work."""
    monkeypatch.setattr(ranks, "group_size", lambda: 4)
    with pytest.raises(ValueError, match=f"train.batch_size={size} .* 4 devices: {way_out}"):
        ranks.local_share(size, "train.batch_size")


def test_one_process_is_the_whole_group() -> None:
    """Without torchrun no collective call waits."""
    with ranks.process_group(torch.device("cpu"), 1.0):
        assert (ranks.rank(), ranks.group_size(), ranks.world_size()) == (0, 1, 1)
        assert ranks.all_gather("word") == ["word"]
    assert ranks.root_cause("reason") == "reason"


def test_gpus_without_a_process_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gpu=ddp by hand, in one process beside four GPUs: the error gives the torchrun command."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    folder = plan_trial(tmp_path, "method=dense")
    content = json.loads((folder / TRIAL_NAME).read_text())
    content["config"]["gpu"]["kind"] = "ddp"
    (folder / TRIAL_NAME).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"torchrun --nproc-per-node=4 -m bench\.launch\.child"):
        prepare.prepare(read_trial(folder), lambda phase, share: None)
