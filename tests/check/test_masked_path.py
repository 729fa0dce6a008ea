"""The masked path: training mode whose noise is at its mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.check.masked_path import masked_path


class Noisy(nn.Module):
    """Everything that noise does to its input in training: times 1, plus 0, and nothing dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.norm(x)
        jitter = torch.empty_like(x).uniform_(0.5, 1.5)
        gumbel = torch.rand(x.shape).logit() + torch.rand_like(x).logit()
        normal = torch.randn(x.shape) + torch.randn_like(x) + torch.empty_like(x).normal_(0, 2)
        return F.dropout(self.drop(self.norm(x)) * jitter + gumbel + normal, 0.5, True)


def test_noise_is_at_its_mean_and_buffers_are_put_back() -> None:
    """In training mode a noisy layer gives what it gives at inference, and learns no statistics."""
    torch.manual_seed(0)
    model, x = Noisy().eval(), torch.randn(5, 3)
    wanted, before = model(x), model.norm.running_mean.clone()
    with masked_path(model):
        assert model.training
        torch.testing.assert_close(model(x), wanted)
    assert not model.training
    assert torch.equal(model.norm.running_mean, before)


def test_outside_noise_is_noise() -> None:
    """What is drawn after the masked path is random again."""
    with masked_path(nn.Linear(2, 2)):
        assert torch.rand(3).tolist() == [0.5] * 3
    assert torch.rand(3).unique().numel() == 3
