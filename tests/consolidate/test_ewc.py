from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.consolidate.ewc import Anchor, by_rule, running, separate, strength
from pipeline.consolidate.flat import Flat
from pipeline.consolidate.optimisers import Adam, Pull, Sgd
from tests.model.making import forecaster


class Point(nn.Module):
    """Weights and nothing else."""

    def __init__(self, theta: list[float]) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))


def anchor(theta: list[float], fisher: list[float]) -> Anchor:
    """An anchor of a Point."""
    as_tensor = {"dtype": torch.float64}
    return Anchor(
        theta={"theta": torch.tensor(theta, **as_tensor)},
        fisher={"theta": torch.tensor(fisher, **as_tensor)},
    )


class Stepped:
    """A model's flat parameters after steps of Adam with given gradients."""

    def __init__(self, model: nn.Module, gradients: list[list[float]], lr: float) -> None:
        self.flat, self.lr = Flat(model), lr
        self.adam = Adam(self.flat)
        for gradient in gradients:
            self.flat.gradient.copy_(torch.tensor(gradient, dtype=torch.float64))
            self.adam.step(lr)

    def pull(self, held: Anchor, ewc_lambda: float) -> None:
        """The proximal step after the last one."""
        strength = self.flat.of(held.fisher) * ewc_lambda
        self.adam.pull(Pull(strength, self.flat.of(held.theta)), self.lr)


def penalty(model: nn.Module, held: Anchor) -> Tensor:
    """1/2 sum_i F_i (theta_i - theta*_i)^2, as the paper has it: what a step is to minimise."""
    terms = [
        (held.fisher[name] * (p - held.theta[name]).square()).sum()
        for name, p in model.named_parameters()
    ]
    return torch.stack(terms).sum() / 2


# Merge ----------------------------------------------------------------------------------------


def test_the_first_anchor_is_taken_as_it_is() -> None:
    """There is no past to fold in."""
    first = anchor([1.0], [2.0])
    assert running(None, first, 0.9) is first


def test_an_anchor_folds_the_past_into_the_present() -> None:
    """By hand, gamma = 1/2: F = 1/2 (1/2 * 8 + 4) + 1 = 5; theta* is the newest."""
    a, b, c = anchor([1.0], [8.0]), anchor([2.0], [4.0]), anchor([3.0], [1.0])
    merged = running(running(a, b, 0.5), c, 0.5)
    assert merged.fisher["theta"].tolist() == [5.0]
    assert merged.theta["theta"].tolist() == [3.0]
    assert (a.fisher["theta"].item(), b.fisher["theta"].item()) == (8.0, 4.0)


@pytest.mark.parametrize(("gamma", "fisher"), [(0.0, [1.0, 4.0]), (1.0, [3.0, 4.5])])
def test_gamma_goes_from_forgetting_the_past_to_keeping_all_of_it(
    gamma: float, fisher: list[float]
) -> None:
    """gamma 0: the newest Fisher only; 1: the plain sum, element by element."""
    merged = running(anchor([0.0, 0.0], [2.0, 0.5]), anchor([1.0, 1.0], [1.0, 4.0]), gamma)
    assert merged.fisher["theta"].tolist() == fisher


def test_the_trace_is_the_sum_over_every_parameter() -> None:
    """1 + 2 + 3 + 4."""
    parts = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0], [4.0]])}
    assert Anchor(theta=parts, fisher=parts).trace == 10.0


def test_separate_anchors_are_the_sum_of_their_quadratics() -> None:
    """sum_k F_k (t - t_k)^2 has its minimum at sum F_k t_k / sum F_k, and its curvature; where no
    task minds, the newest weights stand."""
    a, b, c = (
        anchor([1.0, 7.0], [8.0, 0.0]),
        anchor([2.0, 8.0], [4.0, 0.0]),
        anchor([4.0, 9.0], [4.0, 0.0]),
    )
    merged = separate(separate(a, b, 0.5), c, 0.5)
    assert merged.fisher["theta"].tolist() == [16.0, 0.0]
    assert merged.theta["theta"].tolist() == [(8 + 8 + 16) / 16, 9.0]
    for point in ([0.0, 0.0], [3.0, 1.0], [-5.0, 2.0]):
        model = Point(point)
        whole = sum(penalty(model, each) for each in (a, b, c))
        least = sum(penalty(Point(merged.theta["theta"].tolist()), each) for each in (a, b, c))
        torch.testing.assert_close(whole - least, penalty(model, merged))


@pytest.mark.parametrize(
    ("kept", "expected"), [(0, 100.0), (20, 50.0), (180, 10.0), (181, 10.0), (2000, 10.0)]
)
def test_lambda_falls_with_what_is_kept(kept: int, expected: float) -> None:
    """max(10, 100 / (1 + n / 20))."""
    assert by_rule(kept, 10.0) == pytest.approx(expected)
    assert strength("rule", 7.0) == 7.0
    assert strength(0.0, 7.0) == 0.0


def test_the_pull_of_sgd_is_its_fixed_point_formula() -> None:
    """argmin_t lambda F (t - theta*)^2 + (t - theta_sgd)^2 / (2 lr): c = 2 lr lambda F.

    .1, 5 and F = 2: c = 2, so a third of the way stays: (2.6 + 2 * 1) / 3.
    """
    model = Point([3.0])
    flat = Flat(model)
    flat.gradient.fill_(4.0)
    sgd = Sgd(flat)
    sgd.step(0.1)
    assert model.theta.item() == pytest.approx(2.6)
    held = anchor([1.0], [2.0])
    sgd.pull(Pull(flat.of(held.fisher) * 5.0, flat.of(held.theta)), 0.1)
    assert model.theta.item() == pytest.approx((2.6 + 2 * 1.0) / 3)


def test_sgd_clips_the_norm_of_the_whole_gradient() -> None:
    """(3, 4) has the norm 5: a fifth of it is taken."""
    model = Point([0.0, 0.0])
    flat = Flat(model)
    flat.gradient.copy_(torch.tensor([3.0, 4.0]))
    Sgd(flat, clip=1.0).step(1.0)
    assert model.theta.tolist() == pytest.approx([-0.6, -0.8])


# Penalty and step -----------------------------------------------------------------------------


def test_the_penalty_is_half_the_weighted_squared_distance() -> None:
    """1/2 (2 * 3^2 + 5 * 1^2) = 11.5, and its gradient F (theta - theta*)."""
    model = Point([4.0, 1.0])
    value = penalty(model, anchor([1.0, 2.0], [2.0, 5.0]))
    assert value.item() == 11.5
    value.backward()
    assert model.theta.grad is not None
    assert model.theta.grad.tolist() == [6.0, -5.0]


def test_after_a_step_no_slope_is_left() -> None:
    """The gradients of lambda penalty and |theta - theta_adam|^2 / (2 lr'), by autograd, cancel.

    After one step v_hat = g^2, so lr' = lr / (|g| + eps) for each weight.
    """
    model, held, gradient = Point([4.0, 1.0]), anchor([1.0, 2.0], [2.0, 5.0]), [0.5, -3.0]
    optimiser = Stepped(model, [gradient], lr=0.1)
    adam = model.theta.detach().clone()
    optimiser.pull(held, 20.0)
    own_lr = 0.1 / (torch.tensor(gradient, dtype=torch.float64).abs() + 1e-8)
    distance = ((model.theta - adam).square() / (2 * own_lr)).sum()
    (slope,) = torch.autograd.grad(20.0 * penalty(model, held) + distance, [model.theta])
    torch.testing.assert_close(slope, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_first_step_by_hand() -> None:
    """After one Adam step v_hat = g^2, so c = lr lambda F / (|g| + eps).

    g = 4, lr = .1, lambda = 20, F = 2: c = .1 * 20 * 2 / 4 = 1, so half way from 3 - .1 to 1.
    """
    model = Point([3.0])
    optimiser = Stepped(model, [[4.0]], lr=0.1)
    optimiser.pull(anchor([1.0], [2.0]), 20.0)
    assert model.theta.item() == pytest.approx((2.9 + 1.0) / 2, rel=1e-6)


positive = st.floats(1e-3, 1e3)
signed = st.floats(-10, 10)


@settings(deadline=None)
@given(
    theta=signed,
    star=signed,
    fisher=st.floats(0, 1e3),
    gradients=st.lists(signed, min_size=1, max_size=4),
    lr=st.floats(1e-4, 1.0),
    ewc_lambda=st.floats(0, 1e4),
)
def test_the_step_minimises_penalty_plus_distance_in_adams_metric(
    theta: float,
    star: float,
    fisher: float,
    gradients: list[float],
    lr: float,
    ewc_lambda: float,
) -> None:
    """argmin_t lambda/2 F (t - theta*)^2 + (t - theta_adam)^2 / (2 lr').

    lr' = lr / (sqrt(v_hat) + eps) is the weight's own step size, from moments worked out here; a
    parabola has its minimum where its slope lambda F (t - theta*) + (t - theta_adam) / lr' is zero.
    """
    model = Point([theta])
    optimiser = Stepped(model, [[g] for g in gradients], lr)
    adam = model.theta.item()
    optimiser.pull(anchor([star], [fisher]), ewc_lambda)
    found = model.theta.item()
    v, beta = 0.0, 0.999
    for g in gradients:
        v = beta * v + (1 - beta) * g * g
    own_lr = lr / (math.sqrt(v / (1 - beta ** len(gradients))) + 1e-8)
    pull, hold = ewc_lambda * fisher, 1 / own_lr
    expected = (pull * star + hold * adam) / (pull + hold)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    low, high = sorted((adam, star))
    assert low - 1e-9 <= found <= high + 1e-9  # never beyond the anchor


def test_at_the_anchor_the_step_does_nothing() -> None:
    """theta* is its fixed point, for any lambda and any F."""
    model = Point([2.0, -3.0])
    optimiser = Stepped(model, [[1.0, 1.0]], lr=0.1)
    at = model.theta.detach().clone()
    optimiser.pull(anchor(at.tolist(), [1e6, 1e-6]), 1e4)
    torch.testing.assert_close(model.theta.detach(), at, rtol=1e-12, atol=0)


def test_a_weight_that_does_not_matter_goes_where_adam_takes_it() -> None:
    """F = 0: c = 0, bit for bit; and lambda = 0 lets every weight go."""
    model = Point([2.0, 2.0])
    optimiser = Stepped(model, [[1.0, 1.0]], lr=0.1)
    adam = model.theta.detach().clone()
    optimiser.pull(anchor([9.0, 9.0], [0.0, 5.0]), 0.0)
    assert torch.equal(model.theta, adam)
    optimiser.pull(anchor([9.0, 9.0], [0.0, 5.0]), 100.0)
    assert model.theta[0] == adam[0]
    assert model.theta[1] > 8.0


@pytest.mark.parametrize("ewc_lambda", [1.0, 30.0, 1e3, 1e4])
def test_no_lambda_makes_training_diverge(ewc_lambda: float) -> None:
    """Pulled at by a loss elsewhere, weights stay between the anchor and its minimum.

    With this F the explicit penalty by gradient descent has slope lr lambda F = 2e4 > 2 at the
    largest lambda: it would explode.
    """
    model, star, target = Point([0.0, 0.0]), [1.0, -1.0], torch.tensor([5.0, 5.0])
    held = anchor(star, [1e3, 1e-3])
    optimiser = Stepped(model, [], lr=2e-3)
    for _ in range(2000):
        optimiser.flat.gradient.zero_()
        (model.theta - target).square().sum().backward()
        optimiser.adam.step(2e-3)
        optimiser.pull(held, ewc_lambda)
        assert bool((model.theta >= -1.0 - 1e-9).all())
        assert bool((model.theta <= 5.0 + 1e-9).all())
    if ewc_lambda >= 30:
        assert model.theta[0].item() == pytest.approx(1.0, abs=1e-2)


def test_the_stronger_the_pull_the_nearer_to_the_anchor() -> None:
    """Monotone in lambda: an operator who turns it up gets less forgetting, never more."""
    left = []
    for ewc_lambda in (0.0, 0.1, 1.0, 10.0, 100.0, 1e4):
        model = Point([3.0])
        optimiser = Stepped(model, [[1.0]], lr=0.1)
        optimiser.pull(anchor([0.0], [1.0]), ewc_lambda)
        left.append(model.theta.item())
    assert left == sorted(left, reverse=True)
    assert len(set(left)) == len(left)


def test_every_parameter_of_a_model_is_pulled_to_its_own_anchor() -> None:
    """Names are matched, not positions: with a huge F each parameter lands on its own theta*."""
    model = forecaster(3, 2, 4)
    optimiser = Stepped(model, [], lr=0.01)
    model(torch.randn(5, 3, 2)).square().sum().backward()
    optimiser.adam.step(0.01)
    theta = {name: torch.randn_like(p) for name, p in reversed([*model.named_parameters()])}
    fisher = {name: torch.full_like(p, 1e12) for name, p in model.named_parameters()}
    optimiser.pull(Anchor(theta=theta, fisher=fisher), 1.0)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), theta[name], rtol=1e-4, atol=1e-4)
