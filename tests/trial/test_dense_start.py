"""The shared dense model: trained once, and again where its file is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.records.record import Metric
from bench.trial.dense_start import DenseStart, dense_start


class Trainer:
    """Trains a tiny model by writing a number into it; counts how often."""

    def __init__(self, path: Path) -> None:
        self.path, self.num_trainings = path, 0

    def start(self) -> DenseStart:
        return dense_start(self.path, lambda: nn.Linear(2, 1), self._train)

    def _train(self, model: nn.Module) -> dict[str, Metric]:
        self.num_trainings += 1
        with torch.no_grad():
            model.weight.fill_(7.0)
        return {"train/time_s": Metric(value=3, unit="s")}


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path / "checkpoints" / "abc.pt")


def test_it_is_trained_once(trainer) -> None:
    """The second start loads the weights and what training them cost."""
    for _ in range(2):
        start = trainer.start()
        assert start.model.weight.tolist() == [[7.0, 7.0]]
        assert start.metrics["train/time_s"].value == 3
    assert trainer.num_trainings == 1


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def of_another_shape(path: Path) -> None:
    torch.save(nn.Linear(3, 1).state_dict(), path)


def not_a_model(path: Path) -> None:
    torch.save([1, 2], path)


def costs_cut_off(path: Path) -> None:
    cut_off(path.with_suffix(".json"))


def costs_of_something_else(path: Path) -> None:
    path.with_suffix(".json").write_text('{"train/time_s": [3]}')


@pytest.mark.parametrize(
    "damage", [cut_off, of_another_shape, not_a_model, costs_cut_off, costs_of_something_else]
)
def test_a_damaged_checkpoint_is_trained_again(trainer, capsys, damage) -> None:
    """One line in the log names the file, the new file is whole, and it is trained once."""
    trainer.start()
    damage(trainer.path)
    assert trainer.start().model.weight.tolist() == [[7.0, 7.0]]
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {trainer.path} cannot be used (")
    assert warning.endswith("): the dense model is trained again\n")
    assert warning.count("\n") == 1
    assert trainer.start().metrics["train/time_s"].value == 3
    assert (trainer.num_trainings, capsys.readouterr().err) == (2, "")


def test_what_a_killed_process_left_is_removed(trainer) -> None:
    """By the next one that trains the model; files of other models stay."""
    place = trainer.path.parent
    place.mkdir()
    for name in ("abc.4711.tmp", "other.4711.tmp"):
        (place / name).write_bytes(b"half a model")
    trainer.start()
    assert sorted(path.name for path in place.glob("*.tmp")) == ["other.4711.tmp"]


def test_a_folder_in_the_place_of_a_checkpoint_is_an_error(trainer) -> None:
    """It is not read, and the trial fails with its path."""
    trainer.path.mkdir(parents=True)
    with pytest.raises(OSError, match=str(trainer.path)):
        trainer.start()
