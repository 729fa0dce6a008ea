"""`make kernels`, vision: what is compared with what, without measured times."""

from __future__ import annotations

import pytest
import torch

from bench.meters.flops.counter import count
from tests.studies import bare_products, vision_kernels
from tests.studies.vision_kernels import METHODS, bare, make_models, spread


@pytest.fixture(scope="module")
def models():
    """Every method on a trunk of width 64, which has 197 tokens as the studied ones have."""
    torch.manual_seed(0)
    return make_models(64)


def test_a_spread_worked_out_by_hand() -> None:
    """0.5 x 2, 4 and 6 are 1, 2 and 3; quartiles of three values are the values."""
    assert spread([2.0, 4.0, 6.0], [1.0, 1.0, 1.0], 0.5) == "2.00 (1.00-3.00)"


@pytest.mark.parametrize("name", METHODS)
@torch.inference_mode()
def test_products_alone_are_those_of_the_method(name: str, models) -> None:
    """What a method executes beyond them are its decisions: at this width 6 % at most."""
    x = torch.randn(1, 3, 224, 224)
    model = models[name]
    if name == "early_exit":
        METHODS[name]().calibrate(model, [vision_kernels.Batch(x, x)])
    alone = count(bare(name, models, x), x).total
    assert 0.94 <= alone / count(vision_kernels._call(model), x).total <= 1.0


def test_rows_are_spread_evenly_over_groups() -> None:
    """10 rows over 4 groups: 3, 2, 3 and 2, so that they end at 3, 5, 8 and 10."""
    groups = torch.nn.Module()
    groups.up = torch.zeros(4, 2, 2)
    assert bare_products.EvenGroups(groups, 10, 2).order.ends.tolist() == [3, 5, 8, 10]


def test_every_table_is_printed(monkeypatch, capsys) -> None:
    """Times are given here: every candidate takes a second, so that realised is the FLOP share."""

    def given(made, x, num_rounds, clock, warm_up=3):
        return {name: [1.0] * num_rounds for name in made}

    monkeypatch.setattr(vision_kernels, "time_rounds", given)
    monkeypatch.setattr(vision_kernels, "WIDTHS", (64,))
    monkeypatch.setattr(vision_kernels, "BATCHES", (1,))
    monkeypatch.setattr(vision_kernels, "NUM_IMAGES", 1)
    monkeypatch.setattr("sys.argv", ["vision_kernels", "--rounds", "3"])
    vision_kernels.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    # Headings, 8 methods, 4 layers, 1 width, 4 models of ResNet-50.
    assert len(rows) == 4 + len(METHODS) + 4 + 1 + 4
    assert "| slimmable, 0.5 |" in "\n".join(rows)
