"""What a version is asked: which part of its window it is given, and which it answers.

A score, and a skill, are of the last reading's columns: the last `scored` of the answer's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor, nn

from pipeline.config import Score
from pipeline.errors import SettingsError
from pipeline.model.factories import make
from pipeline.model.networks import FORMS, Autoencoder, seeded
from pipeline.model.objectives import UNKNOWN, CrossEntropy, Objective, Squared
from pipeline.model.scaling import Scaling
from pipeline.records import FloatArray

#: Kinds with a channel that they are not given, but asked for.
TARGETED = ("regressor", "classifier")
#: An autoencoder's code is so many times smaller than its hidden layers.
NARROWER = 8


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """What a network is built from; it travels with its weights."""

    window: int
    channels: int
    hidden: int
    #: A key of KINDS, or the user's "module:factory", which forecasts.
    kind: str = "forecaster"
    form: str = "mlp"
    #: The channel that a regressor or classifier answers; -1: none.
    target: int = -1
    #: Names of a classifier's classes, by the numbers in its target channel or label.
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, score: Score, channels: int) -> Design:
        """As the settings say."""
        return cls(
            window=score.window,
            channels=channels,
            hidden=score.hidden,
            kind=score.model,
            form=score.form,
            target=_target(score, channels),
            classes=score.classes if score.model == "classifier" else (),
        )

    def __str__(self) -> str:
        target = f" of channel {self.target}" if self.target >= 0 else ""
        target += f" ({', '.join(self.classes)})" if self.classes else ""
        return f"{self.kind}{target}" if ":" in self.kind else f"{self.kind}{target} ({self.form})"


@dataclass(frozen=True, slots=True)
class Kind:
    """A question to a window's end: scaled contexts (N, W, d) and the readings (N, d) after them.

    pair: inputs (N, W, d) without holes, and targets as the objective has them. outputs: K.
    scored: columns of the oddness, its last ones, that are of the last reading.
    """

    pair: Callable[[Design, Tensor, Tensor], tuple[Tensor, Tensor]]
    outputs: Callable[[Design], int]
    scored: Callable[[Design], int]
    objective: Objective = field(default_factory=Squared)


def _forecast(design: Design, contexts: Tensor, readings: Tensor) -> tuple[Tensor, Tensor]:
    """The reading after the window."""
    return contexts.nan_to_num(0.0), readings


def _reconstruct(design: Design, contexts: Tensor, readings: Tensor) -> tuple[Tensor, Tensor]:
    """The window that ends with the reading, flat."""
    windows = _up_to(contexts, readings)
    return windows.nan_to_num(0.0), windows.flatten(1)


def _regress(design: Design, contexts: Tensor, readings: Tensor) -> tuple[Tensor, Tensor]:
    """The reading's target channel, from the others of the window that ends with it."""
    return _masked(design, contexts, readings), readings[:, design.target, None]


def _classify(design: Design, contexts: Tensor, readings: Tensor) -> tuple[Tensor, Tensor]:
    """The number in the reading's target channel; UNKNOWN where there is no class of it."""
    said, k = readings[:, design.target] * len(design.classes), len(design.classes)
    number = said.nan_to_num(UNKNOWN).round()
    known = ((number - said).abs() < 0.01) & (number >= 0) & (number < k)
    return _masked(design, contexts, readings), torch.where(known, number, UNKNOWN).long()


def _masked(design: Design, contexts: Tensor, readings: Tensor) -> Tensor:
    """The window that ends with the reading, without the target channel."""
    windows = _up_to(contexts, readings).nan_to_num_(0.0)
    windows[..., design.target] = 0.0
    return windows


def _up_to(contexts: Tensor, readings: Tensor) -> Tensor:
    """(N, W, d) windows moved on by one reading."""
    return torch.cat([contexts[:, 1:], readings[:, None]], dim=1)


FORECASTER = Kind(
    pair=_forecast, outputs=lambda design: design.channels, scored=lambda design: design.channels
)
#: `score.model` -> what it means.
KINDS: dict[str, Kind] = {
    "forecaster": FORECASTER,
    "autoencoder": Kind(
        pair=_reconstruct,
        outputs=lambda design: design.window * design.channels,
        scored=lambda design: design.channels,
    ),
    "regressor": Kind(pair=_regress, outputs=lambda design: 1, scored=lambda design: 1),
    "classifier": Kind(
        pair=_classify,
        outputs=lambda design: len(design.classes),
        scored=lambda design: 1,
        objective=CrossEntropy(),
    ),
}


def _target(score: Score, channels: int) -> int:
    """The column that is asked for, -1: none. Labels are the last, after the sensors."""
    if score.model not in TARGETED:
        return -1
    return channels - 1 if score.model == "classifier" and score.target < 0 else score.target


def check(score: Score, channels: int, label: str = "") -> None:
    """Whether there is such a model for so many sensors, 0 if that is not known yet.

    label: field with the labels, if there is one.

    Raises
    ------
    SettingsError
        The user's factory does not do what it should, there is no such target, or not one.
    """
    if label and score.model != "classifier":
        raise SettingsError(f"stream.label: labels are for a classifier, not a {score.model}")
    if label and score.target >= 0:
        raise SettingsError("score.target, stream.label: a classifier learns from one of them")
    if score.model == "classifier" and score.target < 0 and not label:
        raise SettingsError("score.model: a classifier needs stream.label, or score.target")
    check_columns(score, channels)


def check_columns(score: Score, columns: int) -> None:
    """The same for readings of so many columns, labels among them, if there are any."""
    if score.model == "regressor" and score.target < 0:
        raise SettingsError("score.model: a regressor needs score.target")
    if score.model == "classifier" and len(set(score.classes)) < max(2, len(score.classes)):
        raise SettingsError("score.classes: a classifier needs two names or more, each once")
    if score.model in TARGETED and columns and score.target >= columns:
        raise SettingsError(f"score.target = {score.target}: there are {columns} channels")
    if score.factory:
        make(score.factory, score.window, columns or 2)


def scaling_of(design: Design, readings: FloatArray) -> Scaling:
    """Fitted on (n, d) readings; class numbers are divided by their count, whatever was seen."""
    scaling = Scaling.fit(readings)
    if design.classes:
        scaling.location[design.target] = 0.0
        scaling.scale[design.target] = len(design.classes)
    return scaling


def kind_of(design: Design) -> Kind:
    """What a network of this design is asked; a user's forecasts."""
    return FORECASTER if ":" in design.kind else KINDS[design.kind]


def network(design: Design, seed: int = 0) -> nn.Module:
    """A fresh network; the same seed gives the same weights, and torch's own is not touched.

    Raises
    ------
    SettingsError
        The user's factory does not do what it should.
    """
    with seeded(seed):
        if ":" in design.kind:
            return make(design.kind, design.window, design.channels)
        build, outputs = FORMS[design.form], kind_of(design).outputs(design)
        window, channels, hidden = design.window, design.channels, design.hidden
        if design.kind != "autoencoder":
            return build(window, channels, hidden, outputs)
        code = max(1, hidden // NARROWER)
        return Autoencoder(build(window, channels, hidden, code), code, hidden, outputs)
