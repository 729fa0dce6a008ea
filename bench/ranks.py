"""The processes that train one trial: one per device where torchrun started several, else this one.

    with together(device):     # they can talk; number() of count() processes
        everyones(value)       # what each of them gave, in the order of their numbers

Each runs the trial up to the end of its training; only number 0 goes on and leaves a record. What
fails in all of them is number 0's to record, and what fails in another one ends them all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

PATIENCE_S = 10.0  # what fails in all processes does not fail in all at once
FAILED, RECORDED = "condbench/failed", "condbench/recorded"


class RankFailed(Exception):
    """A process other than number 0 failed; the message says which and why."""


def number() -> int:
    """Which of the trial's processes this is; 0 measures and writes the record."""
    return int(os.environ["RANK"]) if distributed.is_torchelastic_launched() else 0


def launched() -> int:
    """How many processes torchrun started for this trial; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1


def count() -> int:
    """How many processes work together at the moment."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def together(device: torch.device, timeout_s: float) -> Iterator[None]:
    """Join all of the trial's processes, on a GPU each where `device` is one.

    One may wait for the others as long as `timeout_s`. After a failure the group is left as it is:
    nobody would answer.
    """
    if launched() == 1:
        yield
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" means from now on
    backend = "nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    yield
    distributed.destroy_process_group()


def everyones(value: Any) -> list[Any]:
    """The `value` of every process by its number. All must call it, and wait for one another."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value)
    return values


def share_of(size: int, what: str) -> int:
    """One process's part of `size`. Raises ValueError, naming `what`, for an uneven one."""
    share, rest = divmod(size, count())
    if rest:
        near = f"{size - rest} or {size - rest + count()}" if share else f"{count()}"
        raise ValueError(
            f"{what}={size} does not divide evenly among {count()} devices: try {near}"
        )
    return share


def blame(reason: str) -> str:
    """The reason to record after a failure here, which may only have followed from another's.

    In a process other than 0: waits for a record of number 0's own failure. Raises RankFailed if
    there is none, so that torchrun ends the others.
    """
    if launched() == 1:
        return reason
    board = _board()
    if number() == 0:
        told = board.get(FAILED).decode() if board.check([FAILED]) else reason
        return reason if told.endswith(f": {reason}") else told
    told = f"rank {number()}: {reason}"
    board.set(FAILED, told)
    try:
        board.wait([RECORDED], timedelta(seconds=PATIENCE_S))
    except distributed.DistStoreError:
        raise RankFailed(told) from None  # the log has the traceback, without secrets
    return reason


def recorded() -> None:
    """Tell the processes that wait in `blame` that the trial has its record."""
    if launched() > 1:
        _board().set(RECORDED, "")


def _board() -> distributed.Store:
    """Torchrun's own store of words, which works without a process group."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return distributed.TCPStore(address, port, is_master=False)
