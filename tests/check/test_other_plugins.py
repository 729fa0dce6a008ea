"""`condbench check` of backbones and tasks: what holds is kept, what does not is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType

import pytest
import torch
from torch import nn

from bench import cli
from bench.check import Verdict, check
from bench.check.catalogue import BACKBONE_CONTRACTS, TASK_CONTRACTS
from bench.plugins import Plugin
from bench.tasks.parts.preloaded import iterate_batches
from bench.tasks.parts.scoring import accuracy, cross_entropy
from bench.types import Batch, Extras, Quality, Recipe, TaskSpec
from methods.backbone.transformer import Transformer

MODULE = "condbench_plugins"


@dataclass
class Honest(Transformer):
    """The bundled family under another name."""


@dataclass
class Deaf(Transformer):
    """Takes every factory and ignores it."""

    def build(self, spec, *, ffn=None, attention=None, block=None):
        return super().build(spec)


@dataclass
class Wasteful(Transformer):
    """Makes what it is given, and computes its own."""

    def build(self, spec, *, ffn=None, attention=None, block=None):
        model = super().build(spec)
        if ffn is not None:
            model.spare = ffn(self.dim, self.dim)
        return model


@dataclass
class OneClassMore(Transformer):
    """Logits for a class that the task does not have."""

    def build(self, spec, **factories):
        return super().build(replace(spec, num_outputs=spec.num_outputs + 1), **factories)


@dataclass
class Mixing(Transformer):
    """A sample's result depends on the others of its batch."""

    def build(self, spec, **factories):
        model = super().build(spec, **factories)
        model.register_forward_hook(
            lambda module, given, out: out._replace(logits=out.logits + out.logits.mean(0))
        )
        return model


@dataclass
class Dots:
    """40 training, 8 calibration and 16 test images of two pixels: brighter left or right."""

    version: int = field(default=1, init=False)

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec("dots", "image", (1, 1, 2), 2)

    @property
    def recipe(self) -> Recipe:
        return Recipe(steps=1, batch_size=4, lr=0.1)

    def data_hash(self) -> str:
        return "dots"

    def num_samples(self, split: str) -> int:
        return {"train": 128, "calibration": 8, "test": 16}[split]

    def first(self, split: str) -> int:
        return {"train": 0, "calibration": 1000, "test": 2000}[split]

    def data(self, split: str) -> Batch:
        bright = torch.arange(float(self.num_samples(split))) + self.first(split)
        right = torch.arange(len(bright)) % 2
        pixels = torch.stack([bright * (1 - right), bright * right], 1)
        return Batch(pixels.view(-1, 1, 1, 2), right)

    def batches(self, split, size, *, seed=None):
        return iterate_batches(self.data(split), size, seed=seed, whole=split == "train")

    def criterion(self, output, batch):
        return cross_entropy(output, batch)

    def evaluate(self, model, batches) -> Quality:
        return accuracy(model, batches, num_classes=2, references={})

    @property
    def extras(self) -> Extras:
        return Extras(attributes=lambda split: {"difficulty": torch.zeros(self.num_samples(split))})


class Leaking(Dots):
    """The test images are those of training."""

    def first(self, split: str) -> int:
        return 0


class Unordered(Dots):
    """Ignores the seed."""

    def batches(self, split, size, *, seed=None):
        return super().batches(split, size)


class OtherShape(Dots):
    """Promises wider images."""

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec("dots", "image", (1, 1, 3), 2)


class MoreClasses(Dots):
    """Has a class that the spec does not."""

    def data(self, split: str) -> Batch:
        found = super().data(split)
        return replace(found, targets=found.targets + 1)


class Upside(Dots):
    """Scores mistakes."""

    def evaluate(self, model, batches) -> Quality:
        found = super().evaluate(model, batches)
        return replace(found, value=100.0 - found.value)


class Rehashed(Dots):
    """Another hash every time."""

    def data_hash(self) -> str:
        return str(id(object())) + str(torch.rand(1).item())


class Flat(Dots):
    """A loss without a gradient."""

    def criterion(self, output, batch):
        return super().criterion(output, batch).detach().requires_grad_()


class ShortExtras(Dots):
    """One attribute too few."""

    @property
    def extras(self) -> Extras:
        return Extras(attributes=lambda split: {"difficulty": torch.zeros(3)})


FAULTY_BACKBONES = {
    Deaf: ("honours_factories", "build(ffn=...) never calls the factory"),
    Wasteful: ("honours_factories", "1 of 1 modules that ffn= made are never called"),
    OneClassMore: ("is_a_trunk", "logits of shape"),
    Mixing: ("alone_is_batched", ""),
}
FAULTY_TASKS = {
    Leaking: ("splits_are_apart", "16 inputs of the test split are in the train split too"),
    Unordered: ("order_is_seeded", "batches(seed=0) and batches(seed=1) begin with the same"),
    OtherShape: ("spec_is_data", "train: inputs [1, 1, 2], the spec says [1, 1, 3]"),
    MoreClasses: ("spec_is_data", "targets from 1 to 2, the spec has 2 of them"),
    Upside: ("scores", "the right answers score 0"),
    Rehashed: ("is_hashed", "data_hash() gives"),
    Flat: ("trains", "the criterion has no finite gradient"),
    ShortExtras: ("extras_fit", "attribute 'difficulty': 3 values"),
}


@pytest.fixture(autouse=True)
def importable() -> Iterator[None]:
    """The classes of this file under a name that an entry point could have."""
    module = sys.modules[MODULE] = ModuleType(MODULE)
    vars(module).update({name: value for name, value in globals().items() if name[0].isupper()})
    yield
    del sys.modules[MODULE]


def checked(kind: str, cls: type) -> Verdict:
    return check(Plugin(kind, cls.__name__, f"{MODULE}:{cls.__name__}", "tests", "1"))


def broken(verdict: Verdict) -> dict[str, str]:
    """The first message of every broken contract."""
    found: dict[str, str] = {}
    for finding in verdict.broken:
        found.setdefault(finding.contract, finding.message)
    return found


@dataclass
class Rude:
    """A method that makes a function of torch slower for everybody."""

    def build(self, spec, backbone):
        nn.GELU.forward = lambda layer, x: nn.functional.gelu(x)
        return backbone.build(spec)


def test_a_method_that_changes_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the function that it replaced, as a trial would refuse it."""
    monkeypatch.setattr(nn.GELU, "forward", nn.GELU.forward)  # put back at the end
    monkeypatch.setattr("bench.check.attempt.CONTRACTS", ())
    found = broken(checked("method", Rude))
    assert list(found) == ["changes_nothing_shared"]
    assert found["changes_nothing_shared"].endswith("activation.GELU.forward was replaced")


def few(monkeypatch: pytest.MonkeyPatch, contract: str) -> None:
    """Of a backbone's contracts this one alone."""
    kept = tuple(each for each in BACKBONE_CONTRACTS if each.name == contract)
    monkeypatch.setattr("bench.check.attempt.BACKBONE_CONTRACTS", kept)


@pytest.mark.parametrize("cls", FAULTY_BACKBONES, ids=lambda cls: cls.__name__)
def test_a_faulty_backbone_is_named(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the contract that it breaks, with what was found and the class to look at."""
    contract, words = FAULTY_BACKBONES[cls]
    few(monkeypatch, contract)
    verdict = checked("backbone", cls)
    assert not verdict.ok
    assert words in broken(verdict)[contract]


def test_an_honest_backbone_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every kind of task, its own two contracts and two that every model has."""
    names = ("is_a_trunk", "honours_factories", "finite", "alone_is_batched")
    kept = tuple(each for each in BACKBONE_CONTRACTS if each.name in names)
    monkeypatch.setattr("bench.check.attempt.BACKBONE_CONTRACTS", kept)
    verdict = checked("backbone", Honest)
    assert verdict.ok, "\n".join(verdict.lines())
    assert len(verdict.tasks) == 5
    assert verdict.lines()[-1].startswith("  4 kept, 0 broken, 0 not applicable")


@pytest.mark.parametrize("cls", FAULTY_TASKS, ids=lambda cls: cls.__name__)
def test_a_faulty_task_is_named(cls: type) -> None:
    """By the contract that it breaks, and by no other one that comes before it."""
    contract, words = FAULTY_TASKS[cls]
    verdict = checked("task", cls)
    assert words in broken(verdict)[contract]
    assert cls.__name__ in next(each.line for each in verdict.broken if each.contract == contract)


def test_an_honest_task_keeps_all() -> None:
    """Every contract of tasks, within a moment."""
    verdict = checked("task", Dots)
    assert verdict.ok, "\n".join(verdict.lines())
    assert verdict.lines()[0] == "Dots on image of 1 x 1 x 2, 2 outputs"
    assert len(verdict.lines()) == len(TASK_CONTRACTS) + 2


def test_the_verb_takes_methods_backbones_and_tasks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name of any kind; an unknown one names the nearest of all kinds."""
    for name in ("CONTRACTS", "BACKBONE_CONTRACTS", "TASK_CONTRACTS"):
        tried = TASK_CONTRACTS[-1:] if name == "TASK_CONTRACTS" else BACKBONE_CONTRACTS[2:3]
        monkeypatch.setattr(f"bench.check.attempt.{name}", tried)
    assert cli.main(["check", "dense", "resnet", "digits"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("dense on tiny-image, ")
    assert "\nresnet on tiny-image, " in out
    assert "\ndigits on image of " in out
    assert cli.main(["check", "digit"]) == 2
    assert "unknown method, backbone or task 'digit': did you mean 'digits'?" in (
        capsys.readouterr().err
    )
