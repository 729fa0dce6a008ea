"""What every test shares: one thread, light garbage collections, and no silent skip in CI."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

CONF = Path(__file__).parents[1] / "conf"
LONG_SET_UPS = ("test_third_party.py", "test_driver.py", "test_experiments.py", "test_local.py")

# Two processes share two cores: a second thread would disturb the tests beside it. Set before torch
# is imported; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"

# A shell starts what it runs in the background with SIGINT ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """GPU tests run where a GPU is, and only there."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest set-ups.

    A test process that has no work left takes the last tests of the other one. If it took some of
    these modules' tests, what their tests share would be set up in both.
    """
    items.sort(key=lambda item: item.path.name not in LONG_SET_UPS)  # stable: else as collected


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CONDBENCH_NO_SKIP set, a skip that is not a GPU's fails the run."""
    if not os.environ.get("CONDBENCH_NO_SKIP"):
        return
    # Workers of pytest-xdist have no reporter: the process that started them counts every report.
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    bad = [report.nodeid for report in skipped if "needs an NVIDIA GPU" not in str(report.longrepr)]
    if bad:
        print("\nskipped without needing a GPU:", *bad, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="module")
def _light_collections() -> None:
    """Exclude all that is loaded so far from collections: meters collect garbage before they run.

    A collection looks at every live object. Those of the imported libraries take about a second.
    """
    gc.collect()
    gc.freeze()
    # Rarer than by default: composing configurations makes many objects, and few of them cycles.
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture
def without_resident_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials in this process leave resident memory out: each would start an interpreter with torch.

    For tests of something else: tests/measure/test_footprint.py reads a real child.
    """
    from bench.measure import resident

    def refuse(work: object) -> None:
        raise resident.RssError("left out of this test")

    monkeypatch.setattr(resident, "start_peak_rss", refuse)


class House:
    """A distribution with real entry-point metadata, and a copy of conf/, to plan with."""

    def __init__(self, root: Path) -> None:
        self.source = root / "fakehouse" / "__init__.py"
        self.conf = root / "fakeconf"
        self.entry_points = root / "fakehouse-1.0.dist-info" / "entry_points.txt"
        self.num_servers: list[int] = []  # of every run that would have started processes to time
        variants = shutil.ignore_patterns("method", "task", "backbone")  # of other plugins
        shutil.copytree(CONF, self.conf, ignore=variants)
        self.source.parent.mkdir()
        shutil.copy(Path(__file__).parent / "fakes" / "house.py", self.source)
        self.entry_points.parent.mkdir()
        metadata = "Metadata-Version: 2.1\nName: fakehouse\nVersion: 1.0\n"
        (self.entry_points.parent / "METADATA").write_text(metadata)
        self.offer("method", dense="Dense", moe="MoE")
        self.offer("backbone", transformer="Transformer")
        self.offer("task", digits="Digits", text="Text")

    def offer(self, kind: str, **classes: str) -> None:
        """Add entry points: a class of this house, or module:Class of another."""
        lines = [f"[fakehouse.{kind}]"]
        lines += [f"{k} = {v if ':' in v else f'fakehouse:{v}'}" for k, v in classes.items()]
        with self.entry_points.open("a") as file:
            file.write("\n".join(lines) + "\n")

    @contextmanager
    def serve(self, num_processes: int) -> Iterator[None]:
        """Stands in for the servers of a run, interpreters with torch that nothing would use."""
        self.num_servers.append(num_processes)
        yield

    def experiment(self, name: str, text: str) -> None:
        """Write conf/experiment/NAME.yaml with the line that every experiment begins with."""
        path = self.conf / "experiment" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# @package _global_\n{text}")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A house of fake plugins, the only ones that the planner finds."""
    from bench import plugins
    from bench.meters.time import replicas
    from bench.plan import compose

    made = House(tmp_path / "house")
    monkeypatch.syspath_prepend(str(tmp_path / "house"))
    for module in ("fakehouse", "fakeconf"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for kind in plugins.GROUPS:
        monkeypatch.setitem(plugins.GROUPS, kind, f"fakehouse.{kind}")
    monkeypatch.setattr(compose, "CONF", "fakeconf")
    monkeypatch.setattr(replicas, "servers_of_a_run", made.serve)
    monkeypatch.chdir(tmp_path)
    return made
