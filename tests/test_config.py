"""The typed root refuses values that cannot mean anything, and names their key."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from bench.config import Config, GpuConfig, MeasureConfig, TrainConfig, as_config


def test_defaults_are_valid_and_round_trip_through_dicts() -> None:
    """The default Config survives a trip through nested dicts, as trial.json makes it."""
    assert as_config(asdict(Config())) == Config()


def test_nested_blocks_become_their_dataclasses() -> None:
    """train, measure and gpu are typed again when read from JSON."""
    config = as_config({"train": {"steps": 5}, "gpu": {"kind": "one"}})
    assert config.train == TrainConfig(steps=5)
    assert config.gpu == GpuConfig(kind="one")
    assert config.measure == MeasureConfig()


def test_unknown_keys_are_refused() -> None:
    """A key that the block does not have is a TypeError."""
    with pytest.raises(TypeError, match="stepz"):
        as_config({"train": {"stepz": 5}})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"seed": -1}, "seed=-1: must be at least 0"),
        ({"seed": 1_000_000}, "seed=1000000: must be at least 0 and below 1000000"),
        ({"timeout_s": 0}, "timeout_s=0.0: must be above 0"),
        ({"timeout_s": float("inf")}, "timeout_s=inf: must be above 0, and finite"),
        ({"retry": "all"}, "retry='all': choose one of '', 'invalid', 'failed'"),
        ({"train": {"steps": -1}}, "train.steps=-1: must be at least 0"),
        ({"train": {"batch_size": 0}}, "train.batch_size=0: must be at least 1"),
        ({"train": {"lr": 0.0}}, "train.lr=0.0: must be above 0"),
        ({"train": {"lr": float("nan")}}, "train.lr=nan: must be above 0"),
        ({"train": {"flops": 0.0}}, "train.flops=0.0: must be above 0"),
        (
            {"train": {"flops": 9e3, "steps": 10}},
            "train.flops=9000 and steps=10 both state how long to train: leave one of them null",
        ),
        ({"measure": {"rounds": 0}}, "measure.rounds=0: must be at least 1"),
        ({"measure": {"batch_sizes": [1, 0]}}, "measure.batch_sizes=0: must be at least 1"),
        ({"measure": {"batch_sizes": []}}, "measure.batch_sizes is empty"),
        ({"measure": {"force_share": 0.0}}, "measure.force_share=0.0: must be above 0"),
        (
            {"measure": {"force_share": 0.5, "workload": "generate"}},
            "measure.force_share needs workload=forward: with a cache",
        ),
        ({"measure": {"routing": "even"}}, "measure.routing='even': choose one of 'own'"),
        ({"measure": {"routing": "recorded"}}, "measure.routing=recorded and routing_from=PATH go"),
        ({"measure": {"routing_from": "x"}}, "measure.routing=recorded and routing_from=PATH go"),
        (
            {"measure": {"routing": "hot", "workload": "generate"}},
            "measure.routing needs workload=forward: with a cache",
        ),
        (
            {"measure": {"ratios_only": True, "robustness": True}},
            "measure.ratios_only=true leaves out what robustness=true",
        ),
        ({"map": {"minutes": 0}}, "map.minutes=0.0: must be above 0"),
        ({"gpu": {"kind": "tpu"}}, "gpu.kind='tpu': choose one of 'cpu', 'one', 'ddp'"),
        ({"gpu": {"precision": "8"}}, "gpu.precision='8': choose one of '32', 'bf16', '16'"),
        ({"gpu": {"threads": 0}}, "gpu.threads=0: must be at least 1"),
        ({"wandb": {"mode": "on"}}, "wandb.mode='on': choose one of 'offline', 'online'"),
    ],
)
def test_values_out_of_range_are_refused_by_key(raw: dict[str, Any], message: str) -> None:
    """A value out of range is a ValueError that names the key as one writes it."""
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.").replace("[", r"\[")):
        as_config(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"seed": True}, "seed=True: declared as int"),
        ({"measure": {"rounds": "many"}}, "measure.rounds='many': declared as int"),
        ({"measure": {"batch_sizes": [1, "x"]}}, "measure.batch_sizes='x': declared as int"),
        ({"gpu": None}, "gpu=None: declared as GpuConfig"),
        ({"train": {"lr": "1"}}, "train.lr='1': declared as float"),
    ],
)
def test_values_of_another_type_are_refused_by_key(raw: dict[str, Any], message: str) -> None:
    """A trial.json written by hand is read as strictly as an override."""
    with pytest.raises(TypeError) as caught:
        as_config(raw)
    assert str(caught.value).startswith(message)


def test_zero_steps_mean_untrained_weights() -> None:
    """Training may be left out altogether."""
    assert as_config({"train": {"steps": 0}}).train.steps == 0
