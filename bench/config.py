"""The typed root of conf/: what an experiment may say, with defaults.

`method`, `task` and `backbone` are dataclasses of plugins and therefore typed by the plugin. Types
are checked where the configuration is composed, ranges here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Precision = Literal["32", "bf16", "16"]  # of products, in training and inference
INTERVAL_ROUNDS = 6  # fewer give no 95 % interval of a median: 1 - 2 / 2**5 < 0.95
# The parts of a configuration that can change a number. The rest says where results go.
KEY_BLOCKS = ("method", "task", "backbone", "seed", "train", "measure", "gpu")
NUM_SEEDS = 1_000_000  # passes over the training data of one seed count on from there


@dataclass
class TrainConfig:
    """How long and how fast to train; null means the task's own recipe."""

    steps: int | None = None  # 0: untrained, seeded weights
    batch_size: int | None = None
    lr: float | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        _at_least(0, steps=self.steps, weight_decay=self.weight_decay)
        _at_least(1, batch_size=self.batch_size)
        _above_zero(lr=self.lr)


@dataclass
class MeasureConfig:
    """How carefully to measure; the profiles quick, standard and publish live in conf/measure."""

    profile: str = "quick"
    rounds: int = 6  # ABBA rounds per comparison
    num_inputs: int = 64  # real inputs per pass
    batch_sizes: list[int] = field(default_factory=lambda: [1, 64])
    warmup_s: float = 0.3
    block_ms: float = 50.0  # shortest timed block
    all_points: bool = False  # time every operating point, not only the default one
    energy_window_s: float = 2.5  # 25 updates of a counter that moves ten times a second
    workload: str = "forward"  # forward, or generate: what one call of a language model does
    robustness: bool = False  # also corrupted and unanswerable inputs

    def __post_init__(self) -> None:
        if not self.batch_sizes:
            raise ValueError("batch_sizes is empty: give at least one, such as [1]")
        _one_of(("forward", "generate"), workload=self.workload)
        _at_least(1, rounds=self.rounds, num_inputs=self.num_inputs)
        for size in self.batch_sizes:
            _at_least(1, batch_sizes=size)
        _at_least(0, warmup_s=self.warmup_s)
        _above_zero(block_ms=self.block_ms, energy_window_s=self.energy_window_s)


@dataclass
class GpuConfig:
    """Devices, precision and strategy; `device` is one GPU's UUID or null for any that is free."""

    kind: str = "cpu"  # cpu, one (one trial per GPU) or ddp (one trial over all)
    device: str | None = None
    precision: str = "32"  # 32, bf16 or, on a GPU, 16
    threads: int | None = None  # CPU threads; null: physical cores in the affinity mask

    def __post_init__(self) -> None:
        _one_of(("cpu", "one", "ddp"), kind=self.kind)
        _one_of(get_args(Precision), precision=self.precision)
        _at_least(1, threads=self.threads)
        if self.kind == "cpu" and self.precision == "16":
            # Lightning would train in bf16 instead, and inference would run in fp16.
            raise ValueError("precision='16': fp16 trains on a GPU only; on the CPU choose 'bf16'")


@dataclass
class WandbConfig:
    """The mirror: offline by default, never the store."""

    mode: str = "offline"  # offline, online or disabled
    project: str = "condbench"

    def __post_init__(self) -> None:
        _one_of(("offline", "online", "disabled"), mode=self.mode)


@dataclass
class Config:
    """One trial, fully resolved."""

    name: str = "adhoc"
    method: Any = None
    task: Any = None
    backbone: Any = None
    seed: int = 0
    train: TrainConfig = field(default_factory=TrainConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    gpu: GpuConfig = field(default_factory=GpuConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    results: str = "results"
    timeout_s: float = 3600.0  # per trial
    retry: str = ""  # "", invalid or failed

    def __post_init__(self) -> None:
        _at_least(0, seed=self.seed)
        _below(NUM_SEEDS, seed=self.seed)
        _above_zero(timeout_s=self.timeout_s)
        _one_of(("", "invalid", "failed"), retry=self.retry)


BLOCKS = {"train": TrainConfig, "measure": MeasureConfig, "gpu": GpuConfig, "wandb": WandbConfig}


def typed(raw: dict[str, Any]) -> Config:
    """The Config that `raw` (trial.json's `config`) describes, nested blocks included.

    Raises TypeError for unknown keys and ValueError for a value out of range; both name the key.
    """
    return Config(**{key: _block(key, value) for key, value in raw.items()})


def _block(key: str, value: Any) -> Any:
    if key not in BLOCKS:
        return value
    try:
        return BLOCKS[key](**value)
    except ValueError as error:
        raise ValueError(f"{key}.{error}") from error  # the message begins with the inner key


def _one_of(known: Sequence[str], **named: str) -> None:
    for name, value in named.items():
        if value not in known:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(repr, known))}")


def _at_least(lowest: float, **named: float | None) -> None:
    for name, value in named.items():
        # Written so that NaN, which compares false with everything, is refused too.
        if value is not None and not value >= lowest:
            raise ValueError(f"{name}={value}: must be at least {lowest}")


def _above_zero(**named: float | None) -> None:
    for name, value in named.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: must be above 0, and finite")


def _below(limit: float, **named: float) -> None:
    for name, value in named.items():
        if value >= limit:
            raise ValueError(f"{name}={value}: must be below {limit}")
