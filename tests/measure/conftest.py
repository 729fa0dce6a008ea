"""What tests of measuring share."""

from __future__ import annotations

import pytest

from bench.measure import run as running
from bench.measure.run import Run
from tests.fakes.adjustable import adjustable


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run over the points k = 3 (the default), 2 and 1, without a child process."""
    monkeypatch.setattr(running, "Resident", lambda subject, inputs: None)
    return Run(adjustable(), lambda phase, share: None, {}, None)
