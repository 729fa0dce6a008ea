"""Deciding: from a gate's logits to what runs, with a gradient.

An open gate has the value 1, a closed one 0; the estimators differ in the gradient:

    soft                value a itself, in training only; the control with a train/inference gap
    straight_through    forward 1[a > 1/2], gradient of a (Bengio et al. 2013)
    gumbel              the same with logistic noise in training (Jang et al. 2017, Maddison et al.
                        2017), so that closed gates are explored as well
    masked              straight-through where the gate is open, no gradient at all where closed
    reinforce           a Bernoulli sample without gradient; `reinforce_loss` trains the gate

a = sigmoid(logits). soft, straight_through and gumbel learn from the branch not taken, so training
must execute it; masked and reinforce never need it. At inference all decide by a > 1/2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from bench.types import Output
from methods.parts.budget import Budget as Budget  # plugins import both from here
from methods.parts.budget import compute_share as compute_share

Estimator = Literal["soft", "straight_through", "gumbel", "masked", "reinforce"]
Decide = Callable[[Tensor, Tensor], Tensor]  # (probabilities, own choice) -> choice to obey


class Gate(NamedTuple):
    """The result of a binary gate, all shaped like the logits."""

    probability: Tensor  # a = sigmoid(logits), with gradient
    run: Tensor  # bool: what to execute
    value: Tensor  # factor of the gated result


class Choice(NamedTuple):
    """The result of a one-of-G gate, all shaped like the logits [..., G]."""

    probability: Tensor  # softmax(logits), with gradient
    run: Tensor  # bool, normally one per row
    value: Tensor  # factor of each branch's result


def own_choice(probability: Tensor, run: Tensor) -> Tensor:
    """The gate's own choice: the default for `decide`."""
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
    # P(logit + logistic noise > 0) = sigmoid(logit): with noise a gate opens with probability a.
    run = decide(probability, noisy > 0)
    if not training or estimator == "reinforce":
        value = run.to(logits.dtype)
    elif estimator == "soft":
        value = probability
    else:
        # The gradient is that of the noisy, tempered sigmoid (the concrete relaxation).
        value = hard(run, (noisy / temperature).sigmoid() if samples else probability)
        value = run * value if estimator == "masked" else value  # closed: the factor 0 stops it
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
    own = F.one_hot(noisy.argmax(-1), logits.shape[-1]).bool()  # [..., G]
    run = decide(probability, own)
    if not training:
        return Choice(probability, run, run.to(logits.dtype))
    # Forward 1 for the branch that ran: training computes what inference will.
    return Choice(probability, run, hard(run, (noisy / temperature).softmax(-1)))


def softmax(logits: Tensor) -> Tensor:
    """softmax over the last axis [..., G], computed along the first."""
    # With a handful of groups a CPU then vectorises over rows: an order of magnitude faster.
    return logits.movedim(-1, 0).softmax(0).movedim(0, -1)


def top_k(scores: Tensor, k: int) -> Tensor:
    """Bool like `scores` [..., G]: true for the k highest of each row (all where k >= G)."""
    best = scores.topk(min(k, scores.shape[-1]), dim=-1).indices  # [..., k]
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
    # The bracket is 0 exactly: in the forward pass nothing is rounded.
    return run.to(soft.dtype) + (soft - soft.detach())


def gumbel_noise(like: Tensor, generator: Generator | None = None) -> Tensor:
    """Standard Gumbel noise, shaped and placed like `like`."""
    # -log E with E ~ Exp(1) is Gumbel: one logarithm, and only E = 0 must be avoided.
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
    # Independent gates: the log probability of all is the sum over them.
    log_p = -F.binary_cross_entropy_with_logits(logits, action, reduction="none").sum(-1)  # [B]
    loss = -((reward - baseline).detach() * log_p).mean()
    if entropy_weight == 0.0:
        return loss
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, probability, reduction="none").sum(-1)
    return loss - entropy_weight * entropy.mean()


def self_critical_loss(
    model: nn.Module,
    output: Output,
    greedy: Callable[[], Output],
    reward: Callable[[Output], Tensor],
    logits: Tensor,
    run: Tensor,
) -> Tensor:
    """`reinforce_loss` with the reward of the greedy decisions as baseline (Rennie et al. 2017).

    `output`: of the sampled decisions `run` [B, gates]; `greedy()`: of a pass that decides
    greedily, called in inference mode; `reward(output)` [B]. `model` is in training mode after it.
    """
    with torch.no_grad():
        model.eval()
        baseline = greedy()
        model.train()
        rewards = [reward(each) for each in (output, baseline)]
    return reinforce_loss(logits, run, *rewards)
