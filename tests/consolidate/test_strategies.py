from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from pipeline.config import Learn
from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.strategies import STRATEGIES, Strategy
from pipeline.consolidate.training import Examples, Kept, Task
from pipeline.errors import TrainingFailed
from pipeline.model.objectives import CrossEntropy, Squared
from tests.model.making import forecaster

WINDOW, CHANNELS = 4, 2
LEARN = Learn(epochs=8, batch=16, lr=1e-2)


def flat(model: nn.Module) -> Tensor:
    """Every weight."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def of_regime(sign: float, n: int, seed: int, holes: float = 0.0) -> Examples:
    """Readings about 2 or -2, the next one .8 or -.8 times the last: one network can hold both."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * sign + torch.randn(n, WINDOW, CHANNELS, generator=generator)
    y = 0.8 * sign * x[:, -1] + 0.05 * torch.randn(n, CHANNELS, generator=generator)
    y[torch.rand(y.shape, generator=generator) < holes] = float("nan")
    return Examples(x=x, y=y)


@torch.no_grad()
def kept(model: nn.Module, old: Examples) -> Kept:
    """Old examples with what a model answers on them."""
    return Kept(examples=old, outputs=model(old.x))


class StrategyContract:
    """What every method of consolidation promises."""

    @pytest.fixture
    def strategy(self) -> Strategy:
        """The method under test."""
        raise NotImplementedError

    @pytest.fixture
    def task(self) -> Task:
        """A small stream's second segment: parent, old windows, anchor and holes."""
        model = forecaster(WINDOW, CHANNELS, 8, seed=1).train()
        named = list(model.named_parameters())
        return Task(
            model=model,
            new=of_regime(1, 150, seed=1, holes=0.1),
            held_out=of_regime(1, 60, seed=2, holes=0.1),
            objective=Squared(),
            kept=kept(model, of_regime(-1, 90, seed=3, holes=0.1)),
            anchor=Anchor(
                theta={n: p.detach().clone() for n, p in named},
                fisher={n: torch.full_like(p, 1e-3) for n, p in named},
            ),
            learn=LEARN,
            generator=torch.Generator().manual_seed(9),
        )

    @staticmethod
    def again(task: Task, **changed: object) -> Task:
        """The same task from the start, with parts of it changed."""
        parts = {
            "model": forecaster(WINDOW, CHANNELS, 8, seed=1).train(),
            "new": task.new,
            "held_out": task.held_out,
            "objective": task.objective,
            "kept": task.kept,
            "anchor": task.anchor,
            "learn": task.learn,
            "generator": torch.Generator().manual_seed(9),
        }
        return Task(**(parts | changed))  # type: ignore[arg-type]

    def test_the_new_segment_is_learned(self, strategy: Strategy, task: Task) -> None:
        """In place, and as it says: the held-out loss fell to what is reported."""
        before = flat(task.model)
        trained = strategy(task)
        assert not torch.equal(flat(task.model), before)
        assert trained.steps > 0
        assert trained.loss_after < 0.7 * trained.loss_before
        seen = ~task.held_out.y.isnan()
        with torch.no_grad():
            error = (task.model(task.held_out.x) - task.held_out.y)[seen]
        assert trained.loss_after == pytest.approx(float(error.square().mean()), rel=1e-4)

    def test_it_is_deterministic_given_the_task_and_its_generator(
        self, strategy: Strategy, task: Task
    ) -> None:
        """The same bits twice, whatever torch's own generator does, which is left alone."""
        other = self.again(task)
        one = strategy(task)
        torch.manual_seed(77)
        expected = torch.rand(2)
        torch.manual_seed(77)
        assert strategy(other) == one
        assert torch.equal(torch.rand(2), expected)
        assert torch.equal(flat(task.model), flat(other.model))

    def test_a_first_version_has_nothing_but_new_windows(
        self, strategy: Strategy, task: Task
    ) -> None:
        """No old windows and no anchor: still trained, and no replay or penalty claimed."""
        bare = self.again(task, kept=None, anchor=None)
        trained = strategy(bare)
        assert trained.loss_after < trained.loss_before
        assert (trained.replayed, trained.ewc_lambda) == (0, 0.0)

    def test_an_anchor_without_old_windows_is_enough(self, strategy: Strategy, task: Task) -> None:
        """Nothing kept: the segment before was too short, say."""
        trained = strategy(self.again(task, kept=None))
        assert trained.loss_after < trained.loss_before
        assert trained.replayed == 0

    def test_what_it_is_given_is_left_as_it_was(self, strategy: Strategy, task: Task) -> None:
        """Examples and anchor are measured with and stored afterwards."""
        assert task.kept is not None
        assert task.anchor is not None
        tensors = [
            e for part in (task.new, task.held_out, task.kept.examples) for e in (part.x, part.y)
        ]
        tensors += [*task.anchor.theta.values(), *task.anchor.fisher.values()]
        before = [t.clone() for t in tensors]
        strategy(task)
        for one, other in zip(tensors, before, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)

    def test_progress_is_told(self, strategy: Strategy, task: Task) -> None:
        """Shares that rise, at most 1: what the trainer's lease and SIGTERM hang on."""
        shares: list[float] = []
        strategy(self.again(task, progress=shares.append))
        assert shares
        assert shares == sorted(shares)
        assert 0 < shares[0] <= shares[-1] <= 1

    def test_a_loss_that_is_not_finite_fails(self, strategy: Strategy, task: Task) -> None:
        """Targets whose squares are beyond float32: no version is made of them."""
        far = Examples(x=task.new.x, y=task.new.y + 1e30)
        with pytest.raises(TrainingFailed):
            strategy(self.again(task, new=far, held_out=far))


@pytest.mark.parametrize("name", STRATEGIES)
class TestEveryStrategy(StrategyContract):
    @pytest.fixture
    def strategy(self, name: str) -> Strategy:
        """By its name in the settings."""
        return STRATEGIES[name]


def test_settings_and_strategies_have_the_same_names() -> None:
    """A method that cannot be chosen, or a choice without a method, is a mistake."""
    hint = get_type_hints(Learn)["strategy"]
    assert set(get_args(hint)) == set(STRATEGIES)


def test_where_nothing_is_kept_a_step_on_classes_takes_half_a_batch() -> None:
    """20 rows in batches of 16 / 2: three steps an epoch, and of forecasts two."""
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    steps = []
    for objective, y in ((CrossEntropy(), torch.arange(20) % 3), (Squared(), x)):
        task = Task(
            model=nn.Linear(3, 3),
            objective=objective,
            new=Examples(x=x, y=y),
            held_out=None,
            kept=None,
            anchor=None,
            learn=replace(LEARN, epochs=4, batch=16),
            generator=torch.Generator().manual_seed(0),
        )
        steps.append(STRATEGIES["ewc_only"](task).steps)
    assert steps == [4 * 3, 4 * 2]


def test_replay_holds_the_old_windows_that_fine_tuning_forgets() -> None:
    """One parent that knows the old regime, trained on the new one: the loss on the old one."""
    old, new = of_regime(-1, 200, seed=3), of_regime(1, 200, seed=1)
    parent = forecaster(WINDOW, CHANNELS, 16, seed=1)
    nothing = {n: torch.zeros_like(p) for n, p in parent.named_parameters()}
    task = Task(
        model=parent,
        objective=Squared(),
        new=old,
        held_out=old,
        kept=None,
        anchor=None,
        learn=replace(LEARN, epochs=20),
        generator=torch.Generator().manual_seed(0),
    )
    STRATEGIES["fine_tune"](task)
    losses = {}
    for name, strategy in STRATEGIES.items():
        model = forecaster(WINDOW, CHANNELS, 16)
        model.load_state_dict(parent.state_dict())
        theta = {n: p.detach().clone() for n, p in parent.named_parameters()}
        strategy(
            Task(
                model=model,
                objective=Squared(),
                new=new,
                held_out=new,
                kept=kept(parent, old),
                anchor=Anchor(theta=theta, fisher=nothing),
                learn=task.learn,
                generator=torch.Generator().manual_seed(1),
            )
        )
        with torch.no_grad():
            losses[name] = float((model(old.x) - old.y).square().mean())
    for name in ("ewc_replay", "replay_only", "joint", "replay", "fifo", "der", "derpp"):
        assert losses[name] < 0.2 * losses["fine_tune"], name
