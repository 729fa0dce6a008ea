"""The machine's own speed limit: its fastest measured matrix product.

Every achieved FLOP/s is compared with it. Where a model exceeds it, a synchronisation is missing
or its FLOPs are over-counted.
"""

from __future__ import annotations

from functools import cache, partial

import torch

from bench.meters.conditions import pinned_threads
from bench.meters.guard import refuse_if_watched
from bench.meters.time.stopwatch import stopwatch_for

# Several sizes, because the fastest one depends on caches (CPU) and on tile shapes (GPU).
SIZES = {"cpu": (256, 512, 1024), "cuda": (4096, 8192)}
SECONDS_PER_SIZE = 0.1


@cache
def measure_peak_flops(
    dtype: torch.dtype = torch.float32, num_threads: int | None = None, device: str = "cpu"
) -> float:
    """FLOP/s (2 x MAC) of the fastest square matrix product in `dtype`; measured once per process.

    `num_threads`: intra-op threads on a CPU, None for those in force. The fastest repeat counts,
    not the typical one: this is a limit. On a CPU it is at least the single thread's speed times
    the threads, because another process halves a product of several threads but seldom every short
    product of one. Takes about a second. Raises MeterStateError under a dispatch mode or
    profiler.
    """
    refuse_if_watched("peak FLOP/s")
    where = torch.device(device)
    if where.type != "cpu":
        return _fastest_of_sizes(dtype, where)
    threads = num_threads or torch.get_num_threads()
    with pinned_threads(1):
        alone = _fastest_of_sizes(dtype, where)
    with pinned_threads(threads):
        together = _fastest_of_sizes(dtype, where) if threads > 1 else alone
    return max(together, alone * threads)


def _fastest_of_sizes(dtype: torch.dtype, device: torch.device) -> float:
    return max(_fastest(size, dtype, device) for size in SIZES[device.type])


def _fastest(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the fastest product of two [size, size] matrices."""
    watch = stopwatch_for(device)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)  # allocated once: allocation is not multiplication
    with torch.inference_mode():
        multiply = partial(torch.mm, left, right, out=product)
        multiply()  # dry: the first call loads and selects a kernel
        end_s, fastest_s = watch.now_s() + SECONDS_PER_SIZE, float("inf")
        while watch.now_s() < end_s:
            fastest_s = min(fastest_s, watch.measure(multiply).host_s)
    return 2 * size**3 / fastest_s
