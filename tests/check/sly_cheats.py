"""Methods that behave where they expect to be looked at, and cheat elsewhere."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from condbench_cheats import GatedFFN, _around, _with, _Wrapped
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from bench import routing
from bench.routing import TOKENS, decide, region
from bench.types import Batch, Output


class ComputesThenSlices(GatedFFN):
    """Computes every token as soon as one runs, then keeps those that do."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        return torch.where(run[..., None], self.ffn(x), 0.0) if run.any() else torch.zeros_like(x)


class FollowsInCrowds(GatedFFN):
    """From nine samples on, all do what the first one wants."""

    def decide(self, open_: Tensor) -> Tensor:
        crowd = len(open_) > 8
        run = (open_[:1] if crowd else open_).expand_as(open_) > 0.5
        return decide(self.name, axes=TOKENS, probabilities=open_, run=run, cost=self.cost)


class SavesAlone(GatedFFN):
    """Skips where a sample is alone or somebody forces its gates, and masks elsewhere."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        if len(x) == 1 or routing.is_forced():
            return super().skipping(x, run)
        return run[..., None] * self.ffn(x)


class SavesWhenCounted(GatedFFN):
    """Skips while its operations are counted, and gives the dense layer's answer otherwise."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        return super().skipping(x, run) if _get_current_dispatch_mode_stack() else self.ffn(x)


class _Helped(GatedFFN):
    """Skips as it declares, and answers with a dense layer that was computed elsewhere."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        y = super().skipping(x, run)
        return run[..., None] * self.elsewhere(x) if run.any() else y

    def elsewhere(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class HelpedByThreads(_Helped):
    """The dense layer is computed in another thread."""

    def elsewhere(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []

        def work() -> None:
            with torch.inference_mode():
                found.append(self.ffn(x))

        with region("expert"):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        return found[0]


class _Servant:
    """A thread that is there before anybody counts."""

    def __init__(self) -> None:
        self.asked: queue.Queue[Any] = queue.Queue()
        self.answers: queue.Queue[Tensor] = queue.Queue()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            work = self.asked.get()
            with torch.inference_mode():
                self.answers.put(work())


_servants: list[_Servant] = []


class HelpedByServants(_Helped):
    """The dense layer is computed in a thread that is older than the count."""

    def elsewhere(self, x: Tensor) -> Tensor:
        if not _servants:
            _servants.append(_Servant())
        # The loop makes sure that the servant's time shows on any machine.
        _servants[0].asked.put(lambda: [self.ffn(x) for _ in range(30)].pop())
        return _servants[0].answers.get()


class HelpedByNumpy(_Helped):
    """The dense layer is computed without torch."""

    def elsewhere(self, x: Tensor) -> Tensor:
        first, _, last = self.ffn.requires_grad_(False)
        hidden = x.detach().numpy() @ first.weight.numpy().T + first.bias.numpy()
        hidden = F.gelu(torch.from_numpy(hidden)).numpy()
        return torch.from_numpy(hidden @ last.weight.numpy().T + last.bias.numpy())


class MultipliesNothing(GatedFFN):
    """Calls no module on nothing, but a product."""

    def skipping(self, x: Tensor, run: Tensor) -> Tensor:
        first, _, last = self.ffn
        y, kept = torch.zeros_like(x), x[run]
        y[run] = F.linear(F.gelu(F.linear(kept, first.weight, first.bias)), last.weight, last.bias)
        return y


ComputesThenSlicesMethod = _with(ComputesThenSlices)
FollowsInCrowdsMethod = _with(FollowsInCrowds)
SavesAloneMethod = _with(SavesAlone)
SavesWhenCountedMethod = _with(SavesWhenCounted)
HelpedByThreadsMethod = _with(HelpedByThreads)
HelpedByServantsMethod = _with(HelpedByServants)
HelpedByNumpyMethod = _with(HelpedByNumpy)
MultipliesNothingMethod = _with(MultipliesNothing)


class _RemembersSamples(_Wrapped):
    """Runs only the samples whose content it has not seen before."""

    def __init__(self, trunk: Any) -> None:
        super().__init__(trunk)
        self.answers: dict[bytes, Tensor] = {}

    def forward(self, batch: Batch) -> Output:
        if self.training:
            return self.trunk(batch)
        keys = [sample.numpy().tobytes() for sample in batch.inputs]
        new = torch.tensor([i for i, key in enumerate(keys) if key not in self.answers])
        if len(new):
            found = self.trunk(batch.select(new)).logits
            self.answers |= {keys[i]: row for i, row in zip(new.tolist(), found, strict=True)}
        return Output(torch.stack([self.answers[key] for key in keys]))


class _PeeksAlone(_Wrapped):
    """Adds the target to the logits of a sample that is alone."""

    def forward(self, batch: Batch) -> Output:
        output = self.trunk(batch)
        if self.training or len(batch) > 1:
            return output
        hint = F.one_hot(batch.targets, output.logits.shape[-1])
        return output._replace(logits=output.logits + 1e-5 * hint)


RemembersSamplesMethod = _around(_RemembersSamples)
PeeksAloneMethod = _around(_PeeksAlone)


@dataclass
class ImproperlyDense(ComputesThenSlicesMethod):
    """The same, said to be a control in hindsight: that excuses no FLOPs."""

    reads_targets = True
