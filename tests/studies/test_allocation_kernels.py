"""`make kernels`: allocation and recursions, without measured times."""

from __future__ import annotations

import pytest
import torch

from bench import routing
from bench.types import Batch
from tests.studies import allocation_kernels
from tests.studies.allocation_kernels import LIMIT, METHODS, allocation, inputs, judge


@pytest.mark.parametrize(("method_s", "is_kept"), [(0.5, True), (0.56, False)])
def test_the_realised_share_is_judged(method_s: float, is_kept: bool) -> None:
    """0.45 of the FLOPs in 0.5 of the time are 0.9 realised, in 0.56 of it 0.804."""
    cells, kept = judge({"dense": [1.0] * 4, "method": [method_s] * 4}, 0.45)
    assert kept is is_kept
    assert cells.startswith("0.900" if is_kept else "0.804")


@torch.inference_mode()
def test_half_of_all_decisions_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 blocks and 16 x 32 tokens; later blocks see other inputs than the threshold saw."""
    monkeypatch.setattr(allocation_kernels, "LENGTH", 32)
    torch.manual_seed(0)
    x = inputs()
    with routing.observe() as seen:
        allocation(x)(Batch(x, x))
    shares = [float(each.run.float().mean()) for each in seen.decisions]
    assert 0.3 < sum(shares[-6:]) / 6 < 0.7


@pytest.mark.parametrize(("method_s", "code"), [(0.1, 0), (9.0, 1)])
def test_a_missed_limit_is_exit_code_one(monkeypatch, capsys, method_s: float, code: int) -> None:
    """Every row is printed all the same, with 1 and 2 threads."""
    taken = {"dense": [1.0] * 4, "method": [method_s] * 4}
    monkeypatch.setattr(allocation_kernels, "BATCH", 1)
    monkeypatch.setattr(allocation_kernels, "time_rounds", lambda *given, **more: taken)
    monkeypatch.setattr("sys.argv", ["allocation_kernels", "--rounds", "4"])
    assert allocation_kernels.main() == code
    printed = capsys.readouterr().out
    assert printed.count("\n| ") == 1 + 2 * len(METHODS)
    assert (f">= {LIMIT}" in printed) == (code == 0)
