"""The typed root of conf/: what an experiment may say, with defaults.

`method`, `task` and `backbone` are dataclasses of plugins and therefore typed by the plugin.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainConfig:
    """How long and how fast to train; null means the task's own recipe."""

    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    weight_decay: float | None = None


@dataclass
class MeasureConfig:
    """How carefully to measure; the named profiles quick, standard and publish live in conf/measure."""

    profile: str = "quick"
    rounds: int = 10  # ABBA rounds per comparison
    num_inputs: int = 64  # real inputs per pass
    batch_sizes: list[int] = field(default_factory=lambda: [1, 64])
    warmup_s: float = 0.3
    block_ms: float = 50.0  # shortest timed block
    all_points: bool = False  # time every operating point, not only the default one
    energy_window_s: float = 2.0


@dataclass
class GpuConfig:
    """Devices, precision and strategy; `device` is a list of UUIDs or null for all that are free."""

    kind: str = "cpu"  # cpu, one (one trial per GPU) or ddp (one trial over all)
    device: str | None = None
    precision: str = "32"  # 32, bf16 or 16
    threads: int | None = None  # CPU threads; null: physical cores in the affinity mask


@dataclass
class WandbConfig:
    """The mirror: offline by default, never the store."""

    mode: str = "offline"  # offline, online or disabled
    project: str = "condbench"


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
