"""Dispatch moves rows, computes only what runs, and brings results back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from methods.parts import dispatch
from methods.parts.weights.expert_layers import Experts


class Recording(nn.ModuleList):
    """Groups that record the number of rows of each call and refuse empty calls."""

    def __init__(self, num_groups: int, dim: int) -> None:
        super().__init__(nn.Linear(dim, dim) for _ in range(num_groups))
        self.calls: list[int] = []

    def each(self) -> Sequence[Callable[[Tensor], Tensor]]:
        def call(layer: nn.Module, rows: Tensor) -> Tensor:
            assert len(rows) > 0
            self.calls.append(len(rows))
            return layer(rows)

        return [lambda rows, layer=layer: call(layer, rows) for layer in self]


def stack(*sizes: int, activation: str = "gelu") -> Experts:
    """Experts with weights large enough for differences to show."""
    experts = Experts(*sizes, activation)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.3)
    return experts


masks = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_only_kept_rows_change(kept: list[bool]) -> None:
    """Kept rows are computed from their own inputs; the others stay bit for bit."""
    x, keep = torch.randn(len(kept), 2, 3), torch.tensor(kept)

    def add_one(rows: Tensor | None) -> Tensor:
        assert (rows is None) == all(kept)
        return (x if rows is None else x[rows]) + 1

    changed = dispatch.where_kept(add_one, x, keep)
    assert torch.equal(changed[~keep], x[~keep])
    assert torch.equal(changed[keep], x[keep] + 1)


def test_nothing_kept_calls_nothing() -> None:
    """where_kept never calls its function with an empty batch."""

    def never(rows: Tensor | None) -> Tensor:
        raise AssertionError("called")

    x = torch.randn(3, 2)
    assert dispatch.where_kept(never, x, torch.zeros(3).bool()) is x


def test_where_kept_equals_the_masked_computation() -> None:
    """Applying f to kept rows only equals computing all and selecting, gradients included."""
    layer, keep = nn.Linear(4, 4).double(), torch.tensor([True, False, True, True, False])
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    skipping = dispatch.where_kept(lambda rows: layer(x[rows]), x, keep)
    masked = torch.where(keep[:, None], layer(x), x)
    torch.testing.assert_close(skipping, masked)
    expected = torch.autograd.grad(masked.square().sum(), (x, layer.weight))
    got = torch.autograd.grad(skipping.square().sum(), (x, layer.weight))
    torch.testing.assert_close(got, expected)


@settings(max_examples=30, deadline=None)
@given(masks)
def test_sort_by_group_lists_every_running_pair_once(mask: list[list[bool]]) -> None:
    """Pairs come sorted by group, rows ascending, with the end of each group's part."""
    run = torch.tensor(mask)
    order = dispatch.sort_by_group(run)
    pairs = list(zip(order.groups.tolist(), order.rows.tolist(), strict=True))
    assert pairs == sorted((g, n) for n, g in run.nonzero().tolist())
    assert order.ends.diff(prepend=torch.zeros(1)).tolist() == run.sum(0).tolist()


def test_capacity_rounds_up() -> None:
    """Capacity is ceil(factor N K / G)."""
    assert dispatch.capacity(10, 4, 2, 1.25) == 7  # 1.25 x 10 x 2 / 4 = 6.25


def test_places_are_given_by_choice_then_token_or_by_position() -> None:
    """Two samples of two tokens, two groups with one place each; 0/1 names the chosen group.

    First choices: sample 0 has 0 0, sample 1 has 1 0; every second choice is the other group.
    By choice: token (0, 0) takes group 0, then (1, 0) group 1; both are full. By position the same,
    because position 0 takes both. With two places each, by choice: group 0 goes to the first
    choices (0, 0), (0, 1), and group 1 to (1, 0) and the second choice of (0, 0). By position:
    position 0 takes one of each by first choice and one of each by second, so both are full.
    """
    first = torch.tensor([[0, 0], [1, 0]])
    choices = torch.stack([first, 1 - first], -1)
    one = [[[True, False], [False, False]], [[False, True], [False, False]]]
    assert dispatch.within_capacity(choices, 2, 1).tolist() == one
    assert dispatch.within_capacity(choices, 2, 1, causal=True).tolist() == one
    by_choice = [[[True, True], [True, False]], [[False, True], [False, False]]]
    assert dispatch.within_capacity(choices, 2, 2).tolist() == by_choice
    by_position = [[[True, True], [False, False]], [[True, True], [False, False]]]
    assert dispatch.within_capacity(choices, 2, 2, causal=True).tolist() == by_position
    real = torch.tensor([[False, True], [True, True]])  # then (0, 1) takes the place of (0, 0)
    masked = [[[False, False], [True, False]], [[False, True], [False, False]]]
    assert dispatch.within_capacity(choices, 2, 1, mask=real).tolist() == masked


def test_a_priority_decides_among_choices_of_the_same_rank() -> None:
    """Three tokens want group 0 first and group 1 second; each has one place.

    The last token has the highest priority: it takes both, as its second choice comes first too.
    A padded token has none, whatever its priority.
    """
    choices = torch.tensor([[[0, 1], [0, 1], [0, 1]]])
    priority = torch.tensor([[0.1, 0.2, 0.3]])
    only_last = [[[False, False], [False, False], [True, True]]]
    assert dispatch.within_capacity(choices, 2, 1, priority=priority).tolist() == only_last
    real = torch.tensor([[True, True, False]])
    second = [[[False, False], [True, True], [False, False]]]
    run = dispatch.within_capacity(choices, 2, 1, mask=real, priority=priority)
    assert run.tolist() == second
    with pytest.raises(ValueError, match="not causal"):
        dispatch.within_capacity(choices, 2, 1, causal=True, priority=priority)


def weighted_sum(x: Tensor, run: Tensor, weights: Tensor, experts: Experts) -> Tensor:
    """The definition of mix, written row by row."""
    rows = []
    for n in range(len(x)):
        row = torch.zeros_like(x[:1])
        for g, f in enumerate(experts.each()):
            if run[n, g]:
                row = row + weights[n, g] * f(x[n : n + 1])
        rows.append(row)
    return torch.cat(rows)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@settings(max_examples=15, deadline=None)
@given(mask=masks)
def test_backends_agree_with_the_definition(activation: str, mask: list[list[bool]]) -> None:
    """loop == grouped == dense_masked == sum_g w f_g(x), also with groups and rows without any."""
    torch.manual_seed(0)
    run = torch.tensor(mask)
    x, weights = torch.randn(len(run), 8), torch.rand(run.shape)
    experts = stack(3, 8, 12, activation=activation)
    with torch.no_grad():
        expected = weighted_sum(x, run, weights, experts)
        for backend in dispatch.BACKENDS:
            got = dispatch.mix(x, run, weights, experts, backend)
            torch.testing.assert_close(got, expected, msg=lambda m, b=backend: f"{b}: {m}")


@pytest.mark.parametrize("backend", dispatch.BACKENDS)
@torch.no_grad()
def test_no_weights_are_weights_of_one(backend: str) -> None:
    """The sum of what runs for a row, with one, two and no groups."""
    run = torch.tensor([[True, False], [True, True], [False, False]])
    x, experts = torch.randn(3, 8), stack(2, 8, 12)
    expected = weighted_sum(x, run, torch.ones(3, 2), experts)
    got = dispatch.mix(x, run, None, experts, backend)
    torch.testing.assert_close(got, expected)


def test_backends_agree_in_gradients() -> None:
    """The gradients of inputs, weights and experts are the same with every backend."""
    torch.manual_seed(0)
    x = torch.randn(20, 8, requires_grad=True)
    run = torch.rand(20, 4) < 0.4
    run[:, 2] = False  # one group without rows
    weights = torch.rand(20, 4, requires_grad=True)
    experts = stack(4, 8, 12, activation="swiglu")
    leaves = (x, weights, experts.up, experts.down)
    results = {
        backend: torch.autograd.grad(
            dispatch.mix(x, run, weights, experts, backend).square().sum(), leaves
        )
        for backend in ("loop", "grouped", "dense_masked")
    }
    for backend in ("grouped", "dense_masked"):
        torch.testing.assert_close(results[backend], results["loop"])


def test_loop_is_exact_in_float64() -> None:
    """The loop backend passes gradcheck in double precision; auto uses it there."""
    experts = stack(3, 4, 4).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    run = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 1]]).bool()
    assert torch.autograd.gradcheck(
        lambda x, w: dispatch.mix(x, run, w, experts, "auto"), (x, weights)
    )


def test_permuting_rows_permutes_results() -> None:
    """mix is equivariant to the order of rows."""
    experts = stack(4, 8, 12)
    x, run, weights = torch.randn(30, 8), torch.rand(30, 4) < 0.5, torch.rand(30, 4)
    p = torch.randperm(30)
    with torch.no_grad():
        straight = dispatch.mix(x, run, weights, experts)
        permuted = dispatch.mix(x[p], run[p], weights[p], experts)
    torch.testing.assert_close(permuted, straight[p])


def test_only_running_rows_are_computed() -> None:
    """Each group is called at most once, with exactly its rows; empty groups are not called."""
    groups = Recording(3, 4)
    run = torch.tensor([[True, False, True], [False, False, True]])
    dispatch.mix(torch.randn(2, 5, 4), run, torch.ones(2, 3), groups)
    assert groups.calls == [1, 2]


def test_nothing_running_gives_zeros_without_a_call() -> None:
    """With every gate closed the result is zero and no group is called."""
    groups = Recording(3, 4)
    out = dispatch.mix(torch.randn(2, 4), torch.zeros(2, 3).bool(), torch.ones(2, 3), groups)
    assert torch.equal(out, torch.zeros(2, 4))
    assert groups.calls == []


def test_grouped_linear_takes_an_expanded_gradient() -> None:
    """sum().backward() works, though torch's own backward refuses such gradients."""
    weight = nn.Parameter(torch.randn(2, 8, 4))
    x = torch.randn(6, 8)
    dispatch.grouped_linear(x, weight, torch.tensor([2, 6]).int()).sum().backward()
    assert weight.grad is not None
    expected = torch.stack([part.sum(0)[:, None].expand(8, 4) for part in (x[:2], x[2:])])
    torch.testing.assert_close(weight.grad, expected)


def test_grouped_obeys_autocast() -> None:
    """Under autocast the grouped GEMM computes in the autocast type, as a linear layer does."""
    weight = torch.randn(2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = dispatch.grouped_linear(torch.randn(6, 8), weight, torch.tensor([2, 6]).int())
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "width", "can"),
    [
        (torch.float32, 12, True),
        (torch.float32, 10, False),  # 40 bytes: not a multiple of 16
        (torch.bfloat16, 12, False),  # 24 bytes
        (torch.bfloat16, 8, True),
        (torch.float64, 8, False),
    ],
)
def test_grouped_says_what_it_serves(dtype: torch.dtype, width: int, can: bool) -> None:
    """can_group is true for fp32, bf16 and fp16 with 16-byte rows, and mix refuses the rest."""
    experts = stack(2, width, 16).to(dtype)
    x, run = torch.randn(3, width, dtype=dtype), torch.ones(3, 2).bool()
    assert experts.can_sort(x) is can
    if can:
        dispatch.mix(x, run, torch.ones(3, 2), experts, "grouped")
    else:
        with pytest.raises(ValueError, match="use loop"):
            dispatch.mix(x, run, torch.ones(3, 2), experts, "grouped")


def test_unknown_backend_is_refused() -> None:
    """A misspelt backend raises ValueError, and the message names the choices."""
    with pytest.raises(ValueError, match="dense_masked"):
        dispatch.mix(
            torch.ones(1, 4), torch.ones(1, 1).bool(), torch.ones(1, 1), Recording(1, 4), "magic"
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backends_agree_on_a_gpu(dtype: torch.dtype) -> None:
    """On a GPU every backend gives what the loop gives on the CPU in double precision."""
    experts, x = stack(4, 16, 24, activation="swiglu"), torch.randn(50, 16)
    run, weights = torch.rand(50, 4) < 0.4, torch.rand(50, 4)
    run[:, 2] = False  # one group without rows
    with torch.no_grad():
        expected = dispatch.mix(x.double(), run, weights, experts.double(), "loop")
        experts = experts.to("cuda", dtype)
        tolerance = 1e-4 if dtype == torch.float32 else 0.05
        for backend in dispatch.BACKENDS:
            got = dispatch.mix(x.to("cuda", dtype), run.cuda(), weights.cuda(), experts, backend)
            assert got.dtype == dtype
            torch.testing.assert_close(
                got.cpu().double(), expected, atol=tolerance, rtol=tolerance, msg=f"{backend}"
            )
