"""What one process times: the method beside dense, and dense beside its twin."""

from __future__ import annotations

import torch

from bench.meters.time.replicated import PairedWork


class Counted:
    """A model that counts its passes; a copy begins with the original's count."""

    def __init__(self) -> None:
        self.num_passes = 0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.num_passes += 1
        return batch + 1


def work(candidate: Counted, baseline: Counted, twin: Counted | None) -> PairedWork:
    """Two rounds over one batch."""
    return PairedWork(candidate, baseline, {1: [torch.zeros(8)]}, 2, 0.01, 0.1, 1, twin=twin)


def test_the_twin_is_timed_in_the_control_only() -> None:
    """Rounds of method and dense first, then of dense and twin: dense has passes in both."""
    method, dense, twin = Counted(), Counted(), Counted()
    pair = work(method, dense, twin)()[1]
    assert pair.timing is not pair.control
    assert min(method.num_passes, twin.num_passes) > 0
    assert dense.num_passes > max(method.num_passes, twin.num_passes)
    assert len(pair.control.rounds) == 2


def test_the_dense_row_is_timed_against_the_twin() -> None:
    """One timing, which is its own control: twin and dense have as many passes but for warm-up."""
    dense, twin = Counted(), Counted()
    pair = work(dense, dense, twin)()[1]
    assert pair.timing is pair.control
    assert twin.num_passes > 0


def test_without_a_twin_or_with_the_same_object_a_copy_is_timed() -> None:
    """One object timed twice would show neither places in memory nor what building does."""
    for twin_is_given in (False, True):
        method, dense = Counted(), Counted()
        alone = work(method, dense, dense if twin_is_given else None)
        other = alone._other()
        assert isinstance(other, Counted)
        assert other is not dense
