"""A load of known shape for a GPU: busy for so many seconds, or a square wave."""

from __future__ import annotations

import time

import torch

SIDE = 4096
TRIES = 50


class MatrixLoad:
    """Square bfloat16 products, as many as fill the asked time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._matrix = torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16)
        self._products(TRIES)
        self._product_s = self._timed(TRIES)[0] / TRIES

    def busy(self, seconds: float) -> None:
        """Compute for about `seconds` and wait for the end."""
        self._products(max(1, round(seconds / self._product_s)))

    def wave(self, period_s: float) -> None:
        """Half of `period_s` busy, half idle."""
        self.busy(period_s / 2)
        time.sleep(period_s / 2)

    def host_over_device_time(self) -> float:
        """Host seconds over the device's own, of the same products: 1 if nothing hides."""
        host_s, device_s = self._timed(20 * TRIES)
        return host_s / device_s

    def _launch(self, num: int) -> None:
        with torch.inference_mode():
            for _ in range(num):
                torch.mm(self._matrix, self._matrix)

    def _products(self, num: int) -> None:
        self._launch(num)
        torch.cuda.synchronize(self.device)

    def _timed(self, num: int) -> tuple[float, float]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started_s = time.monotonic()
        begin.record(torch.cuda.current_stream(self.device))
        self._launch(num)
        end.record(torch.cuda.current_stream(self.device))
        end.synchronize()
        return time.monotonic() - started_s, begin.elapsed_time(end) / 1e3
