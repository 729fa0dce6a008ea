"""The dense baseline: everything runs, always. Every ratio is relative to it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bench.types import Backbone, TaskSpec


@dataclass
class Dense:
    """The backbone as it is."""

    def build(self, spec: TaskSpec, backbone: Backbone) -> nn.Module:
        """The backbone's own trunk."""
        trunk: nn.Module = backbone.build(spec)
        return trunk
