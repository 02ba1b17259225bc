from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from msgspec.structs import replace as with_
from torch import Tensor, nn

from pipeline.config import Learn
from pipeline.consolidate import training
from pipeline.consolidate.consolidation import Inputs, consolidate, evaluate
from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.examples import ENOUGH
from pipeline.consolidate.readings import Readings, Windows, halves, split
from pipeline.consolidate.search import STRENGTHS, trained_at
from pipeline.consolidate.training import Examples, Task, mean_loss, train
from pipeline.errors import TrainingFailed
from pipeline.model.objectives import Squared
from tests.consolidate.regimes import LEARN, SCORE, figures, regime, second
from tests.model.making import forecaster

WINDOW, CHANNELS, RULE = 4, 2, 50.0
SEARCH = Learn(epochs=6, batch=16, lr=1e-2, ewc_lambda="search")
#: Of two tasks, two segments of so many readings leave ENOUGH windows on either side.
LONG = 1512


def of_regime(sign: float, n: int, seed: int) -> Examples:
    """Readings about 2 or -2, the next one .8 or -.8 times the last."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * sign + torch.randn(n, WINDOW, CHANNELS, generator=generator)
    return Examples(x=x, y=0.8 * sign * x[:, -1])


def task(**changed: object) -> Task:
    """A parent that is to learn one regime and is judged on that and another."""
    model = forecaster(WINDOW, CHANNELS, 8, seed=1).train()
    named = list(model.named_parameters())
    parts: dict[str, object] = {
        "model": model,
        "objective": Squared(),
        "new": of_regime(1, 90, seed=1),
        "held_out": of_regime(1, 40, seed=2),
        "kept": None,
        "anchor": Anchor(
            theta={n: p.detach().clone() for n, p in named},
            fisher={n: torch.full_like(p, 1e-2) for n, p in named},
        ),
        "learn": SEARCH,
        "generator": torch.Generator().manual_seed(9),
        "compared_on": (of_regime(-1, 40, seed=3), of_regime(1, 40, seed=4)),
    }
    return Task(**(parts | changed))  # type: ignore[arg-type]


def flat(model: nn.Module) -> Tensor:
    """Every weight."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# The search -----------------------------------------------------------------------------------


def test_the_strength_with_the_least_mean_loss_over_tasks_is_kept() -> None:
    """Against each strength trained by itself from the same parent with the same seed."""
    searched = task()
    trained = trained_at(searched, RULE, train)
    alone = {}
    for ewc_lambda in (*STRENGTHS, RULE):
        one = task()
        train(one, ewc_lambda=ewc_lambda)
        losses = [mean_loss(one.model, Squared(), part) for part in searched.compared_on]
        alone[ewc_lambda] = (float(np.mean(losses)), flat(one.model))
    assert trained.compared == {each: pytest.approx(loss) for each, (loss, _) in alone.items()}
    assert len({loss for loss, _ in alone.values()}) == 6, "they differ, so there is a choice"
    best = min(alone, key=lambda each: alone[each][0])
    assert trained.ewc_lambda == best
    assert torch.equal(flat(searched.model), alone[best][1])


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_what_is_judged_decides(sign: float) -> None:
    """By the parent's own answers the strongest pull is best, by the new regime alone a weak one:
    the two ends of stability and plasticity."""
    parent = forecaster(WINDOW, CHANNELS, 8, seed=1)
    judge = of_regime(sign, 40, seed=5)
    if sign < 0:
        with torch.no_grad():
            judge = Examples(x=judge.x, y=parent(judge.x))
    trained = trained_at(task(compared_on=(judge,)), RULE, train)
    assert trained.ewc_lambda == 100.0 if sign < 0 else trained.ewc_lambda < 100.0


@pytest.mark.parametrize("missing", [{"anchor": None}, {"compared_on": ()}])
def test_without_an_anchor_or_a_judge_it_is_the_rule(missing: dict[str, object]) -> None:
    """The same bits as with "rule", and nothing is said to have been compared."""
    searched, ruled = task(**missing), task(**missing, learn=with_(SEARCH, ewc_lambda="rule"))
    one, other = trained_at(searched, RULE, train), trained_at(ruled, RULE, train)
    assert one == other
    assert one.ewc_lambda == (RULE if searched.anchor else 0.0)
    assert not one.compared
    assert torch.equal(flat(searched.model), flat(ruled.model))


def test_a_search_is_deterministic() -> None:
    """The same bits twice, whatever torch's own generator does."""
    one, other = task(), task()
    first = trained_at(one, RULE, train)
    torch.manual_seed(77)
    assert trained_at(other, RULE, train) == first
    assert torch.equal(flat(one.model), flat(other.model))


def test_the_time_limit_is_for_the_whole_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second an epoch: 10 seconds are enough for one training of 6 epochs and not for two."""
    now = iter(range(1, 1000))
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(now)))
    hurried = with_(SEARCH, max_seconds=10.0)
    train(task(learn=hurried, started=0.0), ewc_lambda=RULE)
    now = iter(range(1, 1000))
    with pytest.raises(TrainingFailed, match=r"learn\.max_seconds = 10"):
        trained_at(task(learn=hurried, started=0.0), RULE, train)


def test_progress_is_that_of_all_trainings() -> None:
    """It rises to 1 over six trainings, the first of which ends at a sixth."""
    shares: list[float] = []
    trained_at(task(progress=shares.append), RULE, train)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert any(share == pytest.approx(1 / 6) for share in shares)


# What it looks at -----------------------------------------------------------------------------


def readings_in(windows: Windows) -> set[int]:
    """Offsets of all their readings."""
    return {n for a, b in windows.offsets.tolist() for n in range(a, b + 1)}


@pytest.mark.parametrize("n", [20, 100, 256, 1000])
def test_the_halves_of_what_is_held_out_share_no_reading(n: int) -> None:
    """Together they are the held-out windows, and they are as even as runs allow."""
    segment = regime(1, n, seed=0)
    _, held = split(segment, SCORE.window, 0.25)
    one, other = halves(segment, SCORE.window, 0.25)
    assert not readings_in(one) & readings_in(other)
    both = np.concatenate([one.offsets, other.offsets])
    np.testing.assert_array_equal(both[np.argsort(both[:, 0])], held.offsets)
    assert 0 <= len(one) - len(other) <= SCORE.window + 2


@pytest.fixture(scope="module")
def long() -> Inputs:
    """A consolidation with everything to it, on segments that are long enough to search."""
    return second(n=LONG)


def test_a_version_says_what_each_strength_came_to(long: Inputs) -> None:
    """Its lambda is the one with the least loss; the gate's windows were not searched on; the same
    inputs give the same bytes and figures."""
    learn = with_(LEARN, ewc_lambda="search", epochs=2)
    made = consolidate(long, SCORE, learn)
    prefix = "loss_at_lambda_"
    found = {k.removeprefix(prefix): v for k, v in made.metrics.items() if k.startswith(prefix)}
    assert set(found) == {"0", "1", "3", "10", "30", "100"}  # 1: the rule's, with 2,000 kept
    assert made.metrics["ewc_lambda"] == float(min(found, key=lambda each: found[each]))
    assert figures(consolidate(long, SCORE, learn)) == figures(made)
    counts = {}
    for number, contents in long.held_out.items():
        pairs = [halves(Readings.from_bytes(c), SCORE.window, learn.held_out) for c in contents]
        counts[number] = sum(len(one) for one, _ in pairs)
        assert sum(len(other) for _, other in pairs) >= ENOUGH
    assert made.sizes == counts
    assert evaluate(made.weights, long.held_out, learn) == (made.skills, made.sizes)


def test_a_task_with_few_held_out_windows_leaves_it_to_the_rule(long: Inputs) -> None:
    """One of two is short: no search, and it is measured on all that it has."""
    learn = with_(LEARN, ewc_lambda="search", epochs=2)
    few = regime(-1, 256, seed=8)
    made = consolidate(
        replace(long, held_out={**long.held_out, 1: (few.to_bytes(),)}), SCORE, learn
    )
    assert made.metrics["ewc_lambda"] == 1.0
    assert not any(name.startswith("loss_at") for name in made.metrics)
    assert made.sizes[1] == len(split(few, SCORE.window, learn.held_out)[1])
