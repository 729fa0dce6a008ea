"""The worker by itself: the kernels that it trains with, and those that it is timed with."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from bench.regress.revisions import worker
from bench.types import Unsupported


def test_trainings_are_repeatable_and_times_are_not_changed_by_it(monkeypatch) -> None:
    """Sums run in one order while a model is trained and scored, and as usual afterwards."""
    seen = []

    def prepare(*_: object) -> None:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()))
        raise Unsupported("needs tokens")

    trial = SimpleNamespace(config=SimpleNamespace(gpu=SimpleNamespace(threads=1)))
    monkeypatch.setattr(worker, "read_trial", lambda folder: trial)
    monkeypatch.setattr(worker, "prepare", prepare)
    opened = worker.Worker()
    assert opened.open("f") == {"protocol": 1, "skipped": "needs tokens"}
    opened.held.close()
    assert seen == [(True, 1)]
    assert not torch.are_deterministic_algorithms_enabled()
