"""The ranks of one trial: one process per device under torchrun, else this process alone.

    with process_group(device, timeout_s):     # rank() of group_size() processes
        all_gather(value)                      # the value of every rank, in rank order

Every rank runs the trial up to the end of training; rank 0 alone continues, measures and writes the
record. A failure of all ranks is recorded by rank 0; a failure of another rank alone ends them all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

RECORD_WAIT_S = 10.0  # a failure of all ranks does not reach all of them at the same time
FAILED, RECORDED = "condbench/failed", "condbench/recorded"  # keys in torchrun's store


class RankFailed(Exception):
    """A rank other than 0 failed; the message names the rank and the cause."""


def rank() -> int:
    """The rank of this process; rank 0 measures and writes the record."""
    # From torchrun's environment, not torch.distributed: also valid without a process group.
    return int(os.environ["RANK"]) if distributed.is_torchelastic_launched() else 0


def world_size() -> int:
    """Number of processes that torchrun started for this trial; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1


def group_size() -> int:
    """Number of ranks in the current process group; 1 before and after training."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextmanager
def process_group(device: torch.device, timeout_s: float) -> Iterator[None]:
    """Join all ranks of the trial in a process group, each on its own GPU if `device` is CUDA.

    A collective operation waits at most `timeout_s` for the other ranks.
    """
    if world_size() == 1:
        yield
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what "cuda" refers to from here on
    backend = "nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    yield
    # Not in a `finally`: after a failure of one rank the others would wait in vain for this call.
    distributed.destroy_process_group()


def all_gather(value: Any) -> list[Any]:
    """The picklable `value` of every rank, in rank order. Blocks until all ranks have called it."""
    if group_size() == 1:
        return [value]
    values: list[Any] = [None] * group_size()
    distributed.all_gather_object(values, value)
    return values


def local_share(size: int, what: str) -> int:
    """One rank's share of `size`. Raises ValueError, naming `what`, for an uneven division."""
    share, rest = divmod(size, group_size())
    if rest:
        above = size - rest + group_size()
        near = f"{size - rest} or {above}" if share else f"{above}"  # a share of 0 is no remedy
        raise ValueError(
            f"{what}={size} does not divide evenly among {group_size()} devices: try {near}"
        )
    return share


def root_cause(reason: str) -> str:
    """The reason to record after a failure in this rank, which another rank may have caused.

    In a rank other than 0 it waits for rank 0 to record a failure of its own. Raises RankFailed if
    it does not, so that torchrun ends the other ranks.
    """
    if world_size() == 1:
        return reason
    store = _store()
    if rank() == 0:
        first = store.get(FAILED).decode() if store.check([FAILED]) else reason
        # The same failure in all ranks needs no rank in its message.
        return reason if first.endswith(f": {reason}") else first
    failure = f"rank {rank()}: {reason}"
    store.set(FAILED, failure)
    try:
        store.wait([RECORDED], timedelta(seconds=RECORD_WAIT_S))
    except distributed.DistStoreError:
        raise RankFailed(failure) from None  # the log has the traceback, without secrets
    return reason


def notify_recorded() -> None:
    """Notify the ranks that wait in `root_cause` that the trial has its record."""
    if world_size() > 1:
        _store().set(RECORDED, "")


def _store() -> distributed.Store:
    """Torchrun's own key-value store, which works without a process group."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return distributed.TCPStore(address, port, is_master=False)
