"""Weights that a model keeps outside parameters and buffers count in parameters and memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.meters.memory.parameters import count_active_params, count_resident_params
from bench.meters.memory.tensors import measure_inference_memory
from bench.types import Batch

DIM, HIDDEN = 16, 8
SIZE = DIM * HIDDEN

pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit:DeprecationWarning",
    "ignore:.torch.jit:FutureWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
    "ignore:torch.ao.quantization is deprecated:DeprecationWarning",
)


def weight():
    return torch.randn(HIDDEN, DIM)


@dataclass
class Holder:
    """An object that is no module."""

    weight: torch.Tensor


class Attribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = weight()

    def forward(self, batch):
        return F.linear(batch.inputs, self.weight)


class InAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = [weight()]

    def forward(self, batch):
        return F.linear(batch.inputs, self.weights[0])


class InADict(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = {"a": (weight(),)}

    def forward(self, batch):
        return F.linear(batch.inputs, self.weights["a"][0])


class InAnObject(nn.Module):
    def __init__(self):
        super().__init__()
        self.holder = Holder(weight())

    def forward(self, batch):
        return F.linear(batch.inputs, self.holder.weight)


class OfTheClass(nn.Module):
    weight = weight()

    def forward(self, batch):
        return F.linear(batch.inputs, self.weight)


class InAPartial(nn.Module):
    def __init__(self):
        super().__init__()
        self.run = partial(F.linear, weight=weight())

    def forward(self, batch):
        return self.run(batch.inputs)


class InAClosure(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = weight()
        self.run = lambda x: F.linear(x, hidden)

    def forward(self, batch):
        return self.run(batch.inputs)


class AModuleInAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Sequential(nn.Linear(DIM, HIDDEN, bias=False))]

    def forward(self, batch):
        return self.layers[0](batch.inputs)


KEPT = (Attribute, InAList, InADict, InAnObject, OfTheClass, InAPartial, InAClosure, AModuleInAList)


def one():
    return Batch(torch.randn(1, DIM), torch.zeros(1))


@pytest.mark.parametrize("kind", KEPT)
def test_weights_anywhere_count(kind):
    """128 weights of four bytes, wherever the module keeps them; a pass reads them all."""
    model, batch = kind(), one()
    assert count_resident_params(model, [batch]) == SIZE
    assert count_active_params(model, [batch]) == [SIZE]
    assert measure_inference_memory(model, batch).resident_bytes == 4 * SIZE


def test_only_what_a_sample_reads_is_active():
    """Two experts in a plain list, one of which runs."""

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = [weight(), weight()]

        def forward(self, batch):
            return F.linear(batch.inputs, self.experts[int(batch.inputs.sum() > 0)])

    model, batch = Experts(), one()
    assert count_resident_params(model, [batch]) == 2 * SIZE
    assert count_active_params(model, [batch]) == [SIZE]


def test_a_parameter_that_an_attribute_shows_again_counts_once():
    """A view of a parameter, a tied list and the module's own dictionary are no second copy."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(DIM, HIDDEN, bias=False)
            self.weights = [self.layer.weight, self.layer.weight.data[:4]]

        def forward(self, batch):
            return self.layer(batch.inputs)

    model, batch = Tied(), one()
    assert count_resident_params(model, [batch]) == SIZE
    assert measure_inference_memory(model, batch).resident_bytes == 4 * SIZE


def test_what_a_pass_leaves_behind_is_no_weight():
    """The last activations, a workspace that every pass fills, and indices."""

    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(DIM, HIDDEN, bias=False)
            self.last = torch.zeros(1, HIDDEN)
            self.space = torch.zeros(4, HIDDEN)
            self.index = torch.arange(8).view(2, 4)

        def forward(self, batch):
            self.last = self.layer(batch.inputs)
            self.space[: len(self.last)] = self.last
            return self.space[: len(self.last)] * 2

    model, batch = Remembers(), one()
    model(batch)
    assert count_resident_params(model, [batch]) == SIZE
    assert count_active_params(model, [batch]) == [SIZE]


def test_masks_and_tables_are_memory_and_no_parameters():
    """A vector and a mask that stay take memory; parameters are numbers in two dimensions."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.mask = torch.ones(DIM), torch.ones(DIM, DIM).bool()

        def forward(self, batch):
            return batch.inputs * self.scale

    model, batch = Masked(), one()
    assert count_resident_params(model, [batch]) == 0
    assert measure_inference_memory(model, batch).resident_bytes == 4 * DIM + DIM * DIM


def test_what_the_harness_hands_to_a_model_is_none_of_it():
    """A batch that the model keeps, or decisions that it replays, are no weights."""

    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.batches = {0: Batch(torch.randn(4, DIM), torch.zeros(4))}

        def forward(self, batch):
            return batch.inputs * 2

    model, batch = Keeps(), one()
    assert count_resident_params(model, [batch]) == 0
    assert measure_inference_memory(model, batch).resident_bytes == 0


class OnInputs(nn.Module):
    """A module that takes tensors, as a model that takes batches."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, batch):
        return self.module(batch.inputs)


def test_packed_and_frozen_weights_count():
    """A dynamically quantised layer packs its weights, a frozen script makes them constants."""
    layer = nn.Linear(DIM, HIDDEN, bias=False).eval()
    packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear})
    frozen = torch.jit.freeze(torch.jit.script(layer))
    for module, size in ((packed, 1), (frozen, 4)):
        model, batch = OnInputs(module), one()
        assert count_resident_params(model, [batch]) == SIZE
        assert measure_inference_memory(model, batch).resident_bytes >= size * SIZE
