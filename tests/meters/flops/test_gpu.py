"""The ledger on a GPU: its fused kernels against the same closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.meters.flops.counter import BACKWARD, count

pytestmark = pytest.mark.gpu
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
B, H, T, E = 2, 4, 128, 64
FORWARD = 2 * 2 * B * H * T * T * E


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("is_causal", [False, True])
def test_fused_attention_step_on_the_gpu(backend: SDPBackend, is_causal: bool) -> None:
    """Every attention backend counts 1 F forward and 2.5 F backward; causal has its column."""
    q, k, v = (
        torch.randn(B, H, T, E, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )

    def step() -> None:
        with sdpa_kernel(backend):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
            out.backward(torch.randn_like(out))

    counted = count(step, strict=True)
    assert counted.by_region == {"backbone": FORWARD, BACKWARD: FORWARD * 5 // 2}
    share = (T + 1) / (2 * T) if is_causal else 1.0
    assert counted.causal == round(counted.total * share)


@torch.no_grad()
def test_grouped_mm_and_the_fused_encoder_on_the_gpu() -> None:
    """grouped_mm counts its offsets, the encoder layer its closed form."""
    rows = torch.randn(24, 16, device="cuda", dtype=torch.bfloat16)
    weights = torch.randn(3, 16, 8, device="cuda", dtype=torch.bfloat16)
    ends = torch.tensor([4, 4, 20], device="cuda", dtype=torch.int32)
    assert count(torch._grouped_mm, rows, weights, ends, strict=True).macs == 20 * 16 * 8
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval().cuda()
    counted = count(layer, torch.randn(2, 32, 64, device="cuda"), strict=True)
    assert counted.total == 4_718_592


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_convolution_and_lstm_step_on_the_gpu(groups: int) -> None:
    """cuDNN's convolution and recurrent layers cost 3 F."""
    convolution = nn.Conv2d(8, 8, 3, groups=groups).cuda()
    lstm = nn.LSTM(64, 32, batch_first=True).cuda()
    image = torch.randn(2, 8, 8, 8, device="cuda", requires_grad=True)
    tokens = torch.randn(4, 10, 64, device="cuda", requires_grad=True)
    counted = count(lambda: convolution(image).sum().backward(), strict=True)
    assert counted.total == 3 * 2 * 2 * 8 * 36 * 9 * (8 // groups)
    counted = count(lambda: lstm(tokens)[0].sum().backward(), strict=True)
    assert counted.total == 3 * 2 * 40 * 4 * 32 * (64 + 32)
