"""Readings in, boundaries out: river proposes, a history-scaled test confirms and locates.

Every change is divided by how much the same statistic has varied over the whole life of the series.
State is stacked over the series of one partition and advances in blocks of five readings at fixed
block numbers, so the same log gives the same bits however it is cut into polls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Detect
from pipeline.detect import detectors, reference
from pipeline.detect.blocks import Blocker, Blocks
from pipeline.detect.history import TESTS, Ring, Scale, Test
from pipeline.detect.reference import Forecaster
from pipeline.detect.signals import BLOCK, block_means, joint_residual, level
from pipeline.detect.warmup import WarmUp
from pipeline.errors import SettingsError
from pipeline.records import Batch, Boundary, IntArray

Array = NDArray[np.float64]

#: The statistic is the root mean square of so many largest z.
LARGEST = 3
#: The prior scale is the deviation in the fit window times this.
PRIOR = 1.1
#: A mean's own variance, from the blocks it is of, times this, is the least it is divided by.
WELCH = 1.05**2 * BLOCK
#: Without a feature's largest block the statistic must keep this share of the threshold.
LEAVE_ONE_OUT = 0.6
#: Features that locate a boundary, those with the largest z.
LOCATORS = 8
#: A boundary lies at most so many readings before its detection.
LOOK_BACK = 500
#: Blocks on either side of a boundary that say which sensors moved.
AROUND = 12
#: Sigma changes at multiples of so many blocks: often in a series' early life, then seldom.
YOUNG, YOUNG_STRIDE, STRIDE = 256, 16, 128
#: River sees block means in units of the fit window's deviation, cut here.
CUT = 50.0
NEVER = -(1 << 40)


@dataclass(slots=True)
class Crossing:
    """A test that crossed its threshold and was confirmed."""

    test: int
    #: Blocks seen when it crossed.
    t: int
    z: Array
    statistic: float


class BoundaryDetector:
    """Marks the task boundaries of every series of one partition.

    Parameters
    ----------
    channels
        d, sensors in a reading.
    settings
        `warm_up` and `fit_after` are rounded up to whole blocks.

    Raises
    ------
    SettingsError
        `detectors` names one that river does not have.
    """

    def __init__(self, channels: int, settings: Detect) -> None:
        try:
            detectors.Proposers(settings.detectors, channels + 1)
        except ValueError as exc:
            raise SettingsError(f"detect.detectors: {exc}") from None
        self.channels = channels
        self.settings = settings
        self.warm_up = -(-settings.warm_up // BLOCK) * BLOCK
        self.fit_after = max(-(-settings.fit_after // BLOCK) * BLOCK, self.warm_up + BLOCK)
        self.thresholds = {
            "level": settings.level_threshold,
            "residual": settings.residual_threshold,
        }
        self.blocker = Blocker(channels)
        self.warm = WarmUp(channels, self.fit_after)
        features = {"level": channels, "residual": 1}
        reach = {s: max(t.reach for t in TESTS if t.signal == s) for s in features}
        reach["level"] = max(reach["level"], LOOK_BACK // BLOCK + AROUND)
        self.rings = {s: Ring(features[s], reach[s] + STRIDE) for s in features}
        self.scales = [Scale(test, features[test.signal]) for test in TESTS]
        self.proposers: list[detectors.Proposers | None] = []
        self._fields = self._empty(0)

    # One poll ---------------------------------------------------------------------------------

    def update(self, batch: Batch, slots: IntArray) -> list[Boundary]:
        """Boundaries of a batch, in the log's order of their detection.

        slots: (S,) row of each of the batch's series in the stacked state.
        """
        self._grow(int(slots.max(initial=-1)) + 1)
        names = dict(zip(slots.tolist(), batch.series, strict=True))
        found: list[tuple[int, Boundary]] = []
        places = np.stack([batch.offsets, batch.times, batch.order], axis=1)
        readings = self.blocker.clean(slots, batch.starts, batch.values)
        for part in self._phases(slots, batch.starts):
            rows, starts, which = part
            found += self._advance(which, starts, readings[rows], places[rows], names)
        return [boundary for _, boundary in sorted(found, key=lambda pair: pair[0])]

    def _phases(
        self, slots: IntArray, starts: IntArray
    ) -> Iterator[tuple[Any, IntArray, IntArray]]:
        """Cut a batch where a series' reference is fitted: (rows, starts, slots) of each part."""
        seen = self._fields["rows"][slots]
        counts = np.diff(starts)
        edges = [0, self.warm_up, self.fit_after, np.iinfo(np.int64).max]
        for low, high in pairwise(edges):
            first = np.clip(low - seen, 0, counts)
            last = np.clip(high - seen, 0, counts) if high < edges[-1] else counts
            taken = last - first
            if not taken.any():
                continue
            if (taken == counts).all():
                yield slice(None), starts, slots
                continue
            here = taken > 0
            rows = _ranges(starts[:-1][here] + first[here], taken[here])
            yield rows, np.concatenate([[0], np.cumsum(taken[here])]), slots[here]

    def _advance(
        self,
        slots: IntArray,
        starts: IntArray,
        readings: Array,
        places: IntArray,
        names: Mapping[int, str],
    ) -> list[tuple[int, Boundary]]:
        """Readings of series that are all in one phase, none beyond its end."""
        fields, counts = self._fields, np.diff(starts)
        seen = fields["rows"][slots]
        young = seen < self.fit_after
        if young.any():
            of = np.repeat(np.arange(len(slots)), counts)
            row = np.arange(len(readings)) - starts[of] + seen[of]
            keep = young[of]
            self.warm.add(slots[of][keep], row[keep], readings[keep], places[keep, :2])
        fields["rows"][slots] = seen + counts
        found: list[tuple[int, Boundary]] = []
        if seen[0] >= self.warm_up:
            blocks = self.blocker.cut(slots, starts, readings, places)
            found = self._take(slots, blocks, bool(seen[0] >= self.fit_after), names)
        for slot in slots[fields["rows"][slots] == self.warm_up]:
            self._start_level(int(slot))
        for slot in slots[fields["rows"][slots] == self.fit_after]:
            self._start_residual(int(slot))
        return found

    # References -------------------------------------------------------------------------------

    def _start_level(self, slot: int) -> None:
        """Fit location and scale on the first readings, and take those in as the first blocks."""
        fields = self._fields
        readings, places = self.warm.first(slot, self.warm_up)
        location, scale = reference.robust(readings)
        fields["location"][slot], fields["scale"][slot] = location, scale
        y = level(readings, location, scale)
        means = block_means(y)
        centre, deviation = means.mean(axis=0), np.maximum(means.std(axis=0), 1e-6)
        fields["signal_centre"][slot, :-1] = centre
        fields["signal_deviation"][slot, :-1] = deviation
        self._remember(slot, places[::BLOCK])
        self.blocker.start(slot, readings[-1])
        self.proposers[slot] = proposers = detectors.Proposers(
            self.settings.detectors, self.channels + 1
        )
        signals = np.clip((means - centre) / deviation, -CUT, CUT)
        proposers.update([*signals.T.tolist(), None])
        phi = reference.lag_one(y)
        spread = y.std(axis=0) * PRIOR
        for scale_ in self._scales("level"):
            scale_.start(slot, spread * reference.inflation(phi, scale_.test.m))
        self._fill("level", slot, means)

    def _start_residual(self, slot: int) -> None:
        """Fit the VAR(1) forecaster, and take the residuals of all readings so far in."""
        fields = self._fields
        readings, _ = self.warm.first(slot, self.fit_after)
        fit = Forecaster.fit(readings)
        for name in Forecaster.__dataclass_fields__:
            fields[f"fit_{name}"][slot] = getattr(fit, name)
        before = np.concatenate([readings[:1], readings[:-1]])
        one = {name: getattr(fit, name) for name in Forecaster.__dataclass_fields__}
        joint = joint_residual(readings, before, one, None)[:, None]
        means = block_means(joint)
        fields["signal_centre"][slot, -1] = means.mean()
        fields["signal_deviation"][slot, -1] = max(float(means.std()), 1e-6)
        spread = joint[1:].std(axis=0) * PRIOR
        for scale_ in self._scales("residual"):
            scale_.start(slot, spread)
        self._fill("residual", slot, means)
        self.warm.release(slot)

    def _fill(self, signal: str, slot: int, means: Array) -> None:
        """Take in the blocks that a reference was fitted on, and the scales' samples of them.

        No more at once than the ring looks back on.
        """
        ring, scales, one = self.rings[signal], self._scales(signal), np.array([slot])
        segment = self._fields["segment_start"][one]
        for first in range(0, len(means), STRIDE):
            part = means[first : first + STRIDE]
            low, count = np.array([first]), np.array([len(part)])
            ring.add(one, low, count, part[None])
            for scale in scales:
                scale.sample(ring, one, low, low + count, segment)
        self._fields["blocks"][slot] = len(means)
        for scale in scales:
            scale.update(one)

    def _scales(self, signal: str) -> list[Scale]:
        return [scale for scale in self.scales if scale.test.signal == signal]

    # Blocks -----------------------------------------------------------------------------------

    def _take(
        self, slots: IntArray, blocks: Blocks, fitted: bool, names: Mapping[int, str]
    ) -> list[tuple[int, Boundary]]:
        """Whole blocks of series whose level reference is there; if fitted, the residual's too."""
        here = blocks.counts > 0
        if not here.any():
            return []
        slots, counts = slots[here], blocks.counts[here]
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        features = self._features(slots, counts, blocks, fitted)
        found: list[tuple[int, Boundary]] = []
        done = np.zeros(len(slots), dtype=np.int64)
        while (left := np.flatnonzero(done < counts)).size:
            t = self._fields["blocks"][slots[left]]
            size = np.minimum(_to_edge(t), (counts - done)[left])
            rows = first[left] + done[left]
            found += self._piece(slots[left], rows, size, features, blocks, fitted, names)
            done[left] += size
        return found

    def _features(
        self, slots: IntArray, counts: IntArray, blocks: Blocks, fitted: bool
    ) -> dict[str, Array]:
        """Block means of every signal, (NB, F) each, and what river sees of them."""
        fields = self._fields
        single = len(slots) == 1
        per_row = None if single else np.repeat(slots, counts * BLOCK)
        at = slots[0] if single else per_row
        y = level(blocks.readings, fields["location"][at], fields["scale"][at])
        means = {"level": block_means(y)}
        if fitted:
            names = Forecaster.__dataclass_fields__
            fit = {n: fields[f"fit_{n}"][slots[0]] if single else fields[f"fit_{n}"] for n in names}
            joint = joint_residual(blocks.readings, blocks.before, fit, per_row)
            means["residual"] = block_means(joint[:, None])
        per_block = np.repeat(slots, counts)
        both = np.concatenate(list(means.values()), axis=1)
        n = both.shape[1]
        centred = both - fields["signal_centre"][per_block, :n]
        means["river"] = np.clip(centred / fields["signal_deviation"][per_block, :n], -CUT, CUT)
        return means

    def _piece(
        self,
        slots: IntArray,
        rows: IntArray,
        size: IntArray,
        features: Mapping[str, Array],
        blocks: Blocks,
        fitted: bool,
        names: Mapping[int, str],
    ) -> list[tuple[int, Boundary]]:
        """Blocks rows ... rows + size of each series: none crosses an edge, so sigma stands."""
        fields = self._fields
        now = fields["blocks"][slots].copy()
        most = int(size.max())
        index = np.minimum(rows[:, None] + np.arange(most), (rows + size - 1)[:, None])
        signals = ("level", "residual") if fitted else ("level",)
        for signal in signals:
            self.rings[signal].add(slots, now, size, features[signal][index])
        s, k = np.nonzero(np.arange(most) < size[:, None])
        fields["places"][slots[s], (now[s] + k) % fields["places"].shape[1]] = blocks.first[
            index[s, k]
        ]
        alarms = self._propose(slots, rows, size, now, features["river"])
        fields["blocks"][slots] = end = now + size
        found = []
        for i, crossing in self._scan(slots, now, end, alarms, signals):
            boundary = self._mark(int(slots[i]), crossing, alarms[i], int(now[i]), names)
            if boundary is not None:
                last = blocks.last[rows[i] + crossing.t - now[i] - 1]
                found.append((int(last[2]), self._at(boundary, last)))
        at_edge = slots[_to_edge(end - 1) == 1]
        if len(at_edge):
            for scale in self.scales:
                if scale.test.signal in signals:
                    scale.update(at_edge)
        return found

    def _propose(
        self, slots: IntArray, rows: IntArray, size: IntArray, now: IntArray, river: Array
    ) -> NDArray[np.int64]:
        """Feed river; (S, T, kinds) the block of each kind's last alarm, as of each block."""
        fields, most = self._fields, int(size.max())
        alarms = np.full((len(slots), most, len(self.settings.detectors)), NEVER)
        alarms[:, 0] = fields["alarms"][slots]
        for i, slot in enumerate(slots.tolist()):
            proposers = self.proposers[slot]
            if proposers is None:
                continue
            columns: list[Any] = river[rows[i] : rows[i] + size[i]].T.tolist()
            if len(columns) == self.channels:
                columns.append(None)
            for row, kind in proposers.update(columns):
                alarms[i, row, kind] = now[i] + row + 1
        np.maximum.accumulate(alarms, axis=1, out=alarms)
        fields["alarms"][slots] = alarms[:, -1]
        return alarms

    # Tests ------------------------------------------------------------------------------------

    def _scan(
        self,
        slots: IntArray,
        now: IntArray,
        end: IntArray,
        alarms: NDArray[np.int64],
        signals: tuple[str, ...],
    ) -> Iterator[tuple[int, Crossing]]:
        """Every confirmed crossing (index into slots), series by series in order of time."""
        fields = self._fields
        start, now = now, now.copy()
        pending = np.arange(len(slots))
        while pending.size:
            crossings = self._first_crossings(pending, slots, start, now, end, alarms, signals)
            upto = end[pending].copy()
            for j, i in enumerate(pending.tolist()):
                if i in crossings:
                    upto[j] = crossings[i].t
            for scale in self.scales:
                if scale.test.signal in signals:
                    which = slots[pending]
                    segment = fields["segment_start"][which]
                    ring = self.rings[scale.test.signal]
                    scale.sample(ring, which, now[pending], upto, segment)
            now[pending] = upto
            yield from crossings.items()
            pending = np.array(sorted(i for i in crossings if now[i] < end[i]), dtype=np.int64)

    def _first_crossings(
        self,
        pending: IntArray,
        slots: IntArray,
        start: IntArray,
        now: IntArray,
        end: IntArray,
        alarms: NDArray[np.int64],
        signals: tuple[str, ...],
    ) -> dict[int, Crossing]:
        """The earliest confirmed crossing of each pending series, if it has one."""
        candidates: dict[int, list[tuple[int, int, float, Array]]] = {}
        watch = self.settings.watch // BLOCK
        for number, scale in enumerate(self.scales):
            test = scale.test
            if test.signal not in signals:
                continue
            t, valid = self._grid(test, slots[pending], now[pending], end[pending])
            if not valid.any():
                continue
            last = np.take_along_axis(
                alarms[pending].max(axis=2),
                np.clip(t - start[pending][:, None] - 1, 0, alarms.shape[1] - 1),
                axis=1,
            )
            valid &= t - last <= watch
            if not valid.any():
                continue
            z = self._z(scale, slots[pending], t, valid)
            statistic = _statistic(z)
            crossed = valid & (statistic > self.thresholds[test.signal])
            for j, k in zip(*np.nonzero(crossed), strict=True):
                candidates.setdefault(int(pending[j]), []).append(
                    (int(t[j, k]), number, float(statistic[j, k]), z[j, k])
                )
        found = {}
        for i, list_ in candidates.items():
            for t_, number, value, z_ in sorted(list_, key=lambda c: c[:2]):
                if self._stands(int(slots[i]), number, t_, z_):
                    found[i] = Crossing(test=number, t=t_, z=z_, statistic=value)
                    break
        return found

    def _grid(
        self, test: Test, slots: IntArray, now: IntArray, end: IntArray
    ) -> tuple[IntArray, NDArray[np.bool_]]:
        """Blocks (S, K) at which a test is evaluated after `now`, and which of them count."""
        every = test.every
        first = (now // every + 1) * every
        most = max(0, int(((end - first) // every).max(initial=-1)) + 1)
        t = first[:, None] + np.arange(most) * every
        segment = self._fields["segment_start"][slots][:, None]
        valid = (t <= end[:, None]) & (t * BLOCK >= test.armed_from)
        return t, valid & (t - test.q - segment >= test.g_min // BLOCK)

    def _z(self, scale: Scale, slots: IntArray, t: IntArray, valid: NDArray[np.bool_]) -> Array:
        """|mean of the last m - mean of the segment before| in historical sigmas: (S, K, F).

        z = |d| / sqrt(max(sigma^2, w v_post) / m + max(sigma^2, w v_pre) / g), v the variance of
        the block means, w = 1.05^2 BLOCK (Welch's denominator, with sigma as its floor).
        """
        test, ring = scale.test, self.rings[scale.test.signal]
        segment = self._fields["segment_start"][slots][:, None]
        q = test.q
        t = np.where(valid, t, segment + q + 1)
        g = np.clip(t - q - segment, 1, test.g_max // BLOCK)
        at = slots[:, None]
        post, post2 = ring.between(at, t - q, t)
        pre, pre2 = ring.between(at, t - q - g, t - q)
        n = g[..., None]
        post, post2, pre, pre2 = post / q, post2 / q, pre / n, pre2 / n
        floor = (scale.sigma[slots] ** 2)[:, None]
        v_post = np.maximum((post2 - post * post) * WELCH, floor)
        v_pre = np.maximum((pre2 - pre * pre) * WELCH, floor)
        return np.asarray(np.abs(post - pre) / np.sqrt(v_post / test.m + v_pre / (n * BLOCK)))

    def _stands(self, slot: int, number: int, t: int, z: Array) -> bool:
        """Leave one out: without each feature's largest block the change must still be there."""
        test = TESTS[number]
        ring, q = self.rings[test.signal], test.q
        segment = int(self._fields["segment_start"][slot])
        g = min(t - q - segment, test.g_max // BLOCK)
        post = ring.blocks(slot, t - q, t)
        before = ring.blocks(slot, t - q - g, t - q)
        difference = post - before.sum(axis=0) / g
        total = difference.sum(axis=0)
        sign = np.sign(total)
        rest = np.maximum(total * sign - (difference * sign).max(axis=0), 0.0) / (q - 1)
        share = rest / np.maximum(np.abs(total) / q, 1e-300) * np.sqrt((q - 1) / q)
        least = LEAVE_ONE_OUT * self.thresholds[test.signal]
        return bool(_statistic((z * share)[None])[0] >= least)

    # Boundaries -------------------------------------------------------------------------------

    def _mark(
        self,
        slot: int,
        crossing: Crossing,
        alarms: NDArray[np.int64],
        start: int,
        names: Mapping[int, str],
    ) -> Boundary | None:
        """Move the reference; a boundary, unless the last transition has not settled yet."""
        fields, test, t = self._fields, TESTS[crossing.test], crossing.t
        where = self._locate(slot, crossing)
        settled = (t - fields["crossed"][slot]) * BLOCK > self.settings.settle_after
        fields["crossed"][slot] = t
        before = int(fields["segment_start"][slot])
        fields["segment_start"][slot] = max(where, t - test.q - 2)
        if not settled:
            return None
        where = max(where, t - LOOK_BACK // BLOCK, before + 1)
        fields["segment"][slot] += 1
        place = fields["places"][slot, where % fields["places"].shape[1]]
        watch = self.settings.watch // BLOCK
        fired = t - alarms[t - start - 1] <= watch
        return Boundary(
            series=names[slot],
            segment=int(fields["segment"][slot]),
            boundary_row=where * BLOCK,
            detected_row=t * BLOCK - 1,
            boundary_offset=int(place[0]),
            detected_offset=-1,
            boundary_time=int(place[1]),
            detected_time=-1,
            signal=test.signal,
            statistic=crossing.statistic,
            threshold=self.thresholds[test.signal],
            detectors=tuple(
                sorted(n for n, f in zip(self.settings.detectors, fired, strict=True) if f)
            ),
            sensors=self._moved(slot, where, t),
        )

    @staticmethod
    def _at(boundary: Boundary, last: NDArray[np.int64]) -> Boundary:
        """The boundary with the place of the reading at which it was detected."""
        return replace(boundary, detected_offset=int(last[0]), detected_time=int(last[1]))

    def _locate(self, slot: int, crossing: Crossing) -> int:
        """Block at which the segment before is best told from what follows.

        argmax_k  k (n - k) / n * sum over features of the squared difference of means, in sigmas.
        """
        test, t = TESTS[crossing.test], crossing.t
        segment = int(self._fields["segment_start"][slot])
        low = max(segment, t - test.q - test.g_max // BLOCK)
        top = np.argsort(-crossing.z)[:LOCATORS]
        sigma = self.scales[crossing.test].sigma[slot][top]
        x = self.rings[test.signal].blocks(slot, low, t)[:, top] / sigma
        n = len(x)
        k = np.arange(2, n - 1)
        sums = np.cumsum(x, axis=0)
        left = sums[k - 1] / k[:, None]
        right = (sums[-1] - sums[k - 1]) / (n - k)[:, None]
        gain = k * (n - k) / n * ((left - right) ** 2).sum(axis=1)
        return low + int(k[gain.argmax()])

    def _moved(self, slot: int, where: int, t: int) -> tuple[tuple[int, float], ...]:
        """The three sensors whose level moved most, in robust standard deviations."""
        ring = self.rings["level"]
        after = ring.blocks(slot, max(where, t - AROUND), t).mean(axis=0)
        before = ring.blocks(slot, max(where - AROUND, 0), where).mean(axis=0)
        change = after - before
        top = np.argsort(-np.abs(change), kind="stable")[:3]
        return tuple((int(c), round(float(change[c]), 3)) for c in top)

    # State ------------------------------------------------------------------------------------

    def _empty(self, slots: int) -> dict[str, NDArray[Any]]:
        """Per-series fields for `slots` series."""
        d = self.channels
        places = self.rings["residual"].size
        fit = reference.empty(slots, d)
        return {
            "rows": np.zeros(slots, dtype=np.int64),
            "blocks": np.zeros(slots, dtype=np.int64),
            "segment": np.zeros(slots, dtype=np.int64),
            "segment_start": np.zeros(slots, dtype=np.int64),
            "crossed": np.full(slots, NEVER, dtype=np.int64),
            "alarms": np.full((slots, len(self.settings.detectors)), NEVER, dtype=np.int64),
            "location": np.zeros((slots, d)),
            "scale": np.ones((slots, d)),
            "signal_centre": np.zeros((slots, d + 1)),
            "signal_deviation": np.ones((slots, d + 1)),
            "places": np.zeros((slots, places, 2), dtype=np.int64),
            **{f"fit_{name}": array for name, array in fit.items()},
        }

    def _grow(self, slots: int) -> None:
        have = len(self._fields["rows"])
        if slots <= have:
            return
        room = max(slots, 2 * have)
        more = self._empty(room - have)
        self._fields = {n: np.concatenate([a, more[n]]) for n, a in self._fields.items()}
        self.blocker.grow(room)
        for ring in self.rings.values():
            ring.grow(room)
        for scale in self.scales:
            scale.grow(room)
        self.proposers += [None] * (room - have)

    def _remember(self, slot: int, places: IntArray) -> None:
        size = self._fields["places"].shape[1]
        kept = np.arange(max(0, len(places) - size), len(places))
        self._fields["places"][slot, kept % size] = places[kept]

    def state(self) -> dict[str, NDArray[Any]]:
        """Arrays that `restore` goes on from; equal states, equal arrays."""
        used = int(np.flatnonzero(self._fields["rows"]).max(initial=-1)) + 1
        state = {f"field.{n}": a[:used] for n, a in self._fields.items()}
        state |= {f"ring.{s}": ring.sums[:used] for s, ring in self.rings.items()}
        for k, scale in enumerate(self.scales):
            state |= {f"scale.{k}.{n}": a for n, a in scale.state(used).items()}
        state |= {f"carry.{n}": a for n, a in self.blocker.state(used).items()}
        state |= self.warm.state(self._fields["rows"][:used])
        state["river"] = detectors.dump(self.proposers[:used])
        return state

    @classmethod
    def restore(
        cls, state: Mapping[str, NDArray[Any]], channels: int, settings: Detect
    ) -> BoundaryDetector:
        """Go on from `state()`; DetectorStateError if the river part is not river's."""
        made = cls(channels, settings)
        made._fields = {n: np.array(state[f"field.{n}"]) for n in made._fields}
        for signal, ring in made.rings.items():
            ring.sums = np.array(state[f"ring.{signal}"])
        for k, scale in enumerate(made.scales):
            scale.restore(_under(state, f"scale.{k}."))
        made.blocker.restore(_under(state, "carry."))
        made.warm.restore(state)
        made.proposers = list(detectors.load(state["river"], settings.detectors, channels + 1))
        return made


def _statistic(z: Array) -> Array:
    """Root mean square of the LARGEST largest z: (..., F) -> (...)."""
    k = min(LARGEST, z.shape[-1])
    top = np.sort(z, axis=-1)[..., -k:]
    total = top[..., 0] ** 2
    for j in range(1, k):
        total = total + top[..., j] ** 2
    return np.asarray(np.sqrt(total / k))


def _to_edge(t: IntArray) -> IntArray:
    """Blocks from t to the next one at which sigma may change."""
    stride = np.where(t < YOUNG, YOUNG_STRIDE, STRIDE)
    return np.asarray(stride - t % stride)


def _ranges(first: IntArray, counts: IntArray) -> IntArray:
    """first[0], first[0] + 1, ... (counts[0] of them), first[1], ..."""
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(np.repeat(first, counts) + rank)


def _under(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {n[len(prefix) :]: a for n, a in state.items() if n.startswith(prefix)}
