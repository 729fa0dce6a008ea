"""Methods whose dense layer is computed where no operation is dispatched, or under a false name."""

from __future__ import annotations

import ctypes
import os
import queue
import threading
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from condbench_cheats import GatedFFN, Honest, _around, _with, _Wrapped
from condbench_sly import _Helped
from torch import Tensor, nn

from bench.types import Batch, Output


def _by_numpy(values: np.ndarray, layers: nn.Sequential, floats: Any) -> np.ndarray:
    """The layer on rows [N, D]; `floats` takes a tensor's numbers out of torch."""
    first, _, last = layers
    hidden = values @ floats(first.weight).T + floats(first.bias)
    hidden = 0.5 * hidden * (1 + np.tanh(0.79788456 * (hidden + 0.044715 * hidden**3)))
    return hidden @ floats(last.weight).T + floats(last.bias)


class ByBits(_Helped):
    """Takes the floats out as integers."""

    def elsewhere(self, x: Tensor) -> Tensor:
        def floats(tensor: Tensor) -> np.ndarray:
            return tensor.detach().contiguous().view(torch.int32).numpy().view(np.float32)

        return torch.from_numpy(_by_numpy(floats(x), self.ffn, floats))


class ByAddress(_Helped):
    """Reads the floats from their address."""

    def elsewhere(self, x: Tensor) -> Tensor:
        def floats(tensor: Tensor) -> np.ndarray:
            held = tensor.detach().contiguous()
            kind = ctypes.c_float * held.numel()
            return np.array(kind.from_address(held.data_ptr())).reshape(held.shape)

        return torch.from_numpy(_by_numpy(floats(x), self.ffn, floats))


class ByFork(_Helped):
    """A forked process has a copy of everything, and sends the result through a pipe."""

    def elsewhere(self, x: Tensor) -> Tensor:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"done")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 4) == b"done"
        os.close(reader)
        os.close(writer)
        return x


@cache
def _server() -> tuple[queue.Queue[Any], queue.Queue[Any]]:
    """A thread that is there before anything is counted, and works with NumPy."""
    requests: queue.Queue[Any] = queue.Queue()
    replies: queue.Queue[Any] = queue.Queue()

    def serve() -> None:
        while True:
            tensor = requests.get()
            replies.put(tensor.numpy() * 2)

    threading.Thread(target=serve, daemon=True).start()
    return requests, replies


class ByOlderThread(_Helped):
    """Sends the tensor to an older thread, which takes it out of torch for a moment."""

    def elsewhere(self, x: Tensor) -> Tensor:
        requests, replies = _server()
        requests.put(x)
        return torch.from_numpy(replies.get())


class ByPackedLayer(_Helped):
    """The first layer packed for fbgemm, whose function dispatches nothing."""

    def elsewhere(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first, middle, last = self.ffn
            packed = torch.fbgemm_pack_gemm_matrix_fp16(first.weight)
            hidden = torch.fbgemm_linear_fp16_weight(x.flatten(0, 1), packed, first.bias)
            packed = torch.fbgemm_pack_gemm_matrix_fp16(last.weight)
            return torch.fbgemm_linear_fp16_weight(middle(hidden), packed, last.bias).view_as(x)


class ByNormalisation(_Helped):
    """A product by the weights of a layer norm, and a sum."""

    def elsewhere(self, x: Tensor) -> Tensor:
        first = self.ffn[0].weight  # [H, D]
        rows = x.flatten(0, 1)[:, None].expand(-1, *first.shape)
        return x + F.layer_norm(rows, first.shape, first).sum((1, 2)).view(*x.shape[:2], 1) * 0


class ByProd(_Helped):
    """A product by `prod` over pairs, and a sum."""

    def elsewhere(self, x: Tensor) -> Tensor:
        first = self.ffn[0].weight
        rows = x.flatten(0, 1)[:, None].expand(-1, *first.shape)
        pairs = torch.stack([rows, first.expand_as(rows)], -1)
        return x + pairs.prod(-1).sum((1, 2)).view(*x.shape[:2], 1) * 0


_library = torch.library.Library("aten", "FRAGMENT")
_library.define("condbench_gelu_copy(Tensor x, Tensor w) -> Tensor", tags=(torch.Tag.pointwise,))
_library.impl("condbench_gelu_copy", lambda x, w: x @ w.T, "CPU")


class ByTag(_Helped):
    """A product in an operation that is named, tagged and placed like an activation of torch's."""

    def elsewhere(self, x: Tensor) -> Tensor:
        first, middle, last = self.ffn
        hidden = middle(torch.ops.aten.condbench_gelu_copy(x.flatten(0, 1), first.weight))
        return torch.ops.aten.condbench_gelu_copy(hidden, last.weight).view_as(x)


class _NumpyModel(_Wrapped):
    """The whole model in NumPy; it announces no decision, so no saving is compared."""

    def forward(self, batch: Batch) -> Output:
        logits = self.trunk(batch).logits
        if self.training or torch.is_grad_enabled():
            return Output(logits)
        return Output(torch.from_numpy(np.ascontiguousarray(logits.numpy())))


ByBitsMethod = _with(ByBits)
ByAddressMethod = _with(ByAddress)
ByForkMethod = _with(ByFork)
ByOlderThreadMethod = _with(ByOlderThread)
ByPackedLayerMethod = _with(ByPackedLayer)
ByNormalisationMethod = _with(ByNormalisation)
ByProdMethod = _with(ByProd)
ByTagMethod = _with(ByTag)
NumpyModelMethod = _around(_NumpyModel)


class _Calibrated(_Wrapped):
    """Looks up what it was calibrated with."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__(trunk)
        self.answers: dict[float, Tensor] = {}

    def forward(self, batch: Batch) -> Output:
        key = float(batch.inputs.double().square().sum())
        if not self.training and key in self.answers:
            return Output(self.answers[key])
        return self.trunk(batch)


@dataclass
class RemembersCalibration:
    """Keeps the results of the calibration split."""

    def build(self, spec: Any, backbone: Any) -> nn.Module:
        return _Calibrated(backbone.build(spec))

    def calibrate(self, model: _Calibrated, batches: Any) -> None:
        for batch in batches:
            key = float(batch.inputs.double().square().sum())
            model.answers[key] = model.trunk(batch).logits


@dataclass
class HonestWithConstants(Honest):
    """Nothing but constants comes from outside: a list, an array, a plain tensor."""

    def layer(self) -> Any:
        return _WithConstants


class _WithConstants(GatedFFN):
    def __init__(self, dim: int, hidden: int, name: str) -> None:
        super().__init__(dim, hidden, name)
        self.shift = np.zeros(dim, dtype=np.float32)

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        y = super().skipping(x, run) + torch.from_numpy(self.shift).to(x.dtype)
        return y * torch.tensor([1.0] * x.shape[-1]).to(x.dtype)
