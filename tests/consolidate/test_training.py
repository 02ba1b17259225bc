from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from pipeline.config import Learn
from pipeline.consolidate import training
from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.training import (
    PATIENCE,
    Distillation,
    Examples,
    Kept,
    Recipe,
    Rehearsal,
    Task,
    Trained,
    train,
)
from pipeline.errors import PipelineError, TrainingFailed
from pipeline.model.objectives import Squared
from tests.model.making import forecaster

NAN = float("nan")
WINDOW, CHANNELS = 3, 2
LEARN = Learn(epochs=6, batch=8, lr=5e-3)
TARGETS, OUTPUTS, LAMBDA = 0.5, 1.0, 10.0


def linear_examples(n: int, seed: int, slope: float = 0.5, holes: float = 0.0) -> Examples:
    """The next reading is `slope` times the last one, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, WINDOW, CHANNELS, generator=generator)
    y = slope * x[:, -1] + 0.05 * torch.randn(n, CHANNELS, generator=generator)
    y[torch.rand(y.shape, generator=generator) < holes] = NAN
    return Examples(x=x, y=y)


def run(model: nn.Module, learn: Learn = LEARN, **changed: Any) -> Trained:
    """Train on one small problem, with parts of it changed."""
    given: dict[str, Any] = {
        "objective": Squared(),
        "new": linear_examples(60, seed=1),
        "held_out": linear_examples(40, seed=2),
        "kept": None,
        "anchor": None,
        "generator": torch.Generator().manual_seed(3),
        "progress": None,
    }
    plain = Recipe(lr=learn.lr, epochs=learn.epochs, batch=learn.batch)
    how = {"recipe": plain} | {name: value for name, value in changed.items() if name not in given}
    task = given | {name: value for name, value in changed.items() if name in given}
    return train(Task(model=model, learn=learn, **task), **how)


def fresh(seed: int = 0) -> nn.Module:
    """An untrained forecaster."""
    return forecaster(WINDOW, CHANNELS, 8, seed)


def flat(model: nn.Module) -> Tensor:
    """Every weight."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def held_loss(model: nn.Module) -> float:
    """On the held-out examples of `run`."""
    part = linear_examples(40, seed=2)
    with torch.no_grad():
        return float(Squared().loss(model(part.x), part.y))


# Loss -----------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_observed_cells() -> None:
    """((1 - 0)^2 + (4 - 2)^2 + (0 - 3)^2) / 3 with one cell missing: neither 4 cells nor rows."""
    output = torch.tensor([[1.0, 4.0], [0.0, 7.0]])
    target = torch.tensor([[0.0, 2.0], [3.0, NAN]])
    assert Squared().loss(output, target).item() == pytest.approx(14 / 3)


def test_holes_in_the_targets_do_not_spoil_a_training() -> None:
    """A third of the cells missing: the held-out loss still falls to the noise of .05^2."""
    model = fresh()
    learn = replace(LEARN, epochs=60)
    trained = run(model, learn, new=linear_examples(200, seed=1, holes=1 / 3))
    assert bool(flat(model).isfinite().all())
    assert trained.loss_after < 0.1 * trained.loss_before


# One training ---------------------------------------------------------------------------------


def test_a_training_is_plain_adam_over_shuffled_batches() -> None:
    """Against a loop written out: same order, lr falling linearly to 0, last batch shorter."""
    model, twin = fresh(), fresh()
    new = linear_examples(60, seed=1)
    run(model)
    generator = torch.Generator().manual_seed(3)
    optimiser = torch.optim.Adam(twin.parameters())
    total, step, best = LEARN.epochs * 8, 0, (held_loss(twin), flat(twin))  # 60 / 8: 7 and a half
    orders = [torch.randperm(60, generator=generator) for _ in range(LEARN.epochs)]
    for order in orders:
        for batch in order.split(8):
            optimiser.param_groups[0]["lr"] = LEARN.lr * (1 - step / total)
            optimiser.zero_grad()
            (twin(new.x[batch]) - new.y[batch]).square().mean().backward()
            optimiser.step()
            step += 1
        best = min(best, (held_loss(twin), flat(twin)), key=lambda pair: pair[0])
    torch.testing.assert_close(flat(model), best[1], rtol=1e-5, atol=1e-6)


def test_a_step_with_replay_and_anchor_is_its_formula() -> None:
    """MSE(new) + TARGETS MSE(old) + OUTPUTS MSE(output, parent's), then the proximal pull.

    One step of Adam from rest moves each weight by lr sign(g) (v_hat = g^2), and the pull has
    c = lr lambda F / (|g| + eps): all from the gradient of the plain formula.
    """
    model, twin = fresh(), fresh()
    new, old = linear_examples(8, seed=1), linear_examples(30, seed=5, holes=0.2)
    outputs = torch.randn(30, CHANNELS)
    anchor = Anchor(
        theta={n: torch.randn_like(p) for n, p in model.named_parameters()},
        fisher={n: torch.rand_like(p) for n, p in model.named_parameters()},
    )
    learn = replace(LEARN, epochs=1, batch=8)
    always_better = iter([2.0, 1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "mean_loss", lambda *_: next(always_better))
        rehearsal = Rehearsal(
            kept=Kept(examples=old, outputs=outputs), targets=TARGETS, outputs=OUTPUTS
        )
        run(model, learn, new=new, rehearsals=[rehearsal], anchor=anchor, ewc_lambda=LAMBDA)

    generator = torch.Generator().manual_seed(3)
    torch.randperm(8, generator=generator)
    (drawn,) = torch.randint(30, (1, 8), generator=generator)
    seen = ~old.y[drawn].isnan()
    again = twin(old.x[drawn])
    loss = (twin(new.x) - new.y).square().mean()
    loss = loss + TARGETS * (again - old.y[drawn])[seen].square().mean()
    loss = loss + OUTPUTS * (again - outputs[drawn]).square().mean()
    loss.backward()
    for name, p in twin.named_parameters():
        assert p.grad is not None
        adam = p.detach() - learn.lr * p.grad / (p.grad.abs() + 1e-8)
        c = learn.lr * LAMBDA * anchor.fisher[name] / (p.grad.abs() + 1e-8)
        expected = (adam + c * anchor.theta[name]) / (1 + c)
        found = dict(model.named_parameters())[name].detach()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_distillation_is_one_more_term_of_the_new_examples_loss() -> None:
    """One step of SGD against autograd: MSE(new) + 2 MSE(output, parent's output on new)."""
    model, twin = fresh(), fresh()
    new, outputs = linear_examples(8, seed=1), torch.randn(8, CHANNELS)
    run(
        model,
        new=new,
        held_out=None,
        recipe=Recipe(optimiser="sgd", lr=0.1, epochs=1, batch=8),
        distillation=Distillation(outputs=outputs, weight=2.0),
    )
    output = twin(new.x)
    loss = (output - new.y).square().mean() + 2.0 * (output - outputs).square().mean()
    loss.backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert q.grad is not None
        torch.testing.assert_close(p, q.detach() - 0.1 * q.grad)


def test_the_rate_rises_and_falls_linearly() -> None:
    """Warm-up over the first fifth of the steps, then down to 0 at the end."""
    recipe = Recipe(lr=2.0, warm_up=0.2, epochs=1, batch=1)
    found = [recipe.rate(share) for share in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert found == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0])
    assert Recipe(lr=2.0, epochs=1, batch=1).rate(0.0) == 2.0


def test_a_step_budget_cuts_a_training_short_at_the_same_step_everywhere() -> None:
    """8 steps an epoch: 20 end in the third, whose weights are looked at like any others."""
    model, shares = fresh(), []
    trained = run(model, replace(LEARN, max_steps=20), progress=shares.append)
    assert trained.steps == 20
    assert len(trained.curve) == 3
    assert shares == pytest.approx([n / 48 for n in range(1, 21)])


def test_without_held_out_examples_the_last_weights_stay() -> None:
    """No early stopping: every epoch is gone through, and none is gone back to."""
    trained = run(fresh(), replace(LEARN, epochs=30), held_out=None)
    assert trained.steps == 30 * 8
    assert trained.loss_after == trained.curve[-1]


def test_a_trained_model_owns_its_memory() -> None:
    """No parameter is a view of another's memory, and none has a gradient left."""
    model = fresh()
    run(model)
    starts = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert len(starts) == len(list(model.parameters()))
    assert all(p.grad is None for p in model.parameters())


def test_a_training_says_what_it_used() -> None:
    """Steps, losses, windows replayed from and lambda: what the audit shows is what was done."""
    old = linear_examples(30, seed=5)
    model = fresh()
    theta = {n: p.detach().clone() for n, p in model.named_parameters()}
    before = held_loss(model)
    trained = run(
        model,
        rehearsals=[Rehearsal(kept=Kept(examples=old, outputs=model(old.x).detach()), targets=1)],
        ewc_lambda=LAMBDA,
        anchor=Anchor(theta=theta, fisher={n: p.abs() for n, p in theta.items()}),
    )
    assert trained.steps == LEARN.epochs * 8
    assert trained.loss_before == pytest.approx(before)
    assert trained.loss_after == pytest.approx(held_loss(model))
    assert (trained.replayed, trained.ewc_lambda) == (30, 10.0)
    plain = run(fresh())
    assert (plain.replayed, plain.ewc_lambda) == (0, 0.0)


def test_a_training_depends_on_its_generator_alone() -> None:
    """The same inputs give the same bits; another seed does not; torch's own is not moved."""
    weights = []
    for seed in (3, 3, 4):
        model = fresh()
        torch.manual_seed(seed)
        expected = torch.rand(2)
        torch.manual_seed(seed)
        run(model, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.rand(2), expected)
        weights.append(flat(model))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_examples_are_left_as_they_were() -> None:
    """They are measured on afterwards."""
    new, held = linear_examples(60, seed=1, holes=0.2), linear_examples(40, seed=2)
    before = [t.clone() for t in (new.x, new.y, held.x, held.y)]
    run(fresh(), new=new, held_out=held)
    for one, other in zip(before, (new.x, new.y, held.x, held.y), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


# When it stops --------------------------------------------------------------------------------


def losses(monkeypatch: pytest.MonkeyPatch, found: list[float]) -> list[Tensor]:
    """Give these held-out losses, and note the weights each was asked of."""
    seen: list[Tensor] = []

    def loss(model: nn.Module, *_: object) -> float:
        seen.append(flat(model))
        return found[len(seen) - 1]

    monkeypatch.setattr(training, "mean_loss", loss)
    return seen


def test_the_best_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses 9 (before), 5, 3, 4, 6, 7, 8: the weights after epoch 2."""
    model = fresh()
    seen = losses(monkeypatch, [9.0, 5.0, 3.0, 4.0, 6.0, 7.0, 8.0])
    trained = run(model)
    assert torch.equal(flat(model), seen[2])
    assert (trained.loss_before, trained.loss_after) == (9.0, 3.0)


def test_a_training_that_only_makes_it_worse_leaves_the_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The best is what was there before: its weights, bit for bit."""
    model = fresh()
    before = flat(model)
    losses(monkeypatch, [1.0] * 20)
    trained = run(model)
    assert torch.equal(flat(model), before)
    assert trained.loss_after == trained.loss_before == 1.0


def test_training_stops_when_it_has_not_got_better_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Better at epochs 1 and 3, then never: PATIENCE epochs later it ends, 8 steps an epoch."""
    seen = losses(monkeypatch, [9.0, 5.0, 6.0, 4.0] + [4.0] * 90)
    trained = run(fresh(), replace(LEARN, epochs=90))
    assert len(seen) == 1 + 3 + PATIENCE
    assert trained.steps == (3 + PATIENCE) * 8


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_fails_the_training(
    monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    """There is no version to make of it; the message says when."""
    losses(monkeypatch, [9.0, 5.0, bad])
    with pytest.raises(TrainingFailed, match="after epoch 2"):
        run(fresh())


def test_weights_that_blow_up_fail_the_training() -> None:
    """For real: a learning rate that drives the outputs beyond float32."""
    with pytest.raises(TrainingFailed, match="the loss is"):
        run(fresh(), replace(LEARN, lr=1e20))


def test_a_parent_that_is_not_finite_fails_the_training() -> None:
    """NaN compares as not smaller: it must not be kept as the best."""
    model = fresh()
    with torch.no_grad():
        next(model.parameters()).fill_(NAN)
    with pytest.raises(TrainingFailed):
        run(model)


def test_a_training_out_of_time_fails_rather_than_depend_on_the_clock() -> None:
    """Weights cut short at another moment on another machine could not be made again."""
    with pytest.raises(TrainingFailed, match=r"learn\.max_seconds = 1e-09"):
        run(fresh(), replace(LEARN, max_seconds=1e-9))


def test_progress_goes_from_step_to_step_and_may_stop_it() -> None:
    """A share of the steps, rising to 1; what it raises ends the training at once: an epoch of a
    large segment takes longer than a process has that is told to stop."""
    shares: list[float] = []
    run(fresh(), progress=shares.append)
    assert shares == pytest.approx([n / 48 for n in range(1, 49)])

    def stop(share: float) -> None:
        shares.append(share)
        raise PipelineError("interrupted")

    shares.clear()
    told: Callable[[float], None] = stop
    with pytest.raises(PipelineError, match="interrupted"):
        run(fresh(), progress=told)
    assert shares == pytest.approx([1 / 48])
