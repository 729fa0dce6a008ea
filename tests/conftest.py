"""What every test shares: one thread, and no silent skip in CI."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores are shared: timing tests need quiet
os.environ["WANDB_MODE"] = "offline"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """GPU tests run where a GPU is, and only there."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CONDBENCH_NO_SKIP set, a skip that is not a GPU's fails the run."""
    if not os.environ.get("CONDBENCH_NO_SKIP"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    bad = [report.nodeid for report in skipped if "needs an NVIDIA GPU" not in str(report.longrepr)]
    if bad:
        print("\nskipped without needing a GPU:", *bad, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
