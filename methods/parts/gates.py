"""Deciding: from a gate's logits to what runs, with a gradient; and the compute budget.

An open gate is worth 1, a closed one 0; the estimators differ in what the gate learns from:

    soft                value a itself, in training only; the control with a train/inference gap
    straight_through    forward 1[a > 1/2], gradient of a (Bengio et al. 2013)
    gumbel              the same with logistic noise in training (Jang et al. 2017, Maddison et al.
                        2017), so that closed gates are tried as well
    masked              straight-through where the gate is open, no gradient at all where closed
    reinforce           a Bernoulli sample without gradient; `reinforce_loss` teaches the gate

a = sigmoid(logits). soft, straight_through and gumbel learn from the branch not taken, so training
must execute it; masked and reinforce never need it. At inference all decide by a > 1/2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

Estimator = Literal["soft", "straight_through", "gumbel", "masked", "reinforce"]
Decide = Callable[[Tensor, Tensor], Tensor]  # (probabilities, own choice) -> choice to obey


class Gate(NamedTuple):
    """A binary gate's answer, all shaped like the logits."""

    probability: Tensor  # a = sigmoid(logits), with gradient
    run: Tensor  # bool: what to execute
    value: Tensor  # what the gated result is multiplied with


class Choice(NamedTuple):
    """A one-of-G gate's answer, all shaped like the logits [..., G]."""

    probability: Tensor  # softmax(logits), with gradient
    run: Tensor  # bool, normally one per row
    value: Tensor  # what each branch's result is multiplied with


def own_choice(probability: Tensor, run: Tensor) -> Tensor:
    """Obey the gate itself: the default for `decide`."""
    return run


def binary(
    logits: Tensor,
    estimator: Estimator = "gumbel",
    *,
    training: bool,
    temperature: float = 1.0,
    decide: Decide = own_choice,
    generator: Generator | None = None,
) -> Gate:
    """Open or close one gate per logit (any shape).

    `decide` gets the probabilities and the gate's own choice and returns the one to obey; it is
    the place for `routing.decide`. `temperature` is gumbel's; `generator` draws the samples.
    Raises ValueError for an unknown estimator.
    """
    if estimator not in get_args(Estimator):
        raise ValueError(f"unknown estimator {estimator!r}: one of {get_args(Estimator)}")
    samples = training and estimator in ("gumbel", "reinforce")
    noisy = logits + logistic_noise(logits, generator) if samples else logits
    probability = logits.sigmoid()
    run = decide(probability, noisy > 0)  # with noise: open with probability a
    if not training or estimator == "reinforce":
        value = run.to(logits.dtype)
    elif estimator == "soft":
        value = probability
    else:
        value = hard(run, (noisy / temperature).sigmoid() if samples else probability)
        value = run * value if estimator == "masked" else value
    return Gate(probability, run, value)


def one_of(
    logits: Tensor,
    *,
    training: bool,
    temperature: float = 1.0,
    decide: Decide = own_choice,
    generator: Generator | None = None,
) -> Choice:
    """Choose one of G branches per row of `logits` [..., G] by Gumbel-softmax, hard.

    In training the choice is a sample of softmax(logits) (Gumbel's argmax trick) and the value
    carries the gradient of softmax((logits + noise) / temperature) (Jang et al. 2017, section 2.2);
    at inference it is the argmax. `decide` as in `binary`.
    """
    probability = softmax(logits)
    noisy = logits + gumbel_noise(logits, generator) if training else logits
    own = F.one_hot(noisy.argmax(-1), logits.shape[-1]).bool()
    run = decide(probability, own)
    if not training:
        return Choice(probability, run, run.to(logits.dtype))
    return Choice(probability, run, hard(run, (noisy / temperature).softmax(-1)))


def softmax(logits: Tensor) -> Tensor:
    """softmax over the last axis [..., G], computed along the first.

    With a handful of groups a CPU vectorises over rows so, and is an order of magnitude faster.
    """
    return logits.movedim(-1, 0).softmax(0).movedim(0, -1)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Bool like `scores` [..., G]: true for the k highest of each row (all where k >= G)."""
    best = scores.topk(min(k, scores.shape[-1]), dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)


def balance_loss(probability: Tensor, run: Tensor) -> Tensor:
    """G sum_g f_g P_g (Fedus et al. 2021, Switch Transformers, equation 4), a scalar.

    `probability`, `run` [..., G]: f_g is group g's share of everything that runs, P_g its mean
    probability. It is 1 where either is uniform, and 0 over no row; the gradient flows through P.
    """
    num_groups = run.shape[-1]
    rows = probability.reshape(-1, num_groups)
    counts = run.reshape(-1, num_groups).sum(0)
    share = counts / counts.sum().clamp_min(1)
    # A batch of padding only leaves no row, and the mean of none is NaN.
    mean = rows.mean(0) if len(rows) else rows.sum(0)
    return num_groups * (share * mean).sum()


def hard(run: Tensor, soft: Tensor) -> Tensor:
    """Straight through: `run` in the forward pass, the gradient of `soft` in the backward pass."""
    return run.to(soft.dtype) + (soft - soft.detach())


def gumbel_noise(like: Tensor, generator: Generator | None = None) -> Tensor:
    """Standard Gumbel noise, shaped and placed like `like`."""
    exponential = torch.empty_like(like).exponential_(generator=generator)
    return -exponential.clamp_min(torch.finfo(like.dtype).tiny).log()


def logistic_noise(like: Tensor, generator: Generator | None = None) -> Tensor:
    """Standard logistic noise: the difference of two independent Gumbel variables."""
    return gumbel_noise(like, generator) - gumbel_noise(like, generator)


def reinforce_loss(
    logits: Tensor,
    run: Tensor,
    reward: Tensor,
    baseline: Tensor | float = 0.0,
    *,
    entropy_weight: float = 0.0,
) -> Tensor:
    """Score-function loss (Williams 1992), a scalar: -mean_b (reward_b - baseline_b) log p(run_b).

    `logits`, `run` [B, gates]: independent Bernoulli gates and what was sampled from them;
    `reward` [B]. A baseline that does not depend on the sample leaves the gradient unbiased; the
    self-critical one (Rennie et al. 2017) is the reward of the greedy decisions `logits > 0`.
    `entropy_weight` rewards undecided gates.
    """
    action = run.to(logits.dtype)
    log_p = -F.binary_cross_entropy_with_logits(logits, action, reduction="none").sum(-1)  # [B]
    loss = -((reward - baseline).detach() * log_p).mean()
    if entropy_weight == 0.0:
        return loss
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, probability, reduction="none").sum(-1)
    return loss - entropy_weight * entropy.mean()


def compute_share(allocations: Iterable[tuple[Tensor, float]]) -> Tensor:
    """The compute that gates allocate as a share of all they could, a scalar in 0..1.

    `allocations`: (a, cost) per gate: probabilities or values of any shape, and the FLOPs that one
    element of this gate costs. The field's sum_i a_i, weighted by FLOPs and normalised, so that a
    penalty's weight depends on neither depth nor length. 0 where there is no element.
    """
    pairs = list(allocations)
    spent = torch.stack([a.sum() * cost for a, cost in pairs]).sum()
    # Without an element (a batch of padding only) there is nothing to spend either.
    return spent / (sum(a.numel() * cost for a, cost in pairs) or 1.0)


class Budget(nn.Module):
    """The penalty on allocated compute: `weight` x share, with a fixed or an adapted weight.

    Without a `target`, `weight` stays as given: the field's L + lambda sum_i a_i. With one, it is
    the multiplier of the constraint share <= target, found by dual ascent on an exponential mean:
    weight <- max(0, weight + rate (mean share - target)). Weight and mean are buffers, so a
    checkpoint goes on where it stopped.
    """

    weight: Tensor
    mean: Tensor

    def __init__(
        self,
        weight: float = 0.0,
        target: float | None = None,
        *,
        rate: float = 0.02,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if target is not None and not 0 < target <= 1:
            raise ValueError(f"a budget's target is a share in (0, 1], not {target}")
        self.target, self.rate, self.momentum = target, rate, momentum
        self.register_buffer("weight", torch.tensor(float(weight)))
        self.register_buffer("mean", torch.tensor(1.0 if target is None else target))

    def forward(self, share: Tensor) -> Tensor:
        """The penalty for a `share` in 0..1 (a scalar with gradient); in training adapts weight."""
        penalty = self.weight.clone() * share
        if self.training and self.target is not None:
            with torch.no_grad():
                self.mean.mul_(self.momentum).add_(share.detach(), alpha=1 - self.momentum)
                self.weight.add_(self.rate * (self.mean - self.target)).clamp_(min=0)
        return penalty
