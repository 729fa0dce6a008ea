"""A trial of several ranks: torchrun inside the trial's process, one rank per GPU.

The trial's process is the torchrun agent. `bench.launch.child` as a module is what torchrun starts
per rank.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

from bench.launch.lifetime import die_with_parent


class RankFailed(Exception):
    """A rank of a distributed trial failed; the message names the rank and the cause."""


def run_ranks(folder: str, entry: str, num_ranks: int) -> None:
    """Run one trial in `num_ranks` ranks under torchrun, with this process as their agent.

    Raises RankFailed with the cause of the rank that failed first.
    """
    # Imported here: torchrun is slow to import and most trials have one process.
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # ranks import what this process imports
    ranks = f"--nproc-per-node={num_ranks}"
    try:
        # --standalone: a rendezvous on a free port, so that two trials never share one.
        torchrun(["--standalone", ranks, "--module", "bench.launch.child", folder, entry])
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        raise RankFailed(f"rank {number}: {_describe_failure(failure)}") from error


def _describe_failure(failure: Any) -> str:
    """What ended a rank: the exception that it recorded, a signal, or its exit code."""
    if isinstance(failure.message, dict):  # written by torch's @record around the entry point
        return str(failure.message["message"])
    return failure.message if failure.exitcode < 0 else f"exit code {failure.exitcode}"


def run_rank(folder: str, entry: str) -> None:
    """Run one rank of a distributed trial; `entry` is "module:function"."""
    from torch.distributed.elastic.multiprocessing.errors import record

    # torchrun starts each rank in a session of its own, where the launcher's killpg misses it.
    die_with_parent()
    record(pkgutil.resolve_name(entry))(Path(folder))
