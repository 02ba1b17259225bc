"""A sensor's partial residuals times its own earlier ones."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.detect.echoes import LAGS, LONGEST, MOST, between, few, lags, products
from pipeline.detect.signals import BLOCK, CLIP_PRODUCT


@pytest.mark.parametrize("channels", range(1, 12))
def test_products_of_pairs_and_echoes_together_have_room(channels: int) -> None:
    """As many lags as fit, the shortest first; one more would not."""
    pairs = channels * (channels - 1) // 2
    chosen = lags(channels)
    assert chosen == LAGS[: len(chosen)]
    assert not chosen or pairs + channels * len(chosen) <= MOST
    if len(chosen) < len(LAGS):
        assert pairs + channels * (len(chosen) + 1) > MOST
    assert few(channels) == (len(chosen) > 0)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_each_residual_is_multiplied_with_earlier_ones_of_its_series(channels: int) -> None:
    """Definition, reading by reading: nothing of one series reaches the other."""
    rng = np.random.default_rng(channels)
    past = rng.normal(size=(2, LONGEST, channels)).astype(np.float32)
    blocks = 2 * rng.normal(size=(5, BLOCK, channels)).astype(np.float32)
    size = np.array([2, 3])
    made, last = products(blocks, past, size)
    assert made.shape == (5, BLOCK, channels * len(lags(channels)))
    rows = made.reshape(5 * BLOCK, len(lags(channels)), channels)
    for series, part in enumerate((slice(0, 2), slice(2, 5))):
        x = np.concatenate([past[series], blocks[part].reshape(-1, channels)])
        for n, got in enumerate(rows[part.start * BLOCK : part.stop * BLOCK]):
            for k, lag in enumerate(lags(channels)):
                expected = x[LONGEST + n] * x[LONGEST + n - lag]
                assert got[k] == pytest.approx(np.clip(expected, -CLIP_PRODUCT, CLIP_PRODUCT))
        assert np.array_equal(last[series], x[-LONGEST:])
    assert np.abs(made).max() == CLIP_PRODUCT


def test_any_cut_gives_the_same_echoes() -> None:
    """Bit for bit: what is carried is all that is needed."""
    rng = np.random.default_rng(0)
    past = rng.normal(size=(1, LONGEST, 2)).astype(np.float32)
    blocks = rng.normal(size=(9, BLOCK, 2)).astype(np.float32)
    whole, last = products(blocks, past, np.array([9]))
    parts, carried = [], past
    for low, high in ((0, 1), (1, 4), (4, 9)):
        part, carried = products(blocks[low:high], carried, np.array([high - low]))
        parts.append(part)
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(carried, last)


def test_echoes_stand_behind_the_pairs() -> None:
    """The joint residual and the white ones stay the last features."""
    features = np.arange(10.0).reshape(1, 1, 10)
    joined = between(features, np.full((1, 1, 2), -1.0), channels=3)
    assert joined[0, 0].tolist() == [0, 1, 2, 3, 4, 5, -1, -1, 6, 7, 8, 9]
