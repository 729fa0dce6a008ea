"""Data that lies in memory: what every bundled task has in common.

    splits:   train / calibration / test, one Batch of tensors each, built once per process
    order:    a seed fixes it for every method; without one it is the order of the data

Nothing is read or generated while a batch is made, so that no loading sits in a timed region.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from bench.types import Batch, Split

SPLITS: tuple[Split, ...] = ("train", "calibration", "test")


class Preloaded(ABC):
    """The data half of a `Task`; a subclass says where its samples come from."""

    @abstractmethod
    def samples(self) -> Mapping[Split, Batch]:
        """Every split as one batch in data order. Must be cheap after the first call."""

    def attributes(self, split: Split) -> Mapping[str, Tensor]:
        """Facts about each sample of `split` in data order, [N] each, such as its difficulty."""
        return {}

    def data_hash(self) -> str:
        """SHA-256 over the bytes and shapes of every tensor of every split."""
        return content_hash(self.samples())

    def num_samples(self, split: Split) -> int:
        """How many samples `split` has."""
        return len(self.samples()[split])

    def batches(self, split: Split, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """One pass over `split`; see `bench.types.Task.batches`."""
        return in_batches(self.samples()[split], batch_size, seed=seed, whole=split == "train")


def in_batches(
    samples: Batch, batch_size: int, *, seed: int | None = None, whole: bool = False
) -> Iterator[Batch]:
    """`samples` in batches: shuffled by `seed`, in order without; `whole` drops a ragged last one.

    Raises ValueError for a batch size below one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    order = np.arange(len(samples))
    if seed is not None:
        # numpy's order is the same on every device and with every number of threads.
        order = np.random.default_rng(seed).permutation(len(samples))
    end = len(order) - len(order) % batch_size if whole else len(order)
    for start in range(0, end, batch_size):
        yield samples.select(torch.from_numpy(order[start : min(start + batch_size, end)]))


def content_hash(samples: Mapping[Split, Batch]) -> str:
    """SHA-256 (hexadecimal) of all tensors with their names, shapes and types."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for name, tensor in sorted(vars(samples[split]).items()):
            if tensor is not None:
                digest.update(f"{split} {name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def parts(num_samples: int, size: int) -> list[slice]:
    """Slices of at most `size` samples: generation in pieces that fit a cache."""
    return [slice(start, start + size) for start in range(0, num_samples, size)]
