"""Data in memory: the common part of every bundled task.

    splits:   train / calibration / test, one Batch of tensors each, built once per process
    order:    shuffled by a seed, the same for every method; without a seed the order of the data

Nothing is read or generated while a batch is made, so that no timed region includes data loading.
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
    """The data half of a `Task`; a subclass defines `samples`."""

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
        """Number of samples of `split`."""
        return len(self.samples()[split])

    def batches(self, split: Split, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """One pass over `split`; see `bench.types.Task.batches`."""
        return iterate_batches(self.samples()[split], batch_size, seed=seed, whole=split == "train")


def iterate_batches(
    samples: Batch, batch_size: int, *, seed: int | None = None, whole: bool = False
) -> Iterator[Batch]:
    """Yield `samples` in batches, shuffled by `seed`, in data order without one.

    `whole` drops a last batch that is smaller than the others. Raises ValueError for a batch size
    below one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    order = np.arange(len(samples))
    if seed is not None:
        # numpy's permutation does not depend on the device or the number of threads.
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
                # Shape and type too: equal bytes of another shape are other data.
                digest.update(f"{split} {name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def chunks(num_samples: int, size: int) -> list[slice]:
    """Slices of at most `size` samples, for generation in chunks that fit a CPU cache."""
    return [slice(start, start + size) for start in range(0, num_samples, size)]
