"""What an inference process occupies in resident memory, measured in a fresh process of its own."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from bench.measure.findings import Part
from bench.measure.inputs import Inputs
from bench.measure.metrics import metric, missing_metric
from bench.measure.subject import Subject
from bench.meters.memory.resident import RssChild, RssError, start_peak_rss
from bench.records.catalogue import PEAK_RSS, WARM_RSS
from bench.types import Batch

TIMEOUT_S = 120.0


class Resident:
    """Measures in a child while the trial continues; `wait` returns the result.

    Started first and waited for ahead of anything that is timed: the child would compete for the
    cores. The pass is one batch of the largest size at the default operating point, with the same
    number of threads.
    """

    def __init__(self, subject: Subject, inputs: Inputs) -> None:
        self.child: RssChild | None = None
        self.reason = "resident memory is measured for models on a CPU"
        if subject.device.type != "cpu":
            return  # a GPU's tensors are not in the process's resident memory
        # Model and batch are pickled: what cannot be sent has no figure, with the reason.
        batch = inputs.by_size[inputs.largest][0]
        pass_of_child = partial(infer, subject.model, batch, torch.get_num_threads(), _autocast())
        try:
            self.child = start_peak_rss(pass_of_child)
        except RssError as error:
            self.reason = str(error)

    def wait(self) -> Part:
        """Peak and settled resident bytes, interpreter and libraries included, or why not."""
        if self.child is not None:  # no child: `reason` has been set when it should have started
            try:
                reading = self.child.reading(TIMEOUT_S)
            except RssError as error:
                self.reason = str(error)
            else:
                return Part(
                    {
                        PEAK_RSS.at(): metric(PEAK_RSS, reading.peak_rss_bytes, reading.reason),
                        WARM_RSS.at(): metric(WARM_RSS, reading.rss_after_warmup_bytes),
                    }
                )
        return Part({e.at(): missing_metric(e, self.reason) for e in (PEAK_RSS, WARM_RSS)})


def _autocast() -> torch.dtype | None:
    """The number format of this process' autocast, which a new process does not inherit."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def infer(
    model: nn.Module, batch: Batch, num_threads: int, autocast: torch.dtype | None = None
) -> None:
    """One inference pass, as the child runs it: threads and number format of the parent."""
    torch.set_num_threads(num_threads)  # each thread has a stack and workspaces of its own
    with torch.inference_mode(), torch.autocast("cpu", autocast, enabled=autocast is not None):
        model(batch)
