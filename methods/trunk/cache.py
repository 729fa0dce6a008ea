"""Keys and values of earlier tokens, so that a new token need not recompute them.

    cache = Cache(num_samples=4, capacity=128)
    trunk(prompt, cache)        # fills it
    trunk(next_token, cache)    # one token more: attends to everything before

Each attention layer has its own part, kept without gaps: where only some samples or tokens pass a
layer, only theirs are stored, and later tokens attend to as many as each sample has.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Cache:
    """The caches of all layers; at most `capacity` tokens for each of `num_samples` samples.

    `length`: tokens of every sample in earlier passes, whether or not a layer stored them.
    """

    num_samples: int
    capacity: int
    length: int = 0
    _layers: dict[nn.Module, Layer] = field(default_factory=dict)
    _steps: dict[int, Cache] = field(default_factory=dict)

    def layer(self, attention: nn.Module) -> Layer:
        """The part of an attention layer, empty at first."""
        return self._layers.setdefault(attention, Layer(self.num_samples, self.capacity))

    def step(self, number: int) -> Cache:
        """The cache of repetition `number` of layers that run several times, empty at first."""
        # The same layer at another step has other keys and values: one part for each.
        found = self._steps.setdefault(number, Cache(self.num_samples, self.capacity))
        found.length = self.length
        return found

    def rewind(self, length: int) -> None:
        """Forget every token from place `length` on, in all layers.

        Raises ValueError where samples or layers have stored different tokens.
        """
        for layer in self._layers.values():
            if layer.lengths is not None or layer.length < length:
                raise ValueError(f"a layer has not stored the first {length} tokens of all samples")
            layer.length = length
        for step in self._steps.values():
            step.rewind(length)
        self.length = length


@dataclass
class Layer:
    """One layer's keys and values [B, heads, room, d]; `lengths` [B] once samples differ.

    Until then one number serves all, and appending is a copy into a slice.
    """

    num_samples: int
    capacity: int
    keys: Tensor | None = None
    values: Tensor | None = None
    length: int = 0  # of all samples; of the longest, where they differ
    lengths: Tensor | None = None

    def held(self, rows: Tensor | None, device: torch.device) -> Tensor:
        """Number of stored tokens of each of the samples `rows` (None: all), [n]."""
        if self.lengths is None:
            num_rows = self.num_samples if rows is None else len(rows)
            return torch.full((num_rows,), self.length, device=device)
        return self.lengths if rows is None else self.lengths.index_select(0, rows)

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append `key`, `value` [B, heads, T, d] of T tokens of every sample; returns all.

        Raises ValueError beyond the capacity.
        """
        end = self.length + key.shape[2]
        keys, values = self._make_room(key, end)
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def extend_some(
        self, key: Tensor, value: Tensor, rows: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Append tokens of some samples; returns their keys, values and earlier lengths [n].

        `key`, `value` [n, heads, T, d]; `rows` [n]: the samples (None: all); `valid` [n, T] bool:
        which tokens are real, before any padding in each row (None: all). Raises ValueError beyond
        the capacity.
        """
        num_rows, _, num_tokens, _ = key.shape
        if self.lengths is None:  # from here on samples may differ, and this layer never goes back
            self.lengths = torch.full((self.num_samples,), self.length, device=key.device)
        rows = torch.arange(num_rows, device=key.device) if rows is None else rows
        before = self.lengths.index_select(0, rows)  # [n]
        new = torch.arange(num_tokens, device=key.device).expand(num_rows, -1)  # [n, T]
        if valid is None:
            valid = torch.ones_like(new, dtype=torch.bool)
        self.lengths = self.lengths.index_copy(0, rows, before + valid.sum(1))
        self.length = int(self.lengths.max())  # waits for the device: the room to return is data
        keys, values = self._make_room(key, self.length)
        # (sample, any head, place behind the earlier tokens) of every real token.
        where = rows[:, None].expand_as(new)[valid], slice(None), (before[:, None] + new)[valid]
        keys[where] = key.transpose(1, 2)[valid]  # [N, heads, d]
        values[where] = value.transpose(1, 2)[valid]
        # Cut to the longest of these samples, so that attention does not pay for the others.
        longest = int(self.lengths.index_select(0, rows).max())
        return (
            keys[:, :, :longest].index_select(0, rows),
            values[:, :, :longest].index_select(0, rows),
            before,
        )

    def _make_room(self, like: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values with room for `length` tokens; doubles the room where it is too small."""
        # Doubling copies each token about once in all; reserving the full capacity at once would
        # show in the memory peak of short outputs.
        if length > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, not {length}")
        if self.keys is None or self.values is None or self.keys.shape[2] < length:
            room = min(2 * length, self.capacity)
            shape = (self.num_samples, like.shape[1], room, like.shape[3])
            self.keys, self.values = (
                _copy_into(like.new_zeros(shape), old) for old in (self.keys, self.values)
            )
        return self.keys, self.values


def _copy_into(new: Tensor, old: Tensor | None) -> Tensor:
    """`new` [B, heads, room, d] with the tokens of `old` in its first places."""
    if old is not None:
        new[:, :, : old.shape[2]] = old
    return new


@dataclass(frozen=True)
class Past:
    """A layer's cache in one pass.

    `rows` [n]: the samples that take part (None: all), `valid` [n, T] bool: which of their new
    tokens are real, `querying` [n, K]: which of the new tokens query, by rank (None: all T).
    """

    layer: Layer
    rows: Tensor | None = None
    valid: Tensor | None = None
    querying: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None, bool]:
        """Append the new tokens; returns all keys and values, a mask and whether plain causal.

        A token attends to earlier ones and itself: bool mask [n or 1, 1, T or K, S], or None.
        """
        layer, num_new = self.layer, key.shape[2]
        if self.rows is None and self.valid is None and layer.lengths is None:
            length = layer.length
            keys, values = layer.extend(key, value)
            # One token attends to all, and the first pass is plain causal: neither needs a mask,
            # which would keep attention off its fast kernels.
            if self.querying is None and (num_new == 1 or length == 0):
                return keys, values, None, num_new > 1
            before = torch.tensor([length], device=key.device)
        else:
            keys, values, before = layer.extend_some(key, value, self.rows, self.valid)
        rank = (
            torch.arange(num_new, device=key.device)[None]
            if self.querying is None
            else self.querying
        )
        own = before[:, None] + rank  # places of the querying tokens, [n or 1, K]
        seen = torch.arange(keys.shape[2], device=key.device) <= own[..., None]  # [n or 1, K, S]
        return keys, values, seen[:, None], False
