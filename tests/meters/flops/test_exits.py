"""Floats that leave torch are seen, whichever way they take, in whichever thread."""

from __future__ import annotations

import _thread
import copy
import io
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch import Tensor

from bench.meters.flops.counter import count
from bench.meters.flops.exits import MEMORY, VALUES, watch_exits

X = torch.randn(3, 4)
LONG = torch.randn(65)


def exits(work: Callable[[], object]) -> dict[str, int]:
    """How floats leave torch in `work`, with their number."""
    with watch_exits() as found, torch.inference_mode():
        count(work)
    return found


def forks() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


numpy_of = torch.Tensor.numpy  # taken hold of before anything watched
WAYS: dict[str, tuple[Callable[[], object], int]] = {
    "numpy": (lambda: X.numpy(), 12),
    "numpy, forced": (lambda: X.numpy(force=True), 12),
    "numpy, held": (lambda: numpy_of(X), 12),
    "asarray": (lambda: np.asarray(X), 12),
    "tolist": (lambda: X.tolist(), 12),
    "part": (lambda: X[0].tolist(), 4),
    "dlpack": (lambda: np.from_dlpack(X), 12),
    "capsule": (lambda: torch.utils.dlpack.to_dlpack(X), 12),
    "address": (lambda: X.data_ptr(), 12),
    "storage": (lambda: X.untyped_storage().tolist(), 12),
    "bits": (lambda: X.view(torch.int32).numpy(), 12),
    "bytes": (lambda: X.view(torch.uint8).tolist(), 48),
    "bits, later": (lambda: X.view(dtype=torch.int32)[1:].reshape(2, 4).numpy(), 8),
    "pickle": (lambda: pickle.dumps(X), 12),
    "save": (lambda: torch.save(X, io.BytesIO()), 12),
    "complex": (lambda: torch.complex(X, X).numpy(), 12),
    "half": (lambda: X.half().numpy(), 12),
    "one by one": (lambda: [each.item() for each in (X + 1).flatten()], 12),
    "one by one, as float": (lambda: [float(each) for each in (X + 1)[0]], 4),
    "one by one, as lists": (lambda: [each.tolist() for each in (X + 1)[0].unbind()], 4),
    "one by one, as complex": (lambda: [complex(each) for each in torch.complex(X, X)[0]], 4),
    "one by one, of inputs": (lambda: [each.item() for each in LONG], 65),
    "Python for each": (lambda: X.clone().apply_(lambda value: value), 12),
    "Python for pairs": (lambda: X.clone().map_(X, lambda one, other: one), 12),
    "fork": (forks, 0),
    "subprocess": (lambda: subprocess.run([sys.executable, "-c", ""], check=True), 0),
    "system": (lambda: os.system("true"), 0),
}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", WAYS)
def test_every_way_out_is_seen(name: str) -> None:
    """Values, memory, bits under another type, files, and processes."""
    work, num_floats = WAYS[name]
    found = exits(work)
    assert found
    assert max(found.values()) == num_floats


STAYS: dict[str, Callable[[], Any]] = {
    "one number": lambda: (X.sum().item(), float(X[0, 0]), X[0, 0].tolist(), bool(X.sum() > 0)),
    "settings": lambda: [float(threshold) for threshold in LONG[:64]],
    "a number of each": lambda: [part.mean().item() for part in (X + 1).unbind()],
    "two extremes": lambda: [each.item() for each in (X + 1).aminmax()],
    "indices": lambda: (X.argsort().tolist(), X.shape, (X > 0).nonzero().numpy()),
    "integers seen as others": lambda: torch.arange(4).view(torch.int32).tolist(),
    "floats seen as floats": lambda: (X.view(torch.bfloat16), torch.arange(3).tolist()),
    "a copy": lambda: copy.deepcopy(X) + X.clone(),
    "products": lambda: X @ X.T,
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_is_no_exit(name: str) -> None:
    """Decisions, lengths and indices steer Python code; copies are torch's own."""
    assert exits(STAYS[name]) == {}


def serving(start: Callable[[Callable[[], None]], object]) -> dict[str, int]:
    """Exits of a thread that is there before the count, and gets the tensor from it."""
    requests: queue.Queue[Tensor] = queue.Queue()
    replies: queue.Queue[Any] = queue.Queue()
    start(lambda: replies.put(requests.get().numpy()))

    def work() -> Tensor:
        requests.put(X)
        return torch.from_numpy(replies.get())

    return exits(work)


def test_older_threads_are_watched_too() -> None:
    """A thread of Python's, and one that Python does not list."""
    listed = serving(lambda serve: threading.Thread(target=serve, daemon=True).start())
    unlisted = serving(lambda serve: _thread.start_new_thread(serve, ()))
    assert listed == unlisted == {"numpy in another thread": 12}


def test_threads_of_the_count_are_watched() -> None:
    """The mode is its thread's own; the method is watched everywhere."""

    def work() -> None:
        thread = threading.Thread(target=lambda: X.numpy())
        thread.start()
        thread.join()

    assert exits(work) == {"numpy in another thread": 12}


def test_an_operation_of_ones_own_may_do_anything() -> None:
    """Its implementation is not counted code: a formula gives the cost."""

    @torch.library.custom_op("condbenchexits::double", mutates_args=())
    def double(x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * 2)

    assert exits(lambda: double(X)) == {}


def test_an_exit_is_reported_before_it_happens() -> None:
    """What the callback raises reaches the caller of numpy."""

    def refuse(how: str, num_floats: int) -> None:
        raise ValueError(f"{how}: {num_floats}")

    with pytest.raises(ValueError, match="tolist: 12"), watch_exits(refuse):
        count(X.tolist)


def test_everything_is_as_it_was_afterwards() -> None:
    """No patch outlives the block, also after an error."""
    before = {name: getattr(Tensor, name) for name in (*VALUES, *MEMORY)}
    own = set(vars(Tensor))
    with pytest.raises(RuntimeError, match="no"), watch_exits():
        raise RuntimeError("no")
    assert {name: getattr(Tensor, name) for name in (*VALUES, *MEMORY)} == before
    assert set(vars(Tensor)) == own
