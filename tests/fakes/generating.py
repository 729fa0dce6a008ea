"""A language model whose every token costs known time, FLOPs and memory."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bench.config import MeasureConfig
from bench.measure.subject import Subject
from bench.types import Batch, TaskSpec
from tests.fakes.methods import method_of

TEXT = TaskSpec("t", "tokens", (6,), 5, vocab_size=5, causal=True)


class Clock:
    """A clock that only the models advance: 10 s to a first token, 2 s per further one."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s

    def measure(self, work: Any) -> Any:
        raise NotImplementedError


class Counter(nn.Module):
    """Generates the last prompt token + 1, + 2, ...: the prompt costs 1,000 FLOPs, a token 40 more.

    Every token keeps 4,000 bytes until the end.
    """

    def __init__(self, clock: Clock | None = None, slowness: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.clock, self.slowness = clock or Clock(), slowness

    def generate(self, prompt: Batch, num_tokens: int) -> Iterator[Tensor]:
        kept = []
        _ = torch.ones(5, 10) @ torch.ones(10, 10)  # 2 x 5 x 10 x 10 = 1,000
        for number in range(num_tokens):
            self.clock.time_s += 2.0 if number else 10.0 * self.slowness
            if number:
                _ = torch.ones(2, 10) @ torch.ones(10, 1)  # 2 x 2 x 10 x 1 = 40
            kept.append(torch.empty(1_000))  # 4,000 bytes
            yield prompt.inputs[:, -1] + number + 1


def batch_of(size: int = 1) -> Batch:
    """`size` sequences 0 1 2 3 4 5."""
    inputs = torch.arange(6).expand(size, 6)
    return Batch(inputs, inputs)


def subject_with(model: nn.Module, method: Any = None, workload: str = "generate") -> Subject:
    """A language model, measured under `workload`."""
    return Subject(
        model=model,
        method=method or method_of(),
        task=SimpleNamespace(spec=TEXT),  # type: ignore[arg-type]
        device=torch.device("cpu"),
        config=MeasureConfig(workload=workload, num_inputs=64),
        make_baseline=Counter,
        is_dense=False,
    )
