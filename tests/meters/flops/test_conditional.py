"""Counts of models that skip work: by sample, batched, and in every implementation.

Small stand-ins for the methods: an early exit that compacts its batch, and one mixture of experts
computed in four ways with the same weights. N tokens, D width, H hidden, E experts, k chosen.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from bench.meters.flops.counter import count, count_samples
from bench.routing import region
from bench.types import Batch, Output

D, H = 16, 32
LAYER, HEAD = 2 * D * D, 2 * D * 3  # FLOPs of one sample


class EarlyExit(nn.Module):
    """Four layers, each with an exit; a sample exits where its head is confident."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(D, D) for _ in range(4))
        self.heads = nn.ModuleList(nn.Linear(D, 3) for _ in range(4))
        self.left_at: list[int] = []

    def forward(self, batch: Batch) -> Output:
        x, rows = batch.inputs, torch.arange(len(batch))
        logits = torch.zeros(len(batch), 3)
        self.left_at = [0] * len(batch)
        for number, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True)):
            x = layer(x).relu()  # [n, D]
            with region("exit_head"):
                exit_logits = head(x)
            leaves = exit_logits.softmax(-1).amax(-1) > (0.5 if number < 3 else -1.0)
            logits[rows[leaves]] = exit_logits[leaves]
            for row in rows[leaves].tolist():
                self.left_at[row] = number
            x, rows = x[~leaves], rows[~leaves]
            if not len(rows):
                break
        return Output(logits)


@torch.no_grad()
def test_batch_of_one_counts_sum_to_the_compacted_batch() -> None:
    """Sample by sample, batched with compaction and by the exits taken: equal as integers."""
    torch.manual_seed(0)
    model, batch = EarlyExit(), Batch(3 * torch.randn(64, D), torch.zeros(64, dtype=torch.long))
    together = count(model, batch, strict=True)
    exits = model.left_at
    assert len(set(exits)) > 2  # the batch is mixed
    alone = [batch.select(torch.tensor([i])) for i in range(64)]
    by_sample = count_samples(model, alone, strict=True)
    expected = tuple((number + 1) * (LAYER + HEAD) for number in exits)
    assert by_sample.per_batch == expected
    assert together.total == by_sample.total == sum(expected)
    assert by_sample.by_region == together.by_region
    assert together.by_region["exit_head"] == sum(number + 1 for number in exits) * HEAD


@torch.no_grad()
def test_a_sample_counts_the_branch_that_it_takes() -> None:
    """An `if` in Python counts the side taken by this input."""
    easy, hard = nn.Linear(D, D), nn.Sequential(nn.Linear(D, 4 * D), nn.Linear(4 * D, D))

    def model(x: Tensor) -> Tensor:
        return easy(x) if x.sum() > 0 else hard(x)

    assert count(model, torch.ones(1, D)).total == LAYER
    assert count(model, -torch.ones(1, D)).total == 8 * LAYER


class Experts(nn.Module):
    """A router and E two-layer experts, computed in the way given by an argument."""

    def __init__(self, num_experts: int, width: int = D, hidden: int = H) -> None:
        super().__init__()
        self.router = nn.Linear(width, num_experts, bias=False)
        self.up = nn.Parameter(torch.randn(num_experts, width, hidden) / 4)
        self.down = nn.Parameter(torch.randn(num_experts, hidden, width) / 4)

    def forward(self, x: Tensor, how: str, k: int = 2) -> Tensor:
        with region("router"):
            gates = self.router(x).softmax(-1)  # [N, E]
            weight, chosen = gates.topk(k)  # [N, k]
        return getattr(self, how)(x, weight, chosen)

    def loop(self, x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for e in range(len(self.up)):
            with region("dispatch"):
                rows, slot = (chosen == e).nonzero(as_tuple=True)
            with region("expert"):
                y = (x[rows] @ self.up[e]).relu() @ self.down[e]
            with region("combine"):
                out.index_add_(0, rows, y * weight[rows, slot, None])
        return out

    def grouped(self, x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        with region("dispatch"):
            order = chosen.flatten().argsort(stable=True)
            ends = chosen.flatten().bincount(minlength=len(self.up)).cumsum(0).int()
            rows = order // chosen.shape[1]
        with region("expert"):
            y = torch._grouped_mm(x[rows], self.up, ends).relu()
            y = torch._grouped_mm(y, self.down, ends)
        with region("combine"):
            return torch.zeros_like(x).index_add(0, rows, y * weight.flatten()[order, None])

    def batched(self, x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        with region("expert"):
            y = torch.einsum("nd,nkdh->nkh", x, self.up[chosen]).relu()
            y = torch.einsum("nkh,nkhd->nkd", y, self.down[chosen])
        with region("combine"):
            return (y * weight[..., None]).sum(1)

    def dense_masked(self, x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        with region("expert"):
            y = torch.einsum("nd,edh->neh", x, self.up).relu()
            y = torch.einsum("neh,ehd->ned", y, self.down)
        with region("combine"):
            gates = torch.zeros(len(x), len(self.up)).scatter(1, chosen, weight)
            return (y * gates[..., None]).sum(1)


@torch.no_grad()
def test_four_ways_to_compute_one_mixture_of_experts() -> None:
    """Loop, grouped and batched count k experts per token, dense-masked counts all of them."""
    num_experts, k, n = 8, 2, 24
    experts, x = Experts(num_experts), torch.randn(n, D)
    one = 2 * 2 * D * H  # one expert, one token
    expected = experts(x, "loop", k)
    for how in ("loop", "grouped", "batched", "dense_masked"):
        counted = count(experts, x, how, k, strict=True)
        torch.testing.assert_close(counted.result, expected)
        ran = num_experts if how == "dense_masked" else k
        assert counted.by_region["expert"] == n * ran * one, how
        assert counted.by_region["router"] == n * 2 * D * num_experts
        assert sum(counted.by_region.values()) == counted.total
        assert set(counted.by_region) == {"router", "expert"}  # moving data is no FLOP


@torch.no_grad()
def test_dispatch_by_einsum_is_executed_work_of_its_region() -> None:
    """A one-hot dispatch product (GShard) is counted, under dispatch and not under expert."""
    n, num_experts, capacity = 24, 4, 8
    mask, x, up = torch.zeros(n, num_experts, capacity), torch.randn(n, D), torch.randn(4, D, H)

    def model() -> Tensor:
        with region("dispatch"):
            slots = torch.einsum("nec,nd->ecd", mask, x)
        with region("expert"):
            y = torch.einsum("ecd,edh->ech", slots, up)
        with region("combine"):
            return torch.einsum("nec,ech->nh", mask, y)

    counted = count(model, strict=True)
    slots = num_experts * capacity
    assert counted.by_region == {
        "dispatch": 2 * n * slots * D,
        "expert": 2 * slots * D * H,  # every slot, full or empty
        "combine": 2 * n * slots * H,
    }


@pytest.mark.parametrize(("num_experts", "percent"), [(8, 0.39), (64, 3.03)])
@torch.no_grad()
def test_router_share(num_experts: int, percent: float) -> None:
    """At width 256 and top-2 the router's share is 0.39 % for 8 experts and 3.0 % for 64."""
    # 2 * 256 * E of 2 * 256 * E + 2 * (2 * 2 * 256 * 512)
    counted = count(Experts(num_experts, 256, 512), torch.randn(8, 256), "loop", strict=True)
    share = counted.by_region["router"] / counted.total
    assert 100 * share == pytest.approx(percent, abs=0.01)


@torch.no_grad()
def test_samples_of_an_incomplete_model_are_incomplete() -> None:
    """Ops without a formula are merged over the samples, and the counts are kept."""

    def model(batch: Batch) -> Tensor:
        return torch.linalg.inv(batch.inputs.T @ batch.inputs + torch.eye(D))

    batches = [Batch(torch.randn(1, D), torch.zeros(1)) for _ in range(3)]
    counted = count_samples(model, batches)
    assert (counted.complete, counted.ops_without_formula) == (False, {"aten::linalg_inv_ex": 3})
    assert counted.per_batch == (LAYER, LAYER, LAYER)


def test_regions_of_a_partial_model_sum_to_the_total() -> None:
    """Work outside every region is the backbone's; regions always sum to the total."""
    layer = nn.Linear(D, D)

    def model(x: Tensor) -> Tensor:
        x = layer(x)
        with region("expert"):
            x = layer(x)
            with region("router"):
                x = layer(x)
        return layer(x)

    counted = count(partial(model, torch.randn(1, D)), strict=True)
    assert counted.by_region == {"backbone": 2 * LAYER, "expert": LAYER, "router": LAYER}
    assert counted.by_op == {"aten::addmm": 4 * LAYER}
