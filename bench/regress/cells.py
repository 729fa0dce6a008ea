"""What every comparison shares: the cell of the matrix that a trial measures, and its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.records.record import TRIAL_NAME


class Cell(NamedTuple):
    """What one trial measures, on whatever revision: the labels without hardware and run."""

    # Filled from a record's or a plan's labels by name: the names are those of records.Labels.
    task: str
    backbone: str
    method: str
    variant: str
    seed: int

    @property
    def model(self) -> tuple[str, str, str, str]:
        """The cell without its seed."""
        return self[:4]  # the fields of a NamedTuple, in order

    def __str__(self) -> str:
        return f"{model_name(self.model)}/seed{self.seed}"


def model_name(model: Sequence[str]) -> str:
    """ "digits/transformer/moe,num_experts=4" of (task, backbone, method, variant)."""
    task, backbone, method, variant = model
    return f"{task}/{backbone}/{method}" + (f",{variant}" if variant else "")


def write_trial(folder: Path, content: Mapping[str, Any]) -> Path:
    """Make `folder` with a trial.json of this content, for a process that runs it."""
    folder.mkdir(parents=True)  # an error if it exists: a trial never runs in another's folder
    (folder / TRIAL_NAME).write_text(json.dumps(content), encoding="utf-8")
    return folder
