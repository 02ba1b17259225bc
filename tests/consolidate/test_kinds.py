"""Consolidations of every kind of model, in every form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as with_

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from pipeline.config import Score
from pipeline.consolidate.consolidation import Inputs, consolidate, evaluate
from pipeline.consolidate.examples import examples
from pipeline.consolidate.readings import Readings, split
from pipeline.consolidate.reservoir import Reservoir
from pipeline.errors import SettingsError, TrainingFailed
from pipeline.model.kinds import Design, check, scaling_of
from pipeline.model.objectives import UNKNOWN
from pipeline.model.weights import Weights
from pipeline.records import Candidate
from pipeline.score.scoring import Scorer
from tests.consolidate.regimes import LEARN, SCORE, regime
from tests.model.making import version

PERSISTENCE = "tests.model.modules:persistence"
SCORES = {
    "mlp": SCORE,
    "gru": replace(SCORE, form="gru"),
    "tcn": replace(SCORE, form="tcn"),
    "autoencoder": replace(SCORE, model="autoencoder"),
    "autoencoder gru": replace(SCORE, model="autoencoder", form="gru"),
    "autoencoder tcn": replace(SCORE, model="autoencoder", form="tcn"),
    "regressor": replace(SCORE, model="regressor", target=1),
    "regressor gru": replace(SCORE, model="regressor", form="gru", target=1),
    "regressor tcn": replace(SCORE, model="regressor", form="tcn", target=1),
    "user's": replace(SCORE, model=PERSISTENCE),
}
QUICK = replace(LEARN, epochs=3, fisher_rows=20)


def first(segment: Readings) -> Inputs:
    """The inputs of a first version."""
    content = segment.to_bytes()
    return Inputs(
        parent=None,
        ewc=None,
        segments=((0, content),),
        ended=(),
        reservoirs=(),
        held_out={0: (content,)},
        seed=3,
    )


def later(parent: Candidate, before: Readings, segment: Readings) -> Inputs:
    """The inputs of the version after one, with everything to it."""
    kept = Reservoir(LEARN.reservoir_capacity, SCORE.window, before.values.shape[1])
    kept.offer(split(before, SCORE.window, LEARN.held_out)[0])
    return Inputs(
        parent=parent.weights,
        ewc=parent.ewc or None,
        segments=((1, segment.to_bytes()),),
        ended=(before.to_bytes(),),
        reservoirs=(kept.to_bytes(),),
        held_out={0: (before.to_bytes(),), 1: (segment.to_bytes(),)},
        seed=4,
    )


# What a kind is asked -------------------------------------------------------------------------


def asked(**design: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of one window 1 .. 8 of two channels, with a hole at 5 and at 7."""
    weights = version(Design(window=3, channels=2, hidden=4, **design))
    weights.scaling.location[:], weights.scaling.scale[:] = 0.0, 1.0
    nan = float("nan")
    window = np.array([[[1, 2], [3, 4], [nan, 6], [nan, 8]]], dtype=np.float32)
    found = examples(window, weights)
    return found.x, found.y


def test_a_forecaster_is_given_the_window_and_asked_for_the_next_reading() -> None:
    """Holes of the input are 0, those of the target stay."""
    x, y = asked()
    assert x.tolist() == [[[1, 2], [3, 4], [0, 6]]]
    assert y[0].tolist() == pytest.approx([float("nan"), 8], nan_ok=True)


def test_an_autoencoder_is_given_the_window_that_ends_with_the_reading_and_asked_for_it() -> None:
    """The same cells, flat, with the reading's last; a hole is 0 to give and nothing to ask."""
    x, y = asked(kind="autoencoder")
    assert x.tolist() == [[[3, 4], [0, 6], [0, 8]]]
    nan = float("nan")
    assert y[0].tolist() == pytest.approx([3, 4, nan, 6, nan, 8], nan_ok=True)


@pytest.mark.parametrize(
    ("target", "x", "y"), [(0, [[4], [6], [8]], None), (1, [[3], [0], [0]], 8)]
)
def test_a_regressor_is_asked_for_a_channel_that_it_is_not_given(
    target: int, x: list[list[float]], y: float | None
) -> None:
    """Masked in the whole window: what it says comes from the other channels alone."""
    found, asked_for = asked(kind="regressor", target=target)
    assert found[0, :, target].tolist() == [0, 0, 0]
    assert found[0, :, [1 - target]].tolist() == x
    assert asked_for.shape == (1, 1)
    assert asked_for.item() == y if y is not None else asked_for.isnan().item()


def test_scores_are_of_the_same_question() -> None:
    """Root mean square of (answer - reading) / error scale over the last reading's columns."""
    rng = np.random.default_rng(2)
    contexts = rng.normal(1, 3, (9, 3, 2)).astype(np.float32)
    readings = rng.normal(1, 3, (9, 2)).astype(np.float32)
    for columns, design in (
        (2, Design(window=3, channels=2, hidden=4, kind="autoencoder")),
        (1, Design(window=3, channels=2, hidden=4, kind="regressor", target=1)),
    ):
        weights = version(design)
        part = examples(np.concatenate([contexts, readings[:, None]], axis=1), weights)
        with torch.no_grad():
            error = (weights.model(part.x) - part.y)[:, -columns:] / weights.error_scale
        assert weights.error_scale.shape == (columns,)
        assert Scorer(weights).score(contexts, readings) == pytest.approx(
            error.square().mean(dim=1).sqrt().numpy(), rel=1e-4
        )


def test_a_classifier_is_asked_for_the_number_in_a_channel_that_it_is_not_given() -> None:
    """0, 1 or 2 are classes; nothing, half a class and numbers beyond are no label."""
    said = [0.0, 1.0, 2.0, 3.0, -1.0, 0.5, float("nan")]
    weights = labelled()
    windows = np.ones((len(said), 4, 2), dtype=np.float32)
    windows[:, -1, 1] = said
    part = examples(windows, weights)
    assert part.y.tolist() == [0, 1, 2, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]
    assert bool((part.x[..., 1] == 0).all())
    assert bool((part.x[..., 0] != 0).all())


def labelled() -> Weights:
    """A fresh classifier of three classes, scaled as its first version would be."""
    design = Design(
        window=3, channels=2, hidden=4, kind="classifier", target=1, classes=("a", "b", "c")
    )
    readings = np.array([[3.0, np.nan], [5.0, 2.0], [9.0, 2.0]], dtype=np.float32)
    return with_(version(design), scaling=scaling_of(design, readings))


def test_a_classifier_scores_its_doubt() -> None:
    """(1 - p of the likeliest class) / its usual value: high is odd, and no label is needed."""
    rng = np.random.default_rng(2)
    contexts = rng.normal(1, 3, (9, 3, 2)).astype(np.float32)
    readings = rng.normal(1, 3, (9, 2)).astype(np.float32)
    readings[:, 1] = np.nan
    weights = labelled()
    x = examples(np.concatenate([contexts, readings[:, None]], axis=1), weights).x
    with torch.no_grad():
        doubt = 1 - weights.model(x).softmax(dim=1).max(dim=1).values
    expected = (doubt / weights.error_scale).numpy()
    assert Scorer(weights).score(contexts, readings) == pytest.approx(expected, rel=1e-4)


def test_a_classifier_says_the_likeliest_class_and_how_likely_it_is() -> None:
    """Number and softmax, whatever the label says."""
    rng = np.random.default_rng(2)
    windows = rng.normal(1, 3, (9, 4, 2)).astype(np.float32)
    weights = labelled()
    with torch.no_grad():
        p = weights.model(examples(windows, weights).x).softmax(dim=1).numpy()
    windows[:, -1, 1] = 2.0
    said = Scorer(weights).classify(windows[:, :-1], windows[:, -1])
    assert said[:, 0].tolist() == p.argmax(axis=1).tolist()
    assert said[:, 1] == pytest.approx(p.max(axis=1), rel=1e-5)


# Consolidation --------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_every_kind_learns_in_every_form_and_keeps_what_it_learned(score: Score) -> None:
    """Far better than the regime's mean on the first; and the first is kept as naive does not.

    The rotations turn by 0.7: each channel is told by both channels' last readings.
    """
    one, other = regime(1, 512, seed=1), regime(-1, 512, seed=2)
    learn = replace(LEARN, epochs=40, lr=5e-3)
    made = consolidate(first(one), score, learn)
    inputs = later(made, one, other)
    then = consolidate(inputs, score, learn)
    naive = consolidate(inputs, score, replace(learn, strategy="fine_tune"))
    least = 0.3 if score.factory else 0.5  # a gain for each channel knows no rotation
    assert made.skills[0] > least
    assert then.skills[1] > then.parent_skills[1]
    assert score.factory or then.skills[0] > naive.skills[0]  # a gain serves both regimes
    assert Weights.from_bytes(then.weights, score.factory).design == Design.of(score, 2)
    again = evaluate(then.weights, inputs.held_out, learn, score.factory)
    assert again == (then.skills, then.sizes)


def labels(n: int, shift: float, seed: int, known: float = 0.5) -> Readings:
    """Two classes apart by 3 deviations in the first channel, from `shift` on; labels in the last,
    for a share of the readings.
    """
    rng = np.random.default_rng(seed)
    said = rng.integers(0, 2, n)
    values = np.stack([rng.normal(shift + 3 * said), rng.normal(size=n), said], axis=1)
    values[rng.random(n) > known, 2] = np.nan
    return Readings(values=values.astype(np.float32), offsets=np.arange(n))


def test_a_classifier_learns_from_the_labels_there_are_and_keeps_the_first_task() -> None:
    """Best possible is Phi(1.5) = .933 on each; the second task turns the first's border round.

    Between them lie 6 deviations, so that both can be told at once. Its skill is the accuracy.
    """
    score = replace(SCORE, model="classifier", target=2, classes=("idle", "busy"))
    learn = replace(LEARN, epochs=30)
    one, other = labels(1600, 0.0, seed=1), labels(1600, 6.0, seed=2)
    made = consolidate(first(one), score, learn)
    then = consolidate(later(made, one, other), score, learn)
    assert made.skills[0] > 0.8
    assert then.parent_skills[1] < 0.7
    assert then.skills[1] > 0.8
    assert then.skills[0] > made.skills[0] - 0.1
    assert Weights.from_bytes(then.weights).design.classes == ("idle", "busy")


def test_a_segment_without_a_label_leaves_a_classifier_nothing_to_learn() -> None:
    """It is scored, and that is all: one line, and no version."""
    score = replace(SCORE, model="classifier", target=2, classes=("idle", "busy"))
    with pytest.raises(TrainingFailed, match="no observed cell"):
        consolidate(first(labels(256, 0.0, seed=1, known=0.0)), score, QUICK)


@pytest.mark.parametrize("classes", [(), ("one",), ("one", "one")])
def test_a_classifier_needs_names_of_its_classes(classes: tuple[str, ...]) -> None:
    """Numbers stand for names from the first version on: the order they came in decides nothing."""
    with pytest.raises(SettingsError, match=r"score\.classes: a classifier needs two names"):
        check(replace(SCORE, model="classifier", target=0, classes=classes), 0)


CLASSIFIER = replace(SCORE, model="classifier", classes=("idle", "busy"))


@pytest.mark.parametrize(
    ("score", "label", "says"),
    [
        (SCORE, "state", r"stream\.label: labels are for a classifier, not a forecaster"),
        (replace(CLASSIFIER, target=1), "state", r"score\.target, stream\.label: .* one of them"),
        (CLASSIFIER, "", r"a classifier needs stream\.label, or score\.target"),
        (replace(CLASSIFIER, classes=()), "state", r"score\.classes: a classifier needs two names"),
        (replace(SCORE, model="regressor"), "", r"a regressor needs score\.target"),
    ],
)
def test_labels_and_model_have_to_fit(score: Score, label: str, says: str) -> None:
    """One line at the start, that names the key."""
    with pytest.raises(SettingsError, match=says):
        check(score, 3, label)
    check(CLASSIFIER, 3, "state")


def test_without_a_target_a_classifier_learns_from_the_last_column() -> None:
    """There the label is, beside the sensors: the same version as if it were named."""
    one = labels(256, 0.0, seed=1)
    last, named = (
        consolidate(first(one), replace(CLASSIFIER, target=target), QUICK) for target in (-1, 2)
    )
    assert last.weights == named.weights


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_every_kind_gives_the_same_bytes_again(score: Score) -> None:
    """Two consolidations one after the other, twice: every kernel is deterministic."""
    one, other = regime(1, 256, seed=1), regime(-1, 256, seed=2)
    made, again = (consolidate(first(one), score, QUICK) for _ in range(2))
    assert made.weights == again.weights
    then, after = (consolidate(later(made, one, other), score, QUICK) for _ in range(2))
    assert (then.weights, then.ewc) == (after.weights, after.ewc)


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        (
            SCORES["gru"],
            r"the parent is a forecaster \(mlp\), the settings want a forecaster \(gru\)",
        ),
        (SCORES["regressor"], r"settings want a regressor of channel 1 \(mlp\)"),
        (SCORES["user's"], f"settings want a {PERSISTENCE}"),
    ],
)
def test_a_parent_of_another_kind_is_not_trained_on(wanted: Score, line: str) -> None:
    """Weights, memory and figures of two kinds have nothing to do with each other: one line."""
    one = regime(1, 256, seed=1)
    parent = consolidate(first(one), SCORE, QUICK)
    with pytest.raises(TrainingFailed, match=line):
        consolidate(later(parent, one, regime(-1, 256, seed=2)), wanted, QUICK)


def test_a_parent_of_a_factory_that_is_not_configured_is_refused() -> None:
    """The settings, not stored bytes, say what is imported."""
    one = regime(1, 256, seed=1)
    parent = consolidate(first(one), SCORES["user's"], QUICK)
    with pytest.raises(SettingsError, match=f"the version is of {PERSISTENCE}"):
        consolidate(later(parent, one, regime(-1, 256, seed=2)), SCORE, QUICK)


def test_a_target_that_the_readings_do_not_have_is_refused() -> None:
    """Found at the first consolidation, if the channels were not known at the start."""
    with pytest.raises(SettingsError, match=r"score\.target = 2: there are 2 channels"):
        consolidate(
            first(regime(1, 256, seed=1)), replace(SCORE, model="regressor", target=2), QUICK
        )


def test_a_target_that_was_never_observed_leaves_nothing_to_learn() -> None:
    """The other channels are there, but nothing says what they should give."""
    segment = regime(1, 256, seed=1)
    segment.values[:, 1] = np.nan
    with pytest.raises(TrainingFailed, match="no observed cell"):
        consolidate(first(segment), SCORES["regressor"], QUICK)


# Scaling --------------------------------------------------------------------------------------


def test_readings_after_the_segment_do_not_matter_for_a_version() -> None:
    """Its scaling is of the readings it was made from: others are measured with, and no more."""
    segment, later_on = regime(1, 256, seed=1), regime(-1, 256, seed=2)
    later_on.values[:] *= 1e3
    alone = first(segment)
    both = with_(alone, held_out={**alone.held_out, 1: (later_on.to_bytes(),)})
    one, other = (Weights.from_bytes(consolidate(i, SCORE, QUICK).weights) for i in (alone, both))
    assert torch.equal(one.scaling.location, other.scaling.location)
    assert torch.equal(one.scaling.scale, other.scaling.scale)
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# Bad input ------------------------------------------------------------------------------------

SPOILED = {
    "a channel that never moves": lambda values: values.__setitem__((slice(None), 1), 7.0),
    "a channel of zeros": lambda values: values.__setitem__((slice(None), 1), 0.0),
    "a channel that explodes": lambda values: np.multiply(
        values, np.geomspace(1, 1e35, len(values))[:, None], out=values, casting="unsafe"
    ),
    "one reading of float32's largest": lambda values: values.__setitem__(
        (100, 1), np.finfo(np.float32).max
    ),
    "holes in every window": lambda values: values.__setitem__((slice(None, None, 2), 1), np.nan),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_every_number_of_a_version_is_finite_whatever_it_was_made_from(
    score: Score, spoil: Callable[[np.ndarray], None]
) -> None:
    """As a first segment and as a later one: there is a version, and it scores every reading."""
    good, bad = regime(1, 200, seed=1), regime(1, 200, seed=2)
    spoil(bad.values)
    made = consolidate(first(bad), score, QUICK)
    parent = consolidate(first(good), score, QUICK)
    then = consolidate(later(parent, good, bad), score, QUICK)
    for candidate in (made, then):
        weights = Weights.from_bytes(candidate.weights, score.factory)
        tensors = [*weights.model.state_dict().values(), weights.error_scale]
        assert all(bool(t.isfinite().all()) for t in tensors)
        assert np.isfinite([*candidate.skills.values(), *candidate.metrics.values()]).all()
        windows = np.lib.stride_tricks.sliding_window_view(bad.values, 9, axis=0)
        windows = windows.transpose(0, 2, 1)
        scores = Scorer(weights).score(windows[:, :-1], windows[:, -1])
        column = score.target if score.target >= 0 else slice(None)
        seen = np.isfinite(windows[:, -1, column].reshape(len(windows), -1)).any(axis=1)
        assert np.array_equal(np.isfinite(scores), seen)
