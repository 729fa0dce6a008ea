"""Resident and active parameters: those that one sample really reads."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode

from bench.meters.guard import MeterStateError
from bench.meters.memory.parameters import count_active_params, count_resident_params
from bench.types import Batch

EXPERTS, DIM, HIDDEN = 4, 16, 8
ROUTER, EXPERT = DIM * EXPERTS + EXPERTS, DIM * HIDDEN


class Experts(nn.Module):
    """A router and a stack of experts [E, D, H], of which a token uses its best one."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.router = nn.Linear(DIM, EXPERTS)
        self.stack = nn.Parameter(torch.randn(EXPERTS, DIM, HIDDEN))

    def forward(self, batch):
        tokens = batch.inputs  # [B, D]
        chosen = self.router(tokens).argmax(-1)
        if self.how == "loop":
            return [
                tokens[chosen == expert] @ self.stack[expert]
                for expert in range(EXPERTS)
                if (chosen == expert).any()
            ]
        if self.how == "index":
            return tokens[:, None] @ self.stack[chosen]
        if self.how == "index_select":
            return tokens[:, None] @ self.stack.index_select(0, chosen)
        if self.how == "gather":
            index = chosen.view(-1, 1, 1).expand(-1, DIM, HIDDEN)
            return tokens[:, None] @ self.stack.gather(0, index)
        if self.how == "grouped":
            ends = torch.bincount(chosen, minlength=EXPERTS).cumsum(0).to(torch.int32)
            return F.grouped_mm(tokens[chosen.argsort()], self.stack, offs=ends)
        if self.how == "masked":
            every = torch.einsum("bd,edh->beh", tokens, self.stack)
            return every[torch.arange(len(tokens)), chosen]
        raise ValueError(self.how)


def single(num=3, dim=DIM):
    return [Batch(torch.randn(1, dim), torch.zeros(1)) for _ in range(num)]


@pytest.mark.parametrize("how", ["loop", "index", "index_select", "gather", "grouped"])
def test_one_expert_of_four_is_active(how):
    """The router and 16 x 8 weights of one expert, however they are indexed."""
    model = Experts(how)
    assert count_active_params(model, single()) == [ROUTER + EXPERT] * 3
    assert count_resident_params(model) == ROUTER + EXPERTS * EXPERT


def test_masked_experts_are_all_active():
    """Computing every expert and masking afterwards reads them all."""
    model = Experts("masked")
    assert count_active_params(model, single(1)) == [count_resident_params(model)]


STACK = 2048  # weights [32, 8, 8]
READS = {
    # name: (read a part of `weight`, number of weights read)
    "take": (lambda w: w.take(torch.tensor([3, 700, 2047])), 3),
    "take along a dimension": (
        lambda w: w.take_along_dim(torch.tensor([[[1, 2]]]).expand(32, 8, 2), 2),
        32 * 8 * 2,
    ),
    "masked_select": (lambda w: w.masked_select(torch.arange(8) < 3), 32 * 8 * 3),
    "index": (lambda w: w[torch.tensor([1, 5])], 2 * 64),
    "mask": (lambda w: w[torch.arange(32) % 8 == 0], 4 * 64),
    "index_select": (lambda w: w.index_select(1, torch.tensor([0, 7])), 32 * 2 * 8),
    "gather": (lambda w: w.gather(0, torch.zeros(1, 8, 8, dtype=torch.long)), 64),
    "select": (lambda w: w[4] * 2, 64),
    "select, copied": (lambda w: torch.select_copy(w, 0, 4), 64),
    "slice, copied": (lambda w: torch.slice_copy(w, 0, 2, 5), 3 * 64),
    "narrow, copied": (lambda w: torch.narrow_copy(w, 0, 2, 3), 3 * 64),
    "diagonal, copied": (lambda w: torch.diagonal_copy(w, 0, 1, 2), 32 * 8),
    "diagonal": (lambda w: w.diagonal(0, 1, 2) * 2, 32 * 8),
    "split": (lambda w: w.split(4)[1] * 2, 4 * 64),
    "embedding bag": (lambda w: F.embedding_bag(torch.tensor([[1, 2]]), w.view(32, 64)), STACK),
    "everything": (lambda w: w * 2, STACK),
}


@pytest.mark.parametrize("name", READS)
def test_a_part_that_is_read_counts_as_that_part(name):
    """Whichever op takes the part: 3 elements, one expert, a slice, a diagonal."""
    read, number = READS[name]

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(32, 8, 8))

        def forward(self, batch):
            return read(self.weight)

    assert count_active_params(Part(), single(1)) == [number]


def test_a_slice_of_neurons_counts_its_elements():
    """Three of eight rows, read through a transposed, strided view."""

    class Sliced(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(DIM, HIDDEN))

        def forward(self, batch):
            return F.linear(batch.inputs, self.weight.t()[1::3])  # rows 1, 4, 7

    assert count_active_params(Sliced(), single(1)) == [3 * DIM]


def test_an_expanded_parameter_counts_its_elements_once():
    """Broadcasting a bias reads no more elements than it has."""

    class Expanded(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.randn(DIM))

        def forward(self, batch):
            return batch.inputs + self.bias.expand(5, DIM)

    assert count_active_params(Expanded(), single(1)) == [DIM]


def test_a_dense_model_with_tied_weights_is_all_active():
    """An embedding table counts whole, and once where it is also the output layer."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, DIM)
            self.head = nn.Linear(DIM, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, batch):
            return self.head(self.embed(batch.inputs))

    model = Tied()
    batch = Batch(torch.tensor([[1, 2, 3]]), torch.zeros(1))
    assert count_active_params(model, [batch]) == [count_resident_params(model)] == [50 * DIM]


def test_an_exit_after_the_first_layer_leaves_the_second_unread():
    """Active parameters follow the input."""

    class Exit(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

        def forward(self, batch):
            hidden = self.first(batch.inputs)
            return hidden if batch.targets.item() else self.second(hidden)

    easy = Batch(torch.randn(1, DIM), torch.ones(1))
    hard = Batch(torch.randn(1, DIM), torch.zeros(1))
    layer = DIM * DIM + DIM
    assert count_active_params(Exit(), [easy, hard]) == [layer, 2 * layer]


def test_it_refuses_under_another_mode():
    """Two dispatch modes would see each other."""
    with FlopCounterMode(display=False), pytest.raises(MeterStateError, match="active parameters"):
        count_active_params(Experts("loop"), single(1))


class Branches(nn.Module):
    """A first layer for positive sums; otherwise both layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, batch):
        is_easy = batch.inputs.sum() > 0
        return torch.cond(
            is_easy, self.first, lambda x: self.second(self.first(x)), (batch.inputs,)
        )


def test_only_the_branch_taken_is_active():
    """torch.cond runs as plain Python: one layer of 16 x 17, or two."""
    layer = DIM * (DIM + 1)
    inputs = [Batch(sign * torch.ones(1, DIM), torch.zeros(1)) for sign in (1, -1)]
    assert count_active_params(Branches(), inputs) == [layer, 2 * layer]


@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
def test_other_higher_order_operators_read_all_their_arguments():
    """Flexible attention over a parameter that serves as its keys."""

    class Flexible(nn.Module):
        def __init__(self):
            super().__init__()
            self.keys = nn.Parameter(torch.randn(1, 1, 1, DIM), requires_grad=False)

        def forward(self, batch):
            return flex_attention(batch.inputs.view(1, 1, 1, DIM), self.keys, self.keys)

    assert count_active_params(Flexible(), single(1)) == [DIM]


def test_a_compiled_model_runs_as_eager_code_while_observed():
    """With fullgraph=True it would raise under any mode."""

    class Compiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(DIM, DIM)
            self.run = torch.compile(self.layer, backend="eager", fullgraph=True)

        def forward(self, batch):
            return self.run(batch.inputs)

    assert count_active_params(Compiled(), single(1)) == [DIM * (DIM + 1)]


def test_a_sparse_parameter_counts_its_stored_elements():
    """16 of 256 elements."""

    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(DIM).to_sparse(), requires_grad=False)

        def forward(self, batch):
            return (self.weight @ batch.inputs.T).T

    assert count_active_params(Sparse(), single(1)) == [DIM]
    assert count_resident_params(Sparse()) == DIM


def test_reads_in_another_thread_are_an_error():
    """A dispatch mode covers its own thread only."""

    class Aside(nn.Linear):
        def forward(self, batch):
            thread = threading.Thread(target=super().forward, args=(batch.inputs,), name="aside")
            thread.start()
            thread.join()

    with pytest.raises(MeterStateError, match="aside"):
        count_active_params(Aside(DIM, DIM), single(1))
