"""The state's rows: what is taken, what is put back, and in which memory layout."""

from __future__ import annotations

import pytest
import torch

from methods.trunk.state import State, put_rows, take_rows

LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_maps_keep_their_memory_layout(layout: torch.memory_format) -> None:
    """Samples 2 and 0 of three are taken, doubled and put back; sample 1 stays bit for bit."""
    x, rows = torch.randn(3, 4, 5, 6).to(memory_format=layout), torch.tensor([2, 0])
    taken = take_rows(x, rows)
    assert torch.equal(taken, x[[2, 0]])
    assert taken.is_contiguous(memory_format=layout)
    put = put_rows(x, rows, 2 * taken)
    assert torch.equal(put, x * torch.tensor([2.0, 1.0, 2.0])[:, None, None, None])
    assert put.is_contiguous(memory_format=layout)


def test_tokens_are_taken_with_all_that_belongs_to_them() -> None:
    """Tokens 1 and 3 of one sample, 0 and 2 of the other: values, sizes, mask, and positions."""
    x = torch.arange(8.0).view(2, 4, 1)
    state = State(x, sizes=x[..., 0] + 1, mask=x[..., 0] != 3)
    taken = state.take(torch.tensor([[1, 3], [0, 2]]))
    assert taken.x[..., 0].tolist() == [[1.0, 3.0], [4.0, 6.0]]
    assert taken.sizes.tolist() == [[2.0, 4.0], [5.0, 7.0]]
    assert taken.mask.tolist() == [[True, False], [True, True]]
    assert taken.positions.tolist() == [[1, 3], [0, 2]]
    again = taken.take(torch.tensor([[1], [0]]))  # positions are those of the input
    assert again.positions.tolist() == [[3], [0]]
    assert state.positions is None  # the old state is as it was
