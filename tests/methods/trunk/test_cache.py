"""Keys and values of earlier tokens, kept without gaps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from methods.trunk.cache import Cache, Layer, Past


def _of(rows: list[list[float]]) -> Tensor:
    """Keys [B, 1 head, T, d = 1] with these values."""
    return torch.tensor(rows)[:, None, :, None]


def _held(layer: Layer) -> list[list[float]]:
    assert layer.keys is not None
    lengths = [layer.length] * layer.num_samples
    if layer.lengths is not None:
        lengths = layer.lengths.tolist()
    return [layer.keys[i, 0, :n, 0].tolist() for i, n in enumerate(lengths)]


def test_tokens_are_appended() -> None:
    """A prompt of two and then one by one: all are there, in order."""
    layer = Layer(num_samples=2, capacity=4)
    for new in ([[1.0, 2.0], [5.0, 6.0]], [[3.0], [7.0]], [[4.0], [8.0]]):
        keys, values = layer.extend(_of(new), -_of(new))
    assert keys[:, 0, :, 0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert torch.equal(values, -keys)


def test_padding_leaves_no_gaps() -> None:
    """Of sample 0 one token is real, of sample 1 both; later tokens follow the real ones."""
    layer = Layer(num_samples=2, capacity=4)
    valid = torch.tensor([[True, False], [True, True]])
    new = _of([[1.0, 99.0], [5.0, 6.0]])
    _, _, before = layer.extend_some(new, new, None, valid)
    assert before.tolist() == [0, 0]
    new = _of([[2.0], [7.0]])
    _, _, before = layer.extend_some(new, new, None, None)
    assert before.tolist() == [1, 2]
    assert _held(layer) == [[1, 2], [5, 6, 7]]


def test_some_samples_take_part() -> None:
    """Rows 2 and 0 get a token, row 1 none; what comes back is theirs, in their order."""
    layer = Layer(num_samples=3, capacity=4)
    layer.extend(_of([[1.0], [2.0], [3.0]]), _of([[1.0], [2.0], [3.0]]))
    new = _of([[30.0], [10.0]])
    keys, _, before = layer.extend_some(new, new, torch.tensor([2, 0]), None)
    assert keys[:, 0, :, 0].tolist() == [[3, 30], [1, 10]]
    assert before.tolist() == [1, 1]
    assert _held(layer) == [[1, 10], [2], [3, 30]]


def test_who_sees_whom() -> None:
    """A whole prompt is plain causal, a single token sees all, a later chunk gets a mask."""
    layer = Layer(num_samples=1, capacity=8)
    three, one, two = (torch.zeros(1, 1, n, 1) for n in (3, 1, 2))
    assert Past(layer).extend(three, three)[2:] == (None, True)
    assert Past(layer).extend(one, one)[2:] == (None, False)
    mask = Past(layer).extend(two, two)[2]
    assert mask is not None
    assert mask[0, 0].int().tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]


def test_some_tokens_ask() -> None:
    """Of three new tokens after one, the last and the first query: they see 4 and 2 tokens."""
    layer = Layer(num_samples=1, capacity=8)
    one, three = (torch.zeros(1, 1, n, 1) for n in (1, 3))
    Past(layer).extend(one, one)
    mask = Past(layer, querying=torch.tensor([[2, 0]])).extend(three, three)[2]
    assert mask is not None
    assert mask.sum(-1).tolist() == [[[4, 2]]]


def test_a_full_cache_says_so() -> None:
    """More tokens than were announced are refused."""
    layer = Cache(num_samples=1, capacity=2).layer(torch.nn.Identity())
    with pytest.raises(ValueError, match="holds 2 tokens, not 3"):
        layer.extend(torch.zeros(1, 1, 3, 1), torch.zeros(1, 1, 3, 1))


def test_layers_are_kept_apart() -> None:
    """Each attention layer has its own part, always the same."""
    cache = Cache(num_samples=1, capacity=2)
    first, second = torch.nn.Identity(), torch.nn.Identity()
    assert cache.layer(first) is cache.layer(first)
    assert cache.layer(first) is not cache.layer(second)


def test_every_step_of_shared_layers_has_keys_of_its_own() -> None:
    """The same layer at steps 1 and 2: two parts, each found again, with the cache's length."""
    cache, layer = Cache(2, 8), nn.Linear(2, 2)
    cache.length = 3
    first, second = cache.step(1), cache.step(2)
    assert first.layer(layer) is not second.layer(layer)
    assert cache.step(1).layer(layer) is first.layer(layer)
    assert second.length == 3
