"""`make kernels`: the properties of the comparison itself, without measured times."""

from __future__ import annotations

from itertools import count, pairwise

import pytest
import torch

from tests.studies import dense_kernels
from tests.studies.kernels import candidates, time_rounds


@pytest.mark.parametrize(("ours_s", "is_kept"), [(1.05, True), (1.06, False)])
def test_the_limit_is_judged(ours_s: float, is_kept: bool) -> None:
    """The median ratio may be 1.05 and no more."""
    cells, kept = dense_kernels.judge({"HF": [1.0] * 4, "ours": [ours_s] * 4})
    assert kept is is_kept
    assert cells.endswith("ok" if is_kept else "above 1.05")


@pytest.mark.parametrize(("ours_s", "code"), [(1.0, 0), (2.0, 1)])
def test_a_missed_limit_is_exit_code_one(monkeypatch, capsys, ours_s: float, code: int) -> None:
    """Every row is printed all the same."""
    taken = {"HF": [1.0] * 4, "ours": [ours_s] * 4}
    monkeypatch.setattr(dense_kernels, "time_pair", lambda *given: taken)
    monkeypatch.setattr(
        dense_kernels, "MODELS", {"a": (dict, torch.zeros), "b": (dict, torch.zeros)}
    )
    monkeypatch.setattr("sys.argv", ["dense_kernels", "--rounds", "4"])
    assert dense_kernels.main() == code
    assert capsys.readouterr().out.count("\n| a | 64 |") == 2  # with 1 and 2 threads


def test_no_candidate_has_always_the_same_predecessor() -> None:
    """Over 200 rounds each of four follows every other one, and every round has all four."""
    called: list[str] = []
    made = {name: (lambda x, name=name: called.append(name)) for name in "ABCD"}
    ticks = count()
    taken = time_rounds(made, torch.zeros(1), 200, lambda: float(next(ticks)))  # type: ignore[arg-type]
    assert {name: len(values) for name, values in taken.items()} == dict.fromkeys("ABCD", 200)
    rounds = [called[start : start + 4] for start in range(0, len(called), 4)]
    assert all(sorted(names) == list("ABCD") for names in rounds)
    pairs = {pair for names in rounds for pair in pairwise(names)}
    assert len(pairs) == 12


def test_the_time_of_a_mixture_is_split() -> None:
    """dense, dense in pieces and the experts alone have equal shapes, so equal products."""
    made = candidates(64, "cpu", torch.float32)
    x = torch.randn(1, 64, 256)
    whole, cut, experts = (made[name](x) for name in ("dense", "dense, cut", "experts"))
    assert whole.shape == cut.shape == experts.shape == (128, 256)
    torch.testing.assert_close(cut, whole, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(experts[:16], whole[:16], atol=1e-3, rtol=1e-3)  # the first weights
    assert not torch.allclose(experts[16:], whole[16:], atol=1.0)
