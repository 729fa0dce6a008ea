"""A GPU load of known shape: busy for a number of seconds, or a square wave."""

from __future__ import annotations

import time

import torch

SIDE = 4096  # rows and columns: about 0.2 ms a product on an H200, which sets the resolution
NUM_TIMED = 50  # products that calibrate the load


class MatrixLoad:
    """Square bfloat16 products, as many as fill the requested time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._matrix = torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16)
        self._products(NUM_TIMED)  # dry: the first products load kernels and raise clocks
        self._product_s = self._time_products(NUM_TIMED)[0] / NUM_TIMED

    def busy(self, seconds: float) -> None:
        """Compute for about `seconds` and wait for the end."""
        self._products(max(1, round(seconds / self._product_s)))

    def wave(self, period_s: float) -> None:
        """Half of `period_s` busy, half idle."""
        self.busy(period_s / 2)
        time.sleep(period_s / 2)

    def host_over_device_time(self) -> float:
        """Host seconds / device seconds of the same products: 1 if synchronisation is complete."""
        host_s, device_s = self._time_products(20 * NUM_TIMED)
        return host_s / device_s

    def _launch(self, num: int) -> None:
        with torch.inference_mode():
            for _ in range(num):
                torch.mm(self._matrix, self._matrix)

    def _products(self, num: int) -> None:
        self._launch(num)
        torch.cuda.synchronize(self.device)

    def _time_products(self, num: int) -> tuple[float, float]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started_s = time.monotonic()
        begin.record(torch.cuda.current_stream(self.device))
        self._launch(num)
        end.record(torch.cuda.current_stream(self.device))
        end.synchronize()
        # CUDA's events count milliseconds.
        return time.monotonic() - started_s, begin.elapsed_time(end) / 1e3
