"""Gates decide hard, learn as their estimator promises, and keep the compute budget."""

from __future__ import annotations

import itertools

import pytest
import torch

from methods.parts import gates

ESTIMATORS = ("soft", "straight_through", "gumbel", "masked", "reinforce")


def logits_of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_inference_is_hard_and_deterministic(estimator: gates.Estimator) -> None:
    """At inference a gate is open exactly where its probability exceeds one half."""
    gate = gates.binary(logits_of(-2.0, -0.1, 0.1, 3.0), estimator, training=False)
    assert gate.run.tolist() == [False, False, True, True]
    assert gate.value.tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("estimator", ["straight_through", "gumbel", "masked", "reinforce"])
def test_training_value_is_exactly_the_decision(estimator: gates.Estimator) -> None:
    """In training every estimator but soft multiplies with exactly 0 or 1."""
    logits = torch.randn(1000, requires_grad=True)
    gate = gates.binary(logits, estimator, training=True)
    assert torch.equal(gate.value, gate.run.to(logits.dtype))


@pytest.mark.parametrize("estimator", ["soft", "straight_through"])
def test_gradient_is_the_sigmoids(estimator: gates.Estimator) -> None:
    """Soft and straight-through gates pass the gradient a (1 - a), open or closed."""
    logits = logits_of(-2.0, -0.3, 0.0, 1.5)
    gates.binary(logits, estimator, training=True).value.sum().backward()
    a = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, a * (1 - a))


def test_masked_gate_gives_closed_ones_no_gradient() -> None:
    """Gradient masking: the gradient of a where the gate is open, exactly 0 where it is closed."""
    logits = logits_of(-2.0, 1.5)
    gates.binary(logits, "masked", training=True).value.sum().backward()
    a = logits.detach().sigmoid()[1]
    assert logits.grad is not None
    assert logits.grad[0] == 0.0
    torch.testing.assert_close(logits.grad[1], a * (1 - a))


def test_gumbel_gate_opens_with_its_probability() -> None:
    """A Gumbel gate's open frequency is sigmoid(logit), whatever the temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([-1.0, 0.0, 2.0]).expand(200_000, 3)
    gate = gates.binary(logits, training=True, temperature=0.3, generator=generator)
    # standard error at most 0.5 / sqrt(200000) = 0.0011
    torch.testing.assert_close(gate.run.float().mean(0), logits[0].sigmoid(), atol=0.005, rtol=0.0)


def test_decide_is_obeyed() -> None:
    """What `decide` returns becomes the decision and the forward value."""
    closed = gates.binary(
        torch.full((3,), 5.0), training=True, decide=lambda _, run: torch.zeros_like(run)
    )
    assert not closed.run.any()
    assert closed.value.tolist() == [0.0, 0.0, 0.0]


def test_unknown_estimator_is_refused() -> None:
    """A misspelt estimator raises ValueError."""
    with pytest.raises(ValueError, match="unknown estimator"):
        gates.binary(torch.zeros(1), "hardest", training=True)  # type: ignore[arg-type]


def test_one_of_samples_the_softmax() -> None:
    """A hard Gumbel-softmax choice is one-hot and distributed as softmax(logits)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0]).expand(200_000, 3)
    choice = gates.one_of(logits, training=True, generator=generator)
    assert torch.equal(choice.value.sum(-1), torch.ones(200_000))
    torch.testing.assert_close(
        choice.run.float().mean(0), logits[0].softmax(-1), atol=0.005, rtol=0.0
    )


def test_one_of_takes_the_best_at_inference_and_learns_in_training() -> None:
    """At inference the argmax runs; in training the chosen value has a gradient to all logits."""
    logits = logits_of(0.2, 0.9, -1.0)
    assert gates.one_of(logits, training=False).run.tolist() == [False, True, False]
    gates.one_of(logits, training=True).value[0].backward()
    assert logits.grad is not None
    assert (logits.grad != 0).all()


def test_reinforce_equals_exact_enumeration() -> None:
    """The score-function gradient, averaged over all 2^n actions, is that of the mean reward."""
    logits = logits_of(-0.5, 0.3, 1.1)
    rewards = dict(zip(itertools.product((0, 1), repeat=3), torch.randn(8).tolist(), strict=True))

    def log_p(action: tuple[int, ...]) -> torch.Tensor:
        a = logits.sigmoid()
        return sum(
            (torch.log(a[i] if on else 1 - a[i]) for i, on in enumerate(action)),
            torch.zeros((), dtype=torch.float64),
        )

    exact = -sum(log_p(action).exp() * reward for action, reward in rewards.items())
    (expected,) = torch.autograd.grad(exact, logits)
    surrogate = torch.zeros((), dtype=torch.float64)
    for action, reward in rewards.items():
        loss = gates.reinforce_loss(
            logits[None],
            torch.tensor([action]).bool(),
            torch.tensor([reward], dtype=torch.float64),
            baseline=0.7,  # any constant: it must not change the mean gradient
        )
        surrogate = surrogate + log_p(action).exp().detach() * loss
    (got,) = torch.autograd.grad(surrogate, logits)
    torch.testing.assert_close(got, expected)


def test_reinforce_entropy_bonus_pulls_to_one_half() -> None:
    """With no advantage, the entropy bonus moves a gate towards probability 1/2."""
    logits = logits_of(2.0, -2.0)
    loss = gates.reinforce_loss(
        logits[None], torch.tensor([[True, False]]), torch.ones(1), 1.0, entropy_weight=0.1
    )
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0] > 0 > logits.grad[1]  # descent lowers the first, raises the second


def test_top_k_marks_the_highest() -> None:
    """top_k marks k entries per row, and all of them when k reaches the row's length."""
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    assert gates.top_k(scores, 1).tolist() == [[False, True, False], [True, False, False]]
    assert gates.top_k(scores, 9).all()


def test_balance_loss_is_one_at_uniform_and_grows_with_collapse() -> None:
    """Balanced routing costs 1; all to one of G groups with probability p costs G p."""
    run = torch.eye(4).bool()
    assert gates.balance_loss(torch.full((4, 4), 0.25), run).item() == pytest.approx(1.0)
    collapsed = torch.tensor([0.7, 0.1, 0.1, 0.1]).expand(4, 4)
    first = torch.tensor([True, False, False, False]).expand(4, 4)
    assert gates.balance_loss(collapsed, first).item() == pytest.approx(4 * 0.7)


def test_losses_over_no_element_are_zero() -> None:
    """A batch of padding only leaves no row: its loss is 0 with a gradient of 0, not NaN."""
    logits = torch.zeros(0, 4, requires_grad=True)
    loss = gates.balance_loss(logits.softmax(-1), torch.zeros(0, 4, dtype=torch.bool))
    share = gates.compute_share([(logits.sigmoid(), 2.0)])
    (loss + share).backward()
    assert (loss.item(), share.item()) == (0.0, 0.0)
    assert logits.grad is not None


def test_share_is_weighted_by_cost_and_normalised() -> None:
    """The share is allocated FLOPs over all FLOPs; its gradient is the sigmoid's, normalised."""
    cheap, dear = logits_of(0.0, 0.0), logits_of(2.0)
    share = gates.compute_share([(cheap.sigmoid(), 1.0), (dear.sigmoid(), 6.0)])
    a = torch.tensor(2.0).sigmoid().item()
    assert share.item() == pytest.approx((2 * 0.5 * 1 + a * 6) / 8)  # 2 x 1 + 1 x 6 = 8
    share.backward()
    assert dear.grad is not None
    assert dear.grad.item() == pytest.approx(6 / 8 * a * (1 - a))


def test_fixed_weight_is_the_fields_objective() -> None:
    """Without a target the penalty is weight x share and the weight stays."""
    budget = gates.Budget(0.3)
    assert budget(torch.tensor(0.5)).item() == pytest.approx(0.15)
    assert budget.weight.item() == pytest.approx(0.3)


@pytest.mark.parametrize("target", [0.25, 0.5, 0.75])
def test_dual_ascent_reaches_the_budget(target: float) -> None:
    """On min (1 - a)^2 subject to a <= target, dual ascent ends within 0.02 of the target."""
    logit = torch.tensor(2.0, requires_grad=True)
    budget = gates.Budget(target=target, rate=0.05)
    optimizer = torch.optim.SGD([logit], lr=0.5)
    for _ in range(1500):
        a = logit.sigmoid()
        loss = (1 - a) ** 2 + budget(a)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(logit.sigmoid().item() - target) < 0.02


def test_budget_survives_a_checkpoint_and_rests_in_eval() -> None:
    """Weight and mean travel in the state_dict, and evaluation does not adapt them."""
    budget = gates.Budget(0.5, target=0.4)
    budget(torch.tensor(0.9))
    other = gates.Budget(0.0, target=0.4)
    other.load_state_dict(budget.state_dict())
    assert torch.equal(other.weight, budget.weight)
    before = budget.weight.clone()
    budget.eval()(torch.tensor(1.0))
    assert torch.equal(budget.weight, before)


def test_impossible_budget_is_refused() -> None:
    """A target outside (0, 1] raises ValueError."""
    with pytest.raises(ValueError, match="share"):
        gates.Budget(target=0.0)
