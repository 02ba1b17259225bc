"""Gradients in closed form against autograd; draws against their distribution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.model.objectives import (
    SMOOTHING,
    UNKNOWN,
    CrossEntropy,
    Objective,
    Squared,
    matched,
)

NAN = float("nan")


def slope(loss: Tensor, output: Tensor) -> Tensor:
    """By autograd."""
    return torch.autograd.grad(loss, output)[0]


def some(n: int = 7, k: int = 3) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(n), requires_grad=True)


def targets(objective: Objective, n: int, unknown: bool) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if isinstance(objective, Squared):
        y = torch.randn(n, 3, generator=generator)
        y[1:3, 0] = NAN if unknown else 0.0
        return y
    y = torch.randint(3, (n,), generator=generator)
    y[1:3] = UNKNOWN if unknown else 2
    return y


@pytest.mark.parametrize("unknown", [False, True])
def test_the_squared_gradient_is_that_of_the_loss(unknown: bool) -> None:
    output = some()
    y = targets(Squared(), len(output), unknown)
    expected = slope(Squared().loss(output, y), output)
    found = Squared().gradient(output.detach(), y)
    torch.testing.assert_close(found, torch.nan_to_num(expected))


@pytest.mark.parametrize("unknown", [False, True])
def test_classes_are_trained_on_smoothed_labels(unknown: bool) -> None:
    """torch's own smoothing, as the mean over labelled rows."""
    output = some()
    y = targets(CrossEntropy(), len(output), unknown)
    loss = functional.cross_entropy(
        output, y, ignore_index=UNKNOWN, label_smoothing=SMOOTHING, reduction="sum"
    )
    expected = slope(loss / int((y != UNKNOWN).sum()), output)
    torch.testing.assert_close(CrossEntropy().gradient(output.detach(), y), expected)


def test_the_loss_that_is_reported_is_of_the_labels_as_they_are() -> None:
    """-log of what was said of the right class, though training is at rest where that is
    1 - SMOOTHING and the rest is even."""
    resting = torch.tensor([[1 - SMOOTHING + SMOOTHING / 3, SMOOTHING / 3, SMOOTHING / 3]])
    label = torch.tensor([0])
    assert CrossEntropy().loss(resting.log(), label).item() == pytest.approx(
        -resting[0, 0].log().item()
    )
    assert CrossEntropy().gradient(resting.log(), label).abs().max() < 1e-7


def test_the_squared_loss_is_the_mean_over_observed_cells() -> None:
    """((1 - 0)^2 + (4 - 2)^2 + (0 - 3)^2) / 3 with one cell missing: neither 4 cells nor rows."""
    output = torch.tensor([[1.0, 4.0], [0.0, 7.0]])
    target = torch.tensor([[0.0, 2.0], [3.0, NAN]])
    assert Squared().loss(output, target).item() == pytest.approx(14 / 3)
    assert Squared().gradient(output, target)[1, 1] == 0.0


@pytest.mark.parametrize(
    ("objective", "y"),
    [(Squared(), torch.full((7, 3), NAN)), (CrossEntropy(), torch.full((7,), UNKNOWN))],
    ids=["squared", "classes"],
)
def test_nothing_observed_is_no_loss(objective: Objective, y: Tensor) -> None:
    output = some().detach()
    assert objective.loss(output, y).item() == 0.0
    assert not objective.gradient(output, y).any()


def test_the_matches_gradient_is_that_of_the_mean_squared_difference() -> None:
    output, other = some(), some(7).detach() + 1.0
    expected = slope((output - other).square().mean(), output)
    torch.testing.assert_close(matched(output.detach(), other), expected)
    torch.testing.assert_close(Squared().distil(output.detach(), other, 4.0), expected)


def test_the_distillation_of_classes_is_the_scaled_divergence() -> None:
    """T^2 KL(p || q) of the softened outputs, the mean over rows (Hinton et al. 2015)."""
    output, other, t = some(), 2 * some(7).detach().flip(1), 4.0
    soft = functional.kl_div(
        (output / t).log_softmax(dim=1), (other / t).softmax(dim=1), reduction="batchmean"
    )
    expected = slope(t * t * soft, output)
    torch.testing.assert_close(CrossEntropy().distil(output.detach(), other, t), expected)


def test_scores_are_the_gradients_of_draws_from_the_output() -> None:
    """Mean 0; of a normal target the variance is 1, of classes diag(p) - p p'. Five sigma."""
    n = 40_000
    output = torch.tensor([[1.0, 0.0, -1.0]]).repeat(n, 1)
    five_sigma = 5 * (2 / n) ** 0.5
    normal = Squared().score(output, torch.Generator().manual_seed(0))
    assert normal.mean(dim=0).abs().max() < five_sigma
    assert (normal.var(dim=0) - 1).abs().max() < five_sigma
    classes = CrossEntropy().score(output, torch.Generator().manual_seed(0))
    p = output[0].softmax(dim=0)
    torch.testing.assert_close(
        classes.T @ classes / n, p.diag() - p.outer(p), rtol=0, atol=five_sigma
    )


def test_a_row_s_loss_is_its_share_of_mse_over_variance() -> None:
    """Forecast 0, targets 0 and 4 and a hole: variance 4, so errors of 0 and 16 weigh 0 and 4."""
    target = torch.tensor([[0.0, 1.0], [4.0, NAN], [NAN, -1.0]])
    losses = Squared().losses(torch.zeros(3, 2), target)
    # four observed cells of three rows: each cell's ratio (0, 1, 4, 1) times 3 / 4
    assert losses.tolist() == [0.75, 3.0, 0.75]
    assert losses.mean() == (0 + 1 + 4 + 1) / 4


def test_of_classes_the_skill_is_the_accuracy_over_labelled_rows() -> None:
    """Right, wrong, right and no label: 2 of 3."""
    output = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0], [5.0, 0.0]])
    losses = CrossEntropy().losses(output, torch.tensor([0, 1, 1, UNKNOWN]))
    assert losses.tolist() == pytest.approx([0, 4 / 3, 0, 0])
    assert 1 - losses.mean() == pytest.approx(2 / 3)


def test_oddness_is_an_error_or_a_doubt() -> None:
    """Output minus target, NaN where nothing was seen; 1 - the likeliest class's probability."""
    odd = Squared().oddness(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, NAN]]))
    assert odd[0].tolist() == pytest.approx([2.0, NAN], nan_ok=True)
    logits = torch.tensor([[0.75, 0.25], [0.1, 0.9]]).log()
    doubt = CrossEntropy().oddness(logits, torch.tensor([UNKNOWN, 0]))
    assert doubt.flatten().tolist() == pytest.approx([0.25, 0.1])
