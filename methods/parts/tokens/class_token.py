"""The class token among tokens that gates decide about: it always runs, and no gate sees it.

In frames [B, T] it is token 0, where `class_token` of the trunk is true.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.trunk.state import State


def eligible_tokens(state: State, class_token: bool) -> Tensor | None:
    """The tokens that gates decide about, bool [B, T]: not padding, not the class token.

    None: all.
    """
    real = state.real_tokens()
    if not class_token:
        return real
    if real is None:
        eligible = torch.ones(state.x.shape[:2], dtype=torch.bool, device=state.x.device)
    else:
        eligible = real.clone()
    eligible[:, 0] = False
    return eligible


def with_class(run: Tensor, class_token: bool) -> Tensor:
    """`run` [B, T], bool or factors, with the class token running."""
    if not class_token:
        return run
    # Not written in place: factors have a gradient.
    return torch.cat([torch.ones_like(run[:, :1]), run[:, 1:]], 1)


def pairs_with_class(run: Tensor, class_token: bool) -> Tensor | None:
    """What a decision about tokens announces as `past`, [n]: further tokens to pair with.

    Every running token attends to the class token and is attended by it: two pairs each.
    """
    return torch.full((len(run),), 2, device=run.device) if class_token else None
