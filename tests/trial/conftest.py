"""Trials in this process leave resident memory out, which tests/measure reads in real children."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quick(without_resident_child: None) -> None:
    """Start no interpreter per trial."""
