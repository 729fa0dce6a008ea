"""`make kernels`: the sparse rows, without measured times."""

from __future__ import annotations

import pytest
import torch

from bench.meters.flops.counter import count
from tests.studies import sparse_kernels
from tests.studies.sparse_kernels import ROWS, judge


@pytest.mark.parametrize("name", ROWS)
@torch.inference_mode()
def test_both_candidates_have_the_same_outputs(name: str) -> None:
    """Only the time may differ."""
    torch.manual_seed(0)
    made, x = ROWS[name].make()
    torch.testing.assert_close(made["sparse"](x), made["dense"](x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "share"), [("csr", 0.05), ("blocks", 0.25), ("threshold", 0.5)])
def test_rows_compute_their_share(name: str, share: float) -> None:
    """What is timed executes the stated share of the dense layer's FLOPs."""
    made, x = getattr(sparse_kernels, name)()
    with torch.inference_mode():
        flops = {key: count(made[key], x, strict=True).total for key in ("sparse", "dense")}
    assert flops["sparse"] / flops["dense"] == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize(("limit", "is_kept"), [(0.35, True), (0.34, False), (None, True)])
def test_the_limit_of_a_row_is_judged(limit: float | None, is_kept: bool) -> None:
    """A ratio of 0.35 keeps a limit of 0.35, and any where none is set."""
    cells, kept = judge({"dense": [1.0] * 4, "sparse": [0.35] * 4}, limit)
    assert kept is is_kept
    assert "0.350" in cells


@pytest.mark.parametrize(("sparse_s", "code"), [(0.1, 0), (2.0, 1)])
def test_a_missed_limit_is_exit_code_one(monkeypatch, capsys, sparse_s: float, code: int) -> None:
    """Every row is printed all the same, with 1 and 2 threads."""
    taken = {"dense": [1.0] * 4, "sparse": [sparse_s] * 4}
    monkeypatch.setattr(sparse_kernels, "time_row", lambda *given: taken)
    monkeypatch.setattr("sys.argv", ["sparse_kernels", "--rounds", "4"])
    assert sparse_kernels.main() == code
    assert capsys.readouterr().out.count("\n| ") == 1 + 2 * len(ROWS)
