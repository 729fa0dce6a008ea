"""What an inference process costs in resident memory, asked of a fresh process of its own."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from bench.measure.inputs import Inputs
from bench.measure.subject import Metrics, Subject
from bench.meters.memory.resident import RssChild, RssError, start_peak_rss
from bench.records.record import Metric, missing
from bench.types import Batch

PEAK, WARM = "infer/peak_rss_bytes", "infer/rss_after_warmup_bytes"
TIMEOUT_S = 120.0


class Resident:
    """Measures in a child while the trial goes on; `metrics` waits for it.

    Started before and waited for ahead of anything that is timed. The pass is one batch of the
    largest size at the default operating point, with the same number of threads.
    """

    def __init__(self, subject: Subject, inputs: Inputs) -> None:
        self.child: RssChild | None = None
        self.reason = "resident memory is measured for models on a CPU"
        if subject.device.type != "cpu":
            return
        batch = inputs.by_size[max(inputs.by_size)][0]
        try:
            self.child = start_peak_rss(
                partial(infer, subject.model, batch, torch.get_num_threads(), _autocast())
            )
        except RssError as error:
            self.reason = str(error)

    def metrics(self) -> Metrics:
        """Peak and settled resident bytes, interpreter and libraries included, or why not."""
        if self.child is not None:
            try:
                reading = self.child.reading(TIMEOUT_S)
            except RssError as error:
                self.reason = str(error)
            else:
                return {
                    PEAK: Metric(value=reading.peak_rss_bytes, unit="bytes"),
                    WARM: Metric(value=reading.rss_after_warmup_bytes, unit="bytes"),
                }
        return {name: missing("bytes", self.reason) for name in (PEAK, WARM)}


def _autocast() -> torch.dtype | None:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def infer(
    model: nn.Module, batch: Batch, num_threads: int, autocast: torch.dtype | None = None
) -> None:
    """One inference pass, as the child runs it: threads and number format of the parent."""
    torch.set_num_threads(num_threads)
    with torch.inference_mode(), torch.autocast("cpu", autocast, enabled=autocast is not None):
        model(batch)
