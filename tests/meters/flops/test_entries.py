"""Floats that come into torch from outside during a pass, and depend on its input."""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.meters.flops.entries import count_entries
from bench.types import Batch

DIM = 8
WEIGHT = torch.randn(DIM, DIM)
BUFFER = torch.zeros(2, DIM)  # older than every pass


def batch(seed: int, size: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(size, DIM, generator=generator), torch.zeros(size))


BATCHES = [batch(seed) for seed in range(3)]


def entries(work: Callable[[Tensor], object]) -> int:
    with torch.inference_mode():
        return count_entries(lambda given: work(given.inputs), BATCHES)


def product(x: Tensor) -> Any:
    return x.numpy() @ WEIGHT.numpy()


def into_buffer(x: Tensor) -> Tensor:
    """Into memory that the model has had all along."""
    BUFFER.numpy()[:] = product(x)
    return BUFFER + 1


def by_address(x: Tensor) -> Tensor:
    y = np.ascontiguousarray(product(x))
    ctypes.memmove(BUFFER.data_ptr(), y.ctypes.data, y.nbytes)
    return BUFFER @ WEIGHT


class _Server:
    """A thread that is older than every pass, and computes with torch."""

    def __init__(self) -> None:
        self.requests: queue.Queue[Tensor] = queue.Queue()
        self.replies: queue.Queue[Tensor] = queue.Queue()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with torch.inference_mode():
                self.replies.put(self.requests.get() @ WEIGHT)

    def __call__(self, x: Tensor) -> Tensor:
        self.requests.put(x)
        return self.replies.get()


server = _Server()
OUTSIDE: dict[str, Callable[[Tensor], object]] = {
    "from_numpy": lambda x: torch.from_numpy(product(x)) + 1,
    "returned": lambda x: torch.from_numpy(product(x)),
    "tensor": lambda x: torch.tensor(product(x)) * 2,
    "as_tensor": lambda x: torch.as_tensor(product(x)) * 2,
    "list": lambda x: torch.tensor(product(x).tolist()) @ WEIGHT,
    "dlpack": lambda x: torch.from_dlpack(product(x)) * 2,
    "frombuffer": lambda x: (
        torch.frombuffer(bytearray(product(x).tobytes()), dtype=torch.float32).view(2, DIM) * 2
    ),
    "bits": lambda x: torch.from_numpy(product(x).view(np.int32)).view(torch.float32) * 2,
    "seen as a view": lambda x: torch.from_numpy(product(x)).t().contiguous(),
    "changed in place": lambda x: torch.from_numpy(product(x)).add_(1) * 2,
    "into older memory": into_buffer,
    "by address": by_address,
    "an older thread": lambda x: server(x) + 1,
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_results_from_outside_are_counted(name: str) -> None:
    """2 x 8 floats, computed where no operation is dispatched."""
    assert entries(OUTSIDE[name]) == 2 * DIM


layer, norm = nn.Linear(DIM, DIM), nn.BatchNorm1d(DIM).eval()
kept = {"table": torch.randn(DIM, DIM)}
cache = torch.empty(2, DIM)


def filled(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[:, : DIM // 2] = x[:, : DIM // 2]
    out[:, DIM // 2 :].copy_(x[:, DIM // 2 :])
    cache[:] = out
    return torch.mm(cache, WEIGHT, out=torch.empty(2, DIM))


def branches(x: Tensor) -> Tensor:
    """A table that only some inputs need, and a constant that only some make."""
    if x.sum() > 0:
        return x @ kept["table"]
    return x * 2


HONEST: dict[str, Callable[[Tensor], object]] = {
    "layers": lambda x: norm(layer(x).relu()),
    "plain tensors": lambda x: x @ kept["table"],
    "some inputs only": branches,
    "constants of a list": lambda x: x * torch.tensor([0.5] * DIM),
    "constants of NumPy": lambda x: x + torch.from_numpy(np.arange(8.0, dtype=np.float32)),
    "masks": lambda x: x.masked_fill(torch.ones(2, DIM).tril() == 0, float("-inf")).softmax(-1),
    "positions": lambda x: x + torch.arange(DIM).float().sin(),
    "buffers": filled,
    "noise": lambda x: x + torch.randn_like(x) * torch.rand(DIM),
    "indices": lambda x: x[torch.tensor(x.argsort(0)[:, 0].tolist())],
    "control flow": lambda x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, (x,)),
    "one number": lambda x: x * torch.tensor(float(x.sum())),
}


@pytest.mark.parametrize("name", HONEST)
def test_constants_and_indices_are_no_results(name: str) -> None:
    """What is the same whatever the input, what is an integer, and what torch computed."""
    assert entries(HONEST[name]) == 0


def test_threads_of_the_model_leave_it_open() -> None:
    """A pool that the pass starts computes with counted operations, which this does not see."""

    def pooled(x: Tensor) -> Tensor:
        with ThreadPoolExecutor(2) as pool:
            return torch.cat(list(pool.map(lambda rows: rows @ WEIGHT, x.split(1)))) * 2

    assert entries(pooled) == 0


def test_the_largest_call_counts() -> None:
    """Work that comes from outside in a batch only is 4 x 8 floats."""
    batches = [*BATCHES, batch(4, size=4)]

    def work(given: Batch) -> Tensor:
        x = given.inputs
        return torch.from_numpy(product(x)) * 2 if len(x) == 4 else x * 2

    with torch.inference_mode():
        assert count_entries(work, batches) == 4 * DIM
