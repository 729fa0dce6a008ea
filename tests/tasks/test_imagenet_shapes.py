"""Random images of published size: shapes, a fixed seed, no quality, and a whole trial on them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from bench.plan.matrix import make_plan
from bench.plan.staleness import write_trials
from bench.records.catalogue import TRAIN_STEPS
from bench.records.record import RECORD_NAME, read_record
from bench.tasks.imagenet_shapes import REASON, ImagenetShapes
from bench.trial import run as trial
from bench.types import Task

BRIEF = [
    *("task=imagenet_shapes", "task.resolution=32", "measure.num_inputs=4"),
    *("measure.batch_sizes=[1,4]", "gpu.threads=1", "measure.warmup_s=0", "measure.block_ms=1"),
    *("measure.rounds=1", "measure.processes=1", "measure.num_points=1"),
    *("backbone=transformer", "backbone.dim=32", "backbone.depth=4", "backbone.num_heads=2"),
]


@pytest.fixture(autouse=True)
def _quick(without_resident_child: None) -> None:
    """Start no interpreter per trial."""


def test_it_has_imagenets_shape() -> None:
    """3 x 224 x 224 in 1000 classes, or another resolution; nothing is trained."""
    task = ImagenetShapes()
    assert isinstance(task, Task)
    assert task.spec.input_shape == (3, 224, 224)
    assert task.spec.num_outputs == 1000
    assert ImagenetShapes(resolution=288).spec.input_shape == (3, 288, 288)
    assert task.recipe.steps == 0


def test_pixels_are_as_normalised_images() -> None:
    """The first pixel of the seed, mean 0 and deviation 1; labels in range; the same again."""
    samples = ImagenetShapes(resolution=32).samples()
    for split, batch in samples.items():
        assert batch.inputs.shape == (ImagenetShapes().num_samples(split), 3, 32, 32)
        assert batch.inputs.mean().item() == pytest.approx(0, abs=0.02)
        assert batch.inputs.std().item() == pytest.approx(1, abs=0.01)
        assert 0 <= int(batch.targets.min()) <= int(batch.targets.max()) < 1000
    # (0 - 127.5) / 73.9 and (255 - 127.5) / 73.9
    assert samples["test"].inputs.abs().max().item() == pytest.approx(1.7253, abs=1e-4)
    assert len({tuple(row) for row in samples["test"].inputs.flatten(1)[:, :8].tolist()}) == 64
    assert torch.equal(ImagenetShapes(32).samples()["test"].inputs, samples["test"].inputs)


def test_there_is_no_quality() -> None:
    """Not a number, with the reason; the model is not called."""
    quality = ImagenetShapes().evaluate(None, [])  # type: ignore[arg-type]
    assert math.isnan(quality.value)
    assert quality.reason == REASON


def test_a_trial_of_it_is_cost_only(tmp_path: Path) -> None:
    """Trained for no step: FLOPs and times are there, quality is missing with the reason.

    Two of the four blocks of each input run, in the mean, so the share lies between the closed and
    the open model's, and the record holds what was forced.
    """
    plan = make_plan(
        ["method=skip_blocks", "measure.force_share=0.5", *BRIEF, f"results={tmp_path}"]
    )
    (place,) = (each for each in write_trials(plan.trials) if "skip_blocks" in str(each))
    assert trial.main([str(place)]) == 0
    json.loads((place / RECORD_NAME).read_text(), parse_constant=pytest.fail)  # no NaN
    record = read_record(place / RECORD_NAME)
    metrics = record.metrics
    assert record.config["measure"]["force_share"] == 0.5
    assert "measure.force_share=0.5: its gates run that share, drawn at random" in record.notes
    for key in ("infer/quality", "infer/quality_vs_dense"):
        assert (metrics[key].value, metrics[key].reason) == (None, REASON)
    assert metrics[TRAIN_STEPS.at()].value == 0
    closed, share = metrics["infer/flops_share_closed"].value, metrics["infer/flops_share"].value
    # The closed model runs the gates as well, so that open and closed are not 1 apart.
    assert share == pytest.approx((closed + 1) / 2, abs=0.01)
    assert metrics["infer/tau_b4"].value == pytest.approx(1 / share, rel=0.01)
    assert record.diagnostics["operating_points"]["kind"] == "default"
