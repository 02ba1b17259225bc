from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace as with_

from pipeline.config import Learn
from pipeline.consolidate.consolidation import WORST, Inputs, consolidate, evaluate
from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.examples import examples
from pipeline.consolidate.readings import Readings, split
from pipeline.consolidate.reservoir import Reservoir, union
from pipeline.consolidate.state import State
from pipeline.errors import ArtifactCorrupt, PipelineError, TrainingFailed
from pipeline.model.kinds import Design
from pipeline.model.scaling import Scaling
from pipeline.model.weights import Weights
from pipeline.records import Candidate
from pipeline.score.scoring import Scorer
from tests.consolidate.regimes import (
    CHANNELS,
    LEARN,
    SCORE,
    alternating,
    figures,
    regime,
    reservoir,
    second,
)
from tests.model.making import forecaster

ROOT = Path(__file__).parents[2]
QUICK = with_(LEARN, epochs=3, ewc_lambda=10.0)
#: Training windows of two segments of 256 readings.
ALL = 2 * len(split(regime(1, 256, seed=0), SCORE.window, LEARN.held_out)[0])


def first(segment: Readings, seed: int = 0, **changed: object) -> Inputs:
    """The inputs of a first version."""
    content = segment.to_bytes()
    inputs = Inputs(
        parent=None,
        ewc=None,
        segments=((0, content),),
        ended=(),
        reservoirs=(),
        held_out={0: (content,)},
        seed=seed,
    )
    return replace(inputs, **changed)


@pytest.fixture(scope="module")
def full() -> Inputs:
    """Inputs with everything to them."""
    return second()


@pytest.fixture(scope="module")
def made(full: Inputs) -> Candidate:
    """What is made of them."""
    return consolidate(full, SCORE, QUICK)


# A pure function ------------------------------------------------------------------------------


def test_the_same_inputs_give_the_same_bytes(full: Inputs, made: Candidate) -> None:
    """Weights, EWC state and every figure but the seconds, whatever torch did in between."""
    torch.manual_seed(12345)
    torch.rand(17)
    assert figures(consolidate(full, SCORE, QUICK)) == figures(made)


def test_a_fresh_process_gives_the_same_bytes(made: Candidate) -> None:
    """With another number of threads, hash seed and global random state: the audit's promise."""
    program = (
        "import json, torch\n"
        "torch.set_num_threads(3); torch.manual_seed(3)\n"
        "from tests.consolidate.regimes import SCORE, figures, second\n"
        "from tests.consolidate.test_consolidation import QUICK, consolidate\n"
        "candidate = consolidate(second(), SCORE, QUICK)\n"
        "print(json.dumps([figures(candidate), torch.get_num_threads()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [figures(made), 3]


def test_equal_inputs_in_another_order_give_the_same_bytes(full: Inputs, made: Candidate) -> None:
    """A mapping has no order: inputs read back from the audit's JSON are the same inputs."""
    turned = dict(reversed(list(full.held_out.items())))
    assert list(turned) != list(full.held_out)
    again = consolidate(replace(full, held_out=turned), SCORE, QUICK)
    assert figures(again) == figures(made)


def anchor_of(content: bytes | None) -> Anchor:
    """The anchor in a version's state."""
    anchor = State.from_bytes(content or b"").anchor
    assert anchor is not None
    return anchor


def test_what_is_left_out_is_as_if_it_had_never_been_kept(full: Inputs) -> None:
    """Two segments were kept, one is left out: the weights of a reservoir that never had it.

    There is room for everything in both, so that nothing is drawn.
    """
    kept = Reservoir(LEARN.reservoir_capacity, SCORE.window, CHANNELS)
    alone = Reservoir(LEARN.reservoir_capacity, SCORE.window, CHANNELS)
    for segment, seed in ((1, 41), (2, 42)):
        windows = split(regime(-1, 256, seed=seed), SCORE.window, LEARN.held_out)[0]
        kept.offer(windows, segment=segment)
        if segment == 2:
            alone.offer(windows, segment=segment)
    both = replace(full, reservoirs=(kept.to_bytes(),))
    without = replace(both, left_out=((("", 1),),))
    never = replace(full, reservoirs=(alone.to_bytes(),))
    made = [consolidate(inputs, SCORE, QUICK).weights for inputs in (both, without, never)]
    assert made[1] == made[2] != made[0]


def changed_reading(content: bytes) -> bytes:
    """The same readings, one cell of one of them a little larger."""
    readings = Readings.from_bytes(content)
    values = readings.values.copy()
    values[40, 1] += 1e-3
    return Readings(values=values, offsets=readings.offsets).to_bytes()


@pytest.mark.parametrize(
    "part", ["segment", "ended", "reservoir", "parent", "ewc", "seed", "strategy", "lambda"]
)
def test_any_input_changed_changes_the_weights(full: Inputs, made: Candidate, part: str) -> None:
    """By a thousandth in one number: nothing that is recorded as an input is without effect."""
    inputs, learn = full, QUICK
    if part == "segment":
        ((task, content),) = full.segments
        inputs = replace(full, segments=((task, changed_reading(content)),))
    elif part == "ended":
        inputs = replace(full, ended=tuple(map(changed_reading, full.ended)))
    elif part == "reservoir":
        other = Reservoir(LEARN.reservoir_capacity, SCORE.window, CHANNELS)
        windows = split(regime(-1, 256, seed=78), SCORE.window, LEARN.held_out)[0]
        windows.values[:, 3, 0] += 1e-3
        other.offer(windows)
        inputs = replace(full, reservoirs=(full.reservoirs[0], other.to_bytes()))
    elif part == "parent":
        weights = Weights.from_bytes(full.parent or b"")
        with torch.no_grad():
            weights.model.layers[0].weight[0, 0] += 1e-3
        inputs = replace(full, parent=weights.to_bytes())
    elif part == "ewc":
        state = State.from_bytes(full.ewc or b"")
        anchor = anchor_of(full.ewc)
        louder = {name: 1.001 * f for name, f in anchor.fisher.items()}
        changed = Anchor(theta=anchor.theta, fisher=louder)
        inputs = replace(full, ewc=State(changed, state.answers).to_bytes())
    elif part == "seed":
        inputs = replace(full, seed=full.seed + 1)
    elif part == "strategy":
        learn = with_(QUICK, strategy="fine_tune")
    else:
        learn = with_(QUICK, ewc_lambda=10.01)
    assert consolidate(inputs, SCORE, learn).weights != made.weights


def test_held_out_readings_measure_and_are_not_trained_on(full: Inputs, made: Candidate) -> None:
    """Another measure of an old task: other figures and error scale, the same network."""
    old = full.held_out[1]
    inputs = replace(full, held_out={**full.held_out, 1: tuple(map(changed_reading, old))})
    again = consolidate(inputs, SCORE, QUICK)
    one, other = (Weights.from_bytes(c.weights).model.state_dict() for c in (made, again))
    assert all(torch.equal(p, other[name]) for name, p in one.items())


def test_threads_are_given_back(full: Inputs) -> None:
    """It runs in one thread, and in the demo beside others that want theirs: also on failure."""
    torch.set_num_threads(3)
    consolidate(full, SCORE, with_(QUICK, epochs=1))
    assert torch.get_num_threads() == 3
    with pytest.raises(ArtifactCorrupt):
        consolidate(replace(full, parent=b"garbage"), SCORE, QUICK)
    assert torch.get_num_threads() == 3


# What comes out -------------------------------------------------------------------------------


def test_a_first_version_begins_with_the_new_readings() -> None:
    """Scaling fitted on them, sizes from the settings, no anchor, no parent to compare with."""
    segment = regime(1, 256, seed=4)
    candidate = consolidate(first(segment, seed=9), SCORE, LEARN)
    weights = Weights.from_bytes(candidate.weights)
    fitted = Scaling.fit(segment.values)
    assert torch.equal(weights.scaling.location, fitted.location)
    assert torch.equal(weights.scaling.scale, fitted.scale)
    assert weights.design == Design(window=8, channels=CHANNELS, hidden=32)
    assert candidate.ewc == b""
    assert candidate.parent_skills == {}
    assert candidate.new_tasks == (0,)
    assert candidate.skills[0] > 0.5
    assert candidate.metrics["loss_after"] < candidate.metrics["loss_before"]
    assert candidate.metrics["windows_replayed"] == candidate.metrics["ewc_lambda"] == 0


def test_a_later_version_keeps_its_parents_scaling(full: Inputs, made: Candidate) -> None:
    """Weights and anchor mean something only in the units they were learned in."""
    parent, child = (Weights.from_bytes(c) for c in (full.parent or b"", made.weights))
    assert torch.equal(child.scaling.location, parent.scaling.location)
    assert torch.equal(child.scaling.scale, parent.scaling.scale)


def test_the_anchor_is_the_parents_weights_and_the_folded_fisher(
    full: Inputs, made: Candidate
) -> None:
    """F = gamma F_old + F_new with F_new >= 0, theta* = the parent's weights."""
    before, after = anchor_of(full.ewc), anchor_of(made.ewc)
    parent = dict(Weights.from_bytes(full.parent or b"").model.named_parameters())
    assert after.theta.keys() == parent.keys()
    for name, theta in after.theta.items():
        assert torch.equal(theta, parent[name])
        assert bool((after.fisher[name] >= QUICK.gamma * before.fisher[name]).all())
    assert after.trace > QUICK.gamma * before.trace
    assert made.metrics["fisher_trace"] == pytest.approx(after.trace)


def test_a_window_keeps_what_was_answered_on_it_when_it_entered(full: Inputs) -> None:
    """The first child answers by its parent; its own repeats that, and answers what is new."""
    unanswered = State(anchor_of(full.ewc)).to_bytes()
    child = consolidate(replace(full, ewc=unanswered), SCORE, QUICK)
    answers = State.from_bytes(child.ewc).answers
    assert answers is not None
    parent = Weights.from_bytes(full.parent or b"")
    union_ = union(full.reservoirs, QUICK.reservoir_capacity, full.seed)
    assert union_ is not None
    with torch.no_grad():
        expected = parent.model(examples(union_.values, parent).x)
    torch.testing.assert_close(answers.outputs, expected)

    more = replace(
        full,
        parent=child.weights,
        ewc=child.ewc,
        reservoirs=(*full.reservoirs, reservoir([regime(1, 256, seed=79)])),
    )
    later = State.from_bytes(consolidate(more, SCORE, QUICK).ewc).answers
    assert later is not None
    old = {key.tobytes(): output for key, output in zip(answers.keys, answers.outputs, strict=True)}
    same = [i for i, key in enumerate(later.keys) if key.tobytes() in old]
    assert len(same) == len(old) < len(later.keys)
    for i in same:
        assert torch.equal(later.outputs[i], old[later.keys[i].tobytes()])


def test_without_an_ended_task_the_anchor_stays_where_it_was(full: Inputs) -> None:
    """There is nothing to take a Fisher diagonal on: the running one is passed on."""
    candidate = consolidate(replace(full, ended=(), reservoirs=()), SCORE, QUICK)
    before, after = anchor_of(full.ewc), anchor_of(candidate.ewc)
    assert State(after).to_bytes() == State(before).to_bytes()
    assert candidate.metrics["windows_replayed"] == 0
    assert candidate.metrics["ewc_lambda"] == QUICK.ewc_lambda


def test_figures_say_what_was_used(full: Inputs, made: Candidate) -> None:
    """Windows by the split's own count; skills of every task, parent's beside them."""
    ((_, content),) = full.segments
    train, held = split(Readings.from_bytes(content), SCORE.window, QUICK.held_out)
    kept = sum(
        len(split(regime(sign, 256, seed), SCORE.window, QUICK.held_out)[0])
        for sign, seed in ((1, 100), (-1, 101), (-1, 78))
    )
    assert made.metrics["windows_new"] == len(train)
    assert made.metrics["windows_replayed"] == kept
    assert made.metrics["ewc_lambda"] == QUICK.ewc_lambda
    assert made.metrics["parameters"] == 16 * 32 + 32 + 32 * 32 + 32 + 32 * 2 + 2
    assert made.metrics["average_skill"] == pytest.approx(sum(made.skills.values()) / 2)
    assert made.skills.keys() == made.parent_skills.keys() == made.sizes.keys() == {0, 1}
    assert made.sizes == {0: 2 * len(held), 1: len(held)}


@pytest.mark.parametrize(
    ("strategy", "replayed"),
    [("joint", ALL), ("fifo", 100), ("online_ewc", 0), ("ewc_only", 0)],
)
def test_a_strategy_is_given_what_it_keeps(full: Inputs, strategy: str, replayed: int) -> None:
    """The latest windows up to the reservoir's capacity, everything or nothing."""
    learn = with_(QUICK, strategy=strategy, reservoir_capacity=100, epochs=1)
    old = (regime(-1, 256, seed=101).to_bytes(), regime(1, 256, seed=100).to_bytes())
    candidate = consolidate(replace(full, earlier=old), SCORE, learn)
    assert candidate.metrics["windows_replayed"] == replayed


def test_joint_training_is_watched_on_everything_it_is_trained_on(full: Inputs) -> None:
    """Stopped by the new segment alone it would forget, and be no bound to measure others by.

    Its loss before is that of the parent on what is held out of all three segments, as fine-tuning
    on all three has it; without old ones it is that on the new one.
    """
    old = tuple(regime(sign, 256, seed=300 + sign).to_bytes() for sign in (-1, 1))
    everything = replace(full, segments=(*((0, content) for content in old), *full.segments))
    learn = with_(QUICK, strategy="joint", epochs=1)
    joint = consolidate(replace(full, earlier=old), SCORE, learn)
    for inputs, expected in ((everything, True), (full, False)):
        tuned = consolidate(inputs, SCORE, with_(learn, strategy="fine_tune"))
        near = pytest.approx(tuned.metrics["loss_before"], rel=1e-5)
        assert (joint.metrics["loss_before"] == near) == expected


def test_fine_tuning_does_not_claim_replay_or_penalty(full: Inputs) -> None:
    """It is given a reservoir and an anchor and uses neither: the audit must say so."""
    candidate = consolidate(full, SCORE, with_(QUICK, strategy="fine_tune"))
    assert candidate.metrics["windows_replayed"] == 0
    assert candidate.metrics["ewc_lambda"] == 0


def test_evaluate_agrees_with_the_row_that_was_registered(full: Inputs, made: Candidate) -> None:
    """Champion and parent measured later on the same readings: the same bits, the same sizes."""
    assert evaluate(made.weights, full.held_out, QUICK) == (made.skills, made.sizes)
    assert evaluate(full.parent or b"", full.held_out, QUICK) == (made.parent_skills, made.sizes)


def test_a_skill_is_the_mean_of_its_windows_losses(full: Inputs, made: Candidate) -> None:
    """The gate resamples windows; what it sees must be what was reported, in pairs."""
    assert made.block == 2 * (SCORE.window + 1) - SCORE.window
    for skills, losses in ((made.skills, made.losses), (made.parent_skills, made.parent_losses)):
        assert skills == {task: 1.0 - values.mean() for task, values in losses.items()}
        assert {task: len(values) for task, values in losses.items()} == made.sizes


def test_the_gate_s_scores_are_those_that_the_stream_would_give(
    full: Inputs, made: Candidate
) -> None:
    """Mean and spread of the candidate's scores on a task's held-out readings, by the scorer."""
    for task, contents in full.held_out.items():
        held = [split(Readings.from_bytes(c), SCORE.window, QUICK.held_out)[1] for c in contents]
        windows = np.concatenate([part.values for part in held])
        scores = Scorer.load(made.weights).score(windows[:, :-1], windows[:, -1])
        expected = (scores.mean(), scores.std())
        assert made.scores[task] == pytest.approx(expected, rel=1e-5)


def test_the_error_scale_is_the_held_out_error_over_every_task(
    full: Inputs, made: Candidate
) -> None:
    """Root mean square per channel over all held-out windows: live scores are about 1."""
    weights = Weights.from_bytes(made.weights)
    squares = []
    for content in (c for contents in full.held_out.values() for c in contents):
        held = split(Readings.from_bytes(content), SCORE.window, QUICK.held_out)[1]
        scaled = weights.scaling.apply(torch.from_numpy(held.values))
        with torch.no_grad():
            squares.append((weights.model(scaled[:, :-1]) - scaled[:, -1]).square())
    expected = torch.cat(squares).mean(dim=0).sqrt()
    torch.testing.assert_close(weights.error_scale, expected, rtol=1e-4, atol=0)


# Skill ----------------------------------------------------------------------------------------


def constant(values: list[float], scaling: Scaling, window: int = 4) -> bytes:
    """A version that forecasts the same reading whatever it sees."""
    channels = len(values)
    model = forecaster(window, channels, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.layers[4].bias.copy_((torch.tensor(values) - scaling.location) / scaling.scale)
    return Weights(
        model=model,
        scaling=scaling,
        error_scale=torch.ones(channels),
        design=Design(window=window, channels=channels, hidden=3),
    ).to_bytes()


def noise(n: int = 400, holes: float = 0.0) -> Readings:
    """Readings with another mean and spread for each of two channels."""
    rng = np.random.default_rng(3)
    values = rng.normal([5.0, -20.0], [1.0, 3.0], (n, 2)).astype(np.float32)
    values[rng.random((n, 2)) < holes] = np.nan
    return Readings(values=values, offsets=np.arange(n))


def targets(readings: Readings, window: int = 4) -> np.ndarray:
    """(k, d) readings that are to be forecast in the held-out part."""
    return split(readings, window, LEARN.held_out)[1].values[:, -1]


WIDE = Scaling(torch.tensor([4.0, -10.0]), torch.tensor([2.0, 5.0]))


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_who_forecasts_the_mean_has_no_skill(holes: float) -> None:
    """1 - variance / variance = 0 by construction, in whatever units, holes or not."""
    readings = noise(holes=holes)
    mean = np.nanmean(targets(readings).astype(float), axis=0).tolist()
    skills, _ = evaluate(constant(mean, WIDE), {7: (readings.to_bytes(),)}, LEARN)
    assert skills[7] == pytest.approx(0.0, abs=1e-5)


def test_who_is_off_by_one_deviation_in_every_channel_has_skill_minus_one() -> None:
    """MSE = variance + offset^2 = 2 variance, so 1 - 2."""
    readings = noise()
    y = targets(readings).astype(float)
    off = (y.mean(axis=0) + y.std(axis=0)).tolist()
    skills, _ = evaluate(constant(off, WIDE), {0: (readings.to_bytes(),)}, LEARN)
    assert skills[0] == pytest.approx(-1.0, abs=1e-4)


def test_every_observed_cell_weighs_the_same() -> None:
    """One channel seen a fifth of the time and off by two deviations: 1 - (n + 5 m) / (n + m)."""
    readings = noise()
    readings.values[np.arange(400) % 5 != 0, 1] = np.nan
    y = targets(readings).astype(float)
    off = np.nanmean(y, axis=0) + np.array([0.0, 2.0]) * np.nanstd(y, axis=0)
    n, m = (~np.isnan(y)).sum(axis=0)
    assert n > 3 * m > 0
    skills, _ = evaluate(constant(off.tolist(), WIDE), {0: (readings.to_bytes(),)}, LEARN)
    assert skills[0] == pytest.approx(1 - (n + 5 * m) / (n + m), abs=1e-4)


def test_skill_is_never_reported_below_the_worst() -> None:
    """A forecast for another regime, far away: a figure that still can be averaged."""
    skills, _ = evaluate(constant([23.0, 39.0], WIDE), {0: (noise().to_bytes(),)}, LEARN)
    assert skills[0] == WORST


def test_a_task_is_measured_over_all_its_segments_together() -> None:
    """Two segments far apart: their common mean is no skill, though each is well off it."""
    one, other = noise(), noise()
    shift = np.array([50.0, 50.0], dtype=np.float32)
    both = [one, Readings(values=other.values + shift, offsets=other.offsets)]
    mean = np.concatenate([targets(r) for r in both]).astype(float).mean(axis=0)
    wide = Scaling(torch.tensor([30.0, 10.0]), torch.tensor([20.0, 20.0]))
    content = tuple(r.to_bytes() for r in both)
    skills, sizes = evaluate(constant(mean.tolist(), wide), {0: content}, LEARN)
    assert skills[0] == pytest.approx(0.0, abs=1e-5)
    assert sizes[0] == 2 * len(targets(one))


def test_a_task_without_an_observed_target_has_no_skill_to_report() -> None:
    """Neither 1 nor 0: it was not measured. The task beside it was."""
    silent = noise()
    silent.values[:] = np.nan
    held_out = {0: (silent.to_bytes(),), 1: (noise().to_bytes(),), 2: (noise(n=4).to_bytes(),)}
    skills, sizes = evaluate(constant([5.0, -20.0], WIDE), held_out, LEARN)
    assert skills.keys() == sizes.keys() == {1}


# What cannot be learned -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 8, 9, 17, 18, 26])
def test_a_segment_without_windows_to_train_on_fails(n: int) -> None:
    """W = 8: rows 0-17 are held out, and a training window takes 9 more."""
    with pytest.raises(TrainingFailed):
        consolidate(first(regime(1, n or 1, seed=0)) if n else first(empty()), SCORE, QUICK)


def empty() -> Readings:
    """No reading at all."""
    return Readings(values=np.zeros((0, CHANNELS), np.float32), offsets=np.zeros(0, np.int64))


def test_one_window_of_each_kind_is_enough() -> None:
    """27 readings: 10 held-out windows and one to train on."""
    candidate = consolidate(first(regime(1, 27, seed=0)), SCORE, QUICK)
    assert candidate.metrics["windows_new"] == 1
    assert candidate.sizes == {0: 10}


@pytest.mark.parametrize("later", [False, True])
def test_nothing_to_learn_fails(full: Inputs, later: bool) -> None:
    """A request by hand before any segment: with a parent as without."""
    inputs = replace(full, segments=()) if later else first(empty(), segments=())
    with pytest.raises(TrainingFailed, match="no reading"):
        consolidate(inputs, SCORE, QUICK)


@pytest.mark.parametrize("part", ["all", "held out", "trained on"])
def test_a_silent_segment_fails(part: str) -> None:
    """Loss 0 and no error where nothing was observed: that is not skill, and scales nothing."""
    segment = regime(1, 256, seed=0)
    train, held = split(segment, SCORE.window, QUICK.held_out)
    rows = {"all": np.arange(256), "held out": held.offsets, "trained on": train.offsets}[part]
    if part != "all":
        rows = np.unique(rows[:, [1]])  # the rows that are forecast
    segment.values[rows] = np.nan
    with pytest.raises(TrainingFailed, match="observed"):
        consolidate(first(segment), SCORE, QUICK)


def test_one_silent_sensor_does_not_stop_the_others() -> None:
    """Its error scale is 1, the others' are their own, and the skill is theirs."""
    segment = regime(1, 256, seed=0)
    segment.values[:, 1] = np.nan
    candidate = consolidate(first(segment), SCORE, LEARN)
    weights = Weights.from_bytes(candidate.weights)
    assert weights.error_scale[1] == 1.0
    assert weights.error_scale[0] != 1.0
    assert 0 < candidate.skills[0] < 1


@pytest.mark.parametrize("part", ["parent", "ewc", "segment", "ended", "reservoir", "held_out"])
def test_damaged_inputs_are_not_used(full: Inputs, part: str) -> None:
    """One error for every part, before anything is trained."""
    bad = b"garbage"
    changed = {
        "parent": {"parent": bad},
        "ewc": {"ewc": bad},
        "segment": {"segments": ((0, bad),)},
        "ended": {"ended": (bad,)},
        "reservoir": {"reservoirs": (bad,)},
        "held_out": {"held_out": {0: (bad,)}},
    }[part]
    with pytest.raises(ArtifactCorrupt):
        consolidate(replace(full, **changed), SCORE, QUICK)


def test_every_stage_tells_that_it_goes_on_and_may_be_ended_there(full: Inputs) -> None:
    """The Fisher diagonal's one pass, each step, and each task three times: its error scale, the
    candidate on it, the parent on it. systemd's watchdog and SIGTERM hang on these calls."""
    shares: list[float] = []
    consolidate(full, SCORE, QUICK, progress=shares.append)
    after = 3 * len(full.held_out)
    steps = shares[1:-after]
    assert shares[0] == 0.0
    assert shares[-after:] == [1.0] * after
    assert steps[0] > 0.0
    assert steps == sorted(set(steps))
    told: list[float] = []

    def stop_at(number: int) -> Callable[[float], None]:
        def told_it(share: float) -> None:
            told.append(share)
            if len(told) == number:
                raise PipelineError("interrupted")

        return told_it

    for number in (1, 2, 1 + len(steps) // 2, len(shares) - after + 1, len(shares)):
        told.clear()
        with pytest.raises(PipelineError, match="interrupted"):
            consolidate(full, SCORE, QUICK, progress=stop_at(number))
        assert told == shares[:number]


# What it is for -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_regimes_that_alternate_are_kept_by_replay_and_lost_by_fine_tuning(seed: int) -> None:
    """The point of the project, on two regimes that forecast each other badly.

    Both learn what is new. Fine-tuning then has lost half of what it knew of the other, replay
    next to nothing.
    """
    runs = {name: alternating(name, seed)[0] for name in ("fine_tune", "ewc_replay")}
    for name, candidates in runs.items():
        assert all(c.skills[i % 2] > 0.5 for i, c in enumerate(candidates)), name
    lost = {
        name: [
            candidates[i - 1].skills[1 - i % 2] - candidates[i].skills[1 - i % 2] for i in (1, 2)
        ]
        for name, candidates in runs.items()
    }
    assert min(lost["fine_tune"]) > 0.3
    assert max(lost["ewc_replay"]) < 0.05


def test_the_candidate_of_a_served_regime_is_no_worse(full: Inputs) -> None:
    """A regime that came back, learned again with everything kept: no task falls much."""
    candidate = consolidate(full, SCORE, LEARN)
    for task, skill in candidate.skills.items():
        assert skill > candidate.parent_skills[task] - 0.05


def test_reservoir_helper_holds_training_windows_only() -> None:
    """What these tests replay from shares no reading with what they measure on."""
    segment = regime(1, 256, seed=0)
    held = split(segment, SCORE.window, LEARN.held_out)[1]
    restored = Reservoir(LEARN.reservoir_capacity, SCORE.window, CHANNELS)
    restored.offer(split(segment, SCORE.window, LEARN.held_out)[0])
    assert restored.to_bytes() == reservoir([segment])
    rows = {int(o) for o in held.offsets.ravel()}
    assert not rows & {int(o) for o in restored.state()["offsets"].ravel()}


def test_defaults_learn_from_adapt_after_readings() -> None:
    """What is due is long enough for the default window: at the least setting too."""
    for n in (Learn().adapt_after, 64):
        content = regime(1, n, seed=2).to_bytes()
        inputs = replace(first(empty()), segments=((0, content),), held_out={0: (content,)})
        assert consolidate(inputs, with_(SCORE, window=16), QUICK).sizes[0] > 0
