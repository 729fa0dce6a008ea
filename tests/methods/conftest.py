"""Tiny tasks and a tiny backbone for the tests of methods: shapes only, no training."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from itertools import chain

import pytest
import torch

from bench.check import Candidate, candidates
from bench.check import tiny_tasks as kit
from methods.backbone.transformer import Transformer


class Tiny(kit.Tiny):
    """A tiny task with a tiny transformer beside it."""

    @property
    def backbone(self) -> Transformer:
        return kit.shrink(Transformer)


# Language models that answer for whole sequences only: they have no `generate`.
WITHOUT_CACHE = ("a_vit",)
TINY = {name: Tiny(task.spec) for name, task in kit.TINY.items()}


@cache  # one trained model per candidate for all tests, which leave it as they found it
def _built_ins() -> tuple[Candidate, ...]:
    doors = entry_points(group="condbench.methods")
    ours = (door for door in doors if door.value.startswith("methods."))
    found = [candidates(door.name, door.load()())[0] for door in ours]
    return tuple(chain.from_iterable(found))


@pytest.fixture(params=_built_ins(), ids=lambda b: f"{b.name}-{b.task}")
def built_in(request: pytest.FixtureRequest) -> Candidate:
    """Every built-in method on every tiny task that it supports."""
    return request.param


@pytest.fixture(
    params=[
        each
        for each in _built_ins()
        if each.tiny.spec.causal
        and getattr(each.method, "batch_invariant", True)
        and each.name not in WITHOUT_CACHE
    ],
    ids=lambda b: b.name,
)
def text_built_in(request: pytest.FixtureRequest) -> Candidate:
    """Every built-in language model that generates, and whose result is no batch's."""
    return request.param


@pytest.fixture
def text_built_in_named() -> Callable[[str], Candidate]:
    """A built-in method's language model by the method's name."""
    return lambda name: next(
        each for each in _built_ins() if each.name == name and each.tiny.spec.causal
    )


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same random weights in every run."""
    torch.manual_seed(0)


@pytest.fixture
def tiny_image() -> Tiny:
    """Images of 8 x 8 pixels in 5 classes: 16 tokens."""
    return TINY["image"]


@pytest.fixture
def tiny_text() -> Tiny:
    """Windows of 16 tokens over 11 symbols, each predicting the next."""
    return TINY["text"]


@pytest.fixture
def tiny_labels() -> Tiny:
    """Padded sequences of 4 to 16 tokens, each with one of 5 labels."""
    return TINY["labels"]


@pytest.fixture
def tiny_pairs() -> Tiny:
    """Padded sources of 4 to 16 tokens, and targets of 8."""
    return TINY["pairs"]


@pytest.fixture(params=["image", "text", "labels"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """All of them, one after the other."""
    return TINY[request.param]
