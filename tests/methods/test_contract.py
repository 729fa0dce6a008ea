"""The example method in docs/reference/contract.md does what the page claims."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from bench import routing

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "contract.md"


@pytest.fixture
def model(tiny, tmp_path, monkeypatch):
    """The page's first Python block as a module, built with gates that open for about half."""
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "my_gate_of_the_page.py").write_text(block.group(1), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("my_gate_of_the_page")
    monkeypatch.delitem(sys.modules, "my_gate_of_the_page")
    return module.MyGate(bias=0.0).build(tiny.spec, tiny.backbone).eval()


@torch.no_grad()
def test_the_example_skips_what_it_masks(model, tiny) -> None:
    """Its inference equals its training with replayed decisions, and some tokens are skipped."""
    with routing.observe() as seen:
        skipped = model(tiny.batch(4)).logits
    with routing.replay(seen):
        masked = model.train()(tiny.batch(4)).logits
    torch.testing.assert_close(skipped, masked)
    share = torch.stack([d.run for d in seen.decisions]).float().mean()
    assert 0 < share < 1
    assert len({d.name for d in seen.decisions}) == 4  # one gate in each of four blocks


def test_the_examples_gate_learns(model, tiny) -> None:
    """Its gate gets a gradient in training."""
    model.train()(tiny.batch(4)).logits.square().sum().backward()
    assert all(block.ffn.gate.weight.grad.abs().sum() > 0 for block in model.blocks)


@torch.no_grad()
def test_the_example_survives_closed_gates(model, tiny) -> None:
    """With every gate closed it computes no feed-forward layer and still returns logits."""
    with routing.force("closed"):
        assert model(tiny.batch(1)).logits.isfinite().all()
