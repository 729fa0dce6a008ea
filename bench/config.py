"""The typed root of conf/: what an experiment may say, with defaults.

`method`, `task` and `backbone` are dataclasses of plugins and therefore typed by the plugin. Types
are checked where the configuration is composed, ranges here: each block checks its own fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from bench.plugins.settings import construct
from bench.routing import OWN, ROUTINGS
from bench.values import OneOf, Range, check_fields

Precision = Literal["32", "bf16", "16"]  # of products, in training and inference
MIN_PROCESSES = 2  # one process gives no interval that holds in the next session
# The parts of a configuration that can change a number. The rest says where results go.
KEY_BLOCKS = ("method", "task", "backbone", "seed", "train", "measure", "gpu")
NUM_SEEDS = 1_000_000  # passes over the training data of one seed count on from there


@dataclass
class TrainConfig:
    """How long and how fast to train; null means the task's own recipe."""

    steps: Annotated[int | None, Range(0)] = None  # 0: untrained, seeded weights
    batch_size: Annotated[int | None, Range(1)] = None
    lr: Annotated[float | None, Range(gt=0)] = None
    weight_decay: Annotated[float | None, Range(0)] = None
    # Of lr: the rate of weights that a method took over from the trained dense model.
    fine_tune_lr_share: Annotated[float, Range(gt=0)] = 1.0
    # Executed FLOPs of the whole training, a dense start included, in place of steps.
    flops: Annotated[float | None, Range(gt=0)] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.flops is not None and self.steps is not None:
            raise ValueError(
                f"flops={self.flops:g} and steps={self.steps} both state how long to train: leave "
                "one of them null"
            )


@dataclass
class MeasureConfig:
    """How carefully to measure; the profiles quick, standard and publish live in conf/measure."""

    profile: str = "quick"
    processes: Annotated[int, Range(1)] = 3  # what changes between processes is sampled
    rounds: Annotated[int, Range(1)] = 9  # ABBA rounds per comparison, over all processes
    num_inputs: Annotated[int, Range(1)] = 64  # real inputs per pass
    batch_sizes: list[Annotated[int, Range(1)]] = field(default_factory=lambda: [1, 64])
    warmup_s: Annotated[float, Range(0)] = 0.3
    block_ms: Annotated[float, Range(gt=0)] = 50.0  # shortest timed block
    all_points: bool = False  # time every operating point, not only the first one
    num_points: Annotated[int, Range(1)] = 6  # operating points over the range, the chosen included
    # The loss of quality that counts as kept; null: 1 point of a percentage, 0.02 bits, else 1 %.
    tolerance: Annotated[float | None, Range(0)] = None
    energy_window_s: Annotated[float, Range(gt=0)] = 2.5  # 25 updates of a 10 Hz counter
    # What one call of a model does; generate: a language model continues a prompt.
    workload: Annotated[str, OneOf("forward", "generate")] = "forward"
    robustness: bool = False  # also corrupted and unanswerable inputs
    # Every gate runs this share of what it decides about, at random; null: as it decides.
    force_share: Annotated[float | None, Range(gt=0, le=1)] = None
    # Which experts a token gets, not how many: an untrained router's choice falsifies times.
    routing: Annotated[str, OneOf(*ROUTINGS)] = OWN
    routing_from: str | None = None  # of routing=recorded: a trial's folder or record.json
    # FLOPs and speed-ups alone: no memory, latency, energy, compiling or diagnostics of routing.
    ratios_only: bool = False
    # Parameters and FLOPs of untrained weights alone; nothing is scored, timed or stored.
    counts_only: bool = False
    meta: bool = False  # of counts_only: shapes without memory, for what does not fit

    def __post_init__(self) -> None:
        if not self.batch_sizes:
            raise ValueError("batch_sizes is empty: give at least one, such as [1]")
        check_fields(self)
        stated = "force_share" if self.force_share is not None else "routing"
        if self.workload == "generate" and (stated == "force_share" or self.routing != OWN):
            raise ValueError(
                f"{stated} needs workload=forward: with a cache, decisions about earlier tokens "
                "must be those of one pass over all of them"
            )
        if (self.routing == "recorded") != (self.routing_from is not None):
            raise ValueError(
                "routing=recorded and routing_from=PATH go together: the path of a trial's folder"
            )
        if self.ratios_only and (self.robustness or self.workload == "generate"):
            raise ValueError(
                "ratios_only=true leaves out what robustness=true and workload=generate measure"
            )
        if self.meta and not self.counts_only:
            raise ValueError("meta=true: without memory there is only counting: counts_only=true")


@dataclass
class GpuConfig:
    """Devices, precision and strategy; `device` is one GPU's UUID or null for any that is free."""

    # one: a trial per GPU; ddp: one trial over all GPUs.
    kind: Annotated[str, OneOf("cpu", "one", "ddp")] = "cpu"
    device: str | None = None
    precision: Annotated[str, OneOf(*get_args(Precision))] = "32"  # "16" on a GPU only
    # CPU threads; null: physical cores in the affinity mask.
    threads: Annotated[int | None, Range(1)] = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kind == "cpu" and self.precision == "16":
            # Lightning would train in bf16 instead, and inference would run in fp16.
            raise ValueError("precision='16': fp16 trains on a GPU only; on the CPU choose 'bf16'")


@dataclass
class WandbConfig:
    """The mirror: offline by default, never the store."""

    mode: Annotated[str, OneOf("offline", "online", "disabled")] = "offline"
    project: str = "condbench"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass
class MapConfig:
    """How a sweep over model widths, tokens and batch sizes is run; null: all of it.

    Within a budget every second width and number of tokens comes first, then the sizes between
    those where a method is faster than dense and those where it is slower.
    """

    # Of the whole run, waiting for a device included; null: every size is measured.
    minutes: Annotated[float | None, Range(gt=0)] = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass
class Config:
    """One trial, fully resolved."""

    name: str = "adhoc"
    # The rows of conf/experiment/paper/published.csv that state this name are the matrix.
    paper: str | None = None
    method: Any = None
    task: Any = None
    backbone: Any = None
    seed: Annotated[int, Range(0, lt=NUM_SEEDS)] = 0
    train: TrainConfig = field(default_factory=TrainConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    gpu: GpuConfig = field(default_factory=GpuConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    map: MapConfig = field(default_factory=MapConfig)
    results: str = "results"
    timeout_s: Annotated[float, Range(gt=0)] = 3600.0  # per trial
    retry: Annotated[str, OneOf("", "invalid", "failed")] = ""

    def __post_init__(self) -> None:
        check_fields(self)


def as_config(raw: Mapping[str, Any]) -> Config:
    """The Config that `raw` (trial.json's `config`) describes, nested blocks included.

    Raises TypeError for unknown keys and values of another type, ValueError for a value out of
    range; all name the key.
    """
    config: Config = construct(Config, raw)
    return config
