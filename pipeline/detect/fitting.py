"""A series' first readings in, its references set: what each signal is measured by from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields as names_of

import numpy as np
from numpy.typing import NDArray

from pipeline.detect import echoes, reference, signals
from pipeline.detect.evidence import BLOCKS
from pipeline.detect.fields import Fields
from pipeline.detect.reference import Forecaster
from pipeline.detect.scale import Scale
from pipeline.detect.signals import BLOCK

Array = NDArray[np.float64]

#: The prior scale is the deviation in the fit window times this.
PRIOR = 1.1


def fit_level(fields: Fields, scales: Sequence[Scale], slot: int, readings: Array) -> None:
    """Location and scale of readings (n, d); NaN is missing."""
    location, scale = reference.robust(readings)
    fields["location"][slot], fields["scale"][slot] = location, scale
    y = np.nan_to_num(signals.level(readings.copy(), location, scale), nan=0.0)
    means = y.reshape(-1, BLOCK, y.shape[1]).mean(axis=1)
    _start(fields, "level", slot, y, means)
    phi = reference.lag_one(y)
    for each in scales:
        each.start(slot, y.std(axis=0) * PRIOR * reference.inflation(phi, each.test.m))


def fit_residual(
    fields: Fields, scales: Sequence[Scale], slot: int, readings: Array, held: Array
) -> None:
    """The VAR(1) forecaster of readings (n, d); `held` are the same without a hole."""
    fit = Forecaster.fit(readings)
    one = {part.name: getattr(fit, part.name) for part in names_of(Forecaster)}
    for name in fields.fit:
        fields[name][slot] = one[name.removeprefix("fit_")]
    low = np.where(np.isnan(readings), np.inf, readings).min(axis=0)
    high = np.where(np.isnan(readings), -np.inf, readings).max(axis=0)
    fields["live"][slot] = high > low
    blocks = held.reshape(-1, BLOCK, held.shape[1])
    before = np.concatenate([blocks[:1, 0], blocks[:-1, -1]])
    features: Array = signals.residual(blocks, before, one, None, light=fields.light).astype(
        np.float64
    )
    d = held.shape[1]
    if fields.few:
        past = np.zeros((1, echoes.LONGEST, d), dtype=np.float32)
        e = features[..., d : 2 * d].astype(np.float32)
        made, _ = echoes.products(e, past, np.array([len(blocks)]))
        features = echoes.between(features, made, d)
    means = features.mean(axis=1).reshape(-1, BLOCKS["residual"], features.shape[2]).mean(axis=1)
    rows = features.reshape(-1, features.shape[2])[1:]
    _start(fields, "residual", slot, rows, means)
    for each in scales:
        each.start(slot, rows.std(axis=0) * PRIOR)


def _start(fields: Fields, signal: str, slot: int, rows: Array, means: Array) -> None:
    """River's units, and what stands in for missing sensors, from a signal's rows and means."""
    fields[f"{signal}_centre"][slot] = means.mean(axis=0)
    fields[f"{signal}_deviation"][slot] = np.maximum(means.std(axis=0), 1e-6)
    fields[f"{signal}_fill"][slot] = rows.mean(axis=0)
