"""A recording in, what the line would have made of it out: the same stages, without Kafka.

The stream's own steps run over the recording; the trainer's own code works its requests off between
two polls, in this process, so that the same file and settings give the same answer. Everything is
kept in a database that is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from dataclasses import replace as with_
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

import pipeline
from pipeline.config import LARGEST, Database, Retrain, Settings
from pipeline.detect.detectors import check
from pipeline.detect.explain import explain, sensor_event
from pipeline.detect.tasks import told
from pipeline.errors import SettingsError, SourceError
from pipeline.ingest.memory import MemorySink, MemorySource
from pipeline.ingest.recording import SECOND, Chunk, Columns, Recording
from pipeline.model.kinds import check as check_model
from pipeline.records import Boundary, FloatArray, IntArray, SensorEvent, Settled
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from pipeline.run import comparison
from pipeline.run import report as reports
from pipeline.run.backtest_report import (
    Baseline,
    Calibration,
    Detection,
    DetectionCost,
    Event,
    Found,
    FoundTask,
    Moved,
    Packages,
    Rates,
    Report,
    Retention,
    TaskSegment,
    TrainedVersion,
)
from pipeline.run.baselines import BASELINES, compare
from pipeline.run.detection_cost import TRUE_BOUNDARIES, detection_cost
from pipeline.run.messages import iso
from pipeline.run.progress import Show, silent
from pipeline.run.stream import Streamer
from pipeline.run.trainer import Trainer
from pipeline.run.truth import Kind, Truth, detection, recurrence_accuracy
from pipeline.serve.lineage import Lineage
from pipeline.serve.times import parse_time

TOPIC = "backtest"
#: Readings in a poll, and cells at most; with training so few readings that a version comes soon
#: after what asked for it.
POLL, POLL_CELLS, POLL_TRAINING = 20_000, 400_000, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to run on a recording, and how."""

    columns: Columns = field(default_factory=Columns)
    truth_kind: Kind = "regimes"
    #: Readings after a true change in which an alarm is a hit.
    tolerance: int = 240
    #: None: learn.seed.
    seed: int | None = None
    train: bool = True
    #: Baselines to train beside the champion: their names.
    baselines: Collection[str] = (*BASELINES, TRUE_BOUNDARIES)
    #: Whether the readings are kept, to be drawn.
    keep: bool = False


@dataclass(slots=True)
class Tape:
    """The readings of one series, as they were taken."""

    times: list[IntArray] = field(default_factory=list)
    values: list[FloatArray] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer, and what a page about it shows beside."""

    report: Report
    tapes: dict[str, Tape]
    truth: Truth | None
    has_times: bool


def backtest(path: Path, settings: Settings, options: Options, *, show: Show = silent) -> Result:
    """Run the stages over a recording.

    Raises
    ------
    SourceError
        The recording cannot be read, or lacks a column, or has a cell that is no number.
    SettingsError
        A setting or option is out of range.
    """
    started = time.perf_counter()
    check(settings.detect.detectors, settings.detect.error_channel)
    stream, label = settings.stream, options.columns.label or settings.stream.label
    check_model(settings.score, len(stream.channels), label)
    columns = with_(
        options.columns,
        sensors=stream.channels,
        time_unit=stream.time_unit,
        label=label or None,
        classes=settings.score.classes,
    )
    recording = Recording(path, columns, topic=TOPIC)
    settings = _settings(settings, recording, options)
    truth = Truth(columns.truth, options.truth_kind) if columns.truth else None
    with _scratch(settings) as settings:
        run = _Run(settings, recording, options, truth)
        try:
            run.whole(show)
            answer = run.report(started, show)
        finally:
            run.close()
    return Result(report=answer, tapes=run.tapes, truth=truth, has_times=columns.time is not None)


class _Run:
    """One backtest: the stream, the trainer and what they left."""

    def __init__(
        self, settings: Settings, recording: Recording, options: Options, truth: Truth | None
    ) -> None:
        import torch

        torch.set_num_threads(settings.score.threads)
        self.settings = settings
        self.recording = recording
        self.options = options
        self.truth = truth
        self.rows: dict[str, int] = {}
        self.done = 0
        self.boundaries: list[Boundary] = []
        self.events: list[SensorEvent] = []
        self.ends: dict[tuple[str, int], Settled] = {}
        self.tapes: dict[str, Tape] = {}
        self.training_s = 0.0
        self.stream_s = 0.0
        self.polls = 0
        #: Time is what has been read, a second a row: nothing depends on the machine's clock.
        self.registry = SqlRegistry(settings.database, clock=lambda: self.done * SECOND)
        self.streamer = Streamer(
            settings,
            MemorySource({}),
            MemorySink(),
            self.registry,
            owner="backtest",
            clock=lambda: float(self.polls),
        )
        self.trainer = Trainer(settings, self.registry, owner="backtest")

    def close(self) -> None:
        """Give the connections back."""
        self.registry.close()

    def whole(self, show: Show) -> None:
        """The recording from end to end."""
        started = time.perf_counter()
        self.streamer.assigned([0])
        for chunk in self.recording.chunks(self._size()):
            self._poll(chunk)
            show(self.done, max(self.recording.rows, self.done))
        self.stream_s = time.perf_counter() - started - self.training_s

    def _size(self) -> int:
        """Readings in a poll."""
        size = max(1, min(POLL, POLL_CELLS // len(self.recording.sensors)))
        return min(size, POLL_TRAINING) if self.options.train else size

    def _poll(self, chunk: Chunk) -> None:
        batch = chunk.batch
        for name, count in zip(batch.series, np.diff(batch.starts).tolist(), strict=True):
            self.rows[name] = self.rows.get(name, 0) + count
        if len(self.rows) > (most := self.settings.stream.max_series):
            raise SourceError(f"{self.recording.path}: more than {most} series (stream.max_series)")
        if self.truth is not None:
            self.truth.add(chunk)
        if self.options.keep:
            self._keep(chunk)
        self.polls += 1
        step = self.streamer.take(batch)
        self.boundaries += step.boundaries
        self.events += step.events
        self.ends |= {(end.series, end.segment): end for end in step.settled}
        self.done = batch.next_offset
        if not self.options.train:  # nobody would work on them
            owned = self.streamer.owned[0]
            owned.requests, owned.artifacts = [], {}
        if step.boundaries or step.prints or step.requests:
            self.streamer.checkpoint()
            if self.options.train:
                self._train()

    def _train(self) -> None:
        """What a trainer would do by now."""
        started = time.perf_counter()
        while self.trainer.work_once():
            pass
        self.training_s += time.perf_counter() - started

    def _keep(self, chunk: Chunk) -> None:
        batch = chunk.batch
        for name, first, end in zip(batch.series, batch.starts, batch.starts[1:], strict=False):
            tape = self.tapes.setdefault(name, Tape())
            tape.times.append(batch.times[first:end])
            tape.values.append(batch.values[first:end])

    # What came of it --------------------------------------------------------------------------

    def report(self, started: float, show: Show) -> Report:
        """The answer; the truth enters here."""
        lineage = Lineage(self.settings.database)
        try:
            named = lineage.segments(TOPIC)
            history = lineage.history(TOPIC)
            matrix = lineage.matrix(TOPIC)
        finally:
            lineage.close()
        lines = self._lines(history, show)
        kept = reports.retention(matrix, comparison.first_row(lines)) if matrix else None
        found = self._found(named)
        return Report(
            file=self.recording.path.name,
            rows=self.done,
            sensors=self.recording.sensors,
            series=self.rows,
            boundaries=found,
            calibration=self._calibration(),
            events=tuple(self._event(event) for event in self.events),
            tasks=self._tasks(named),
            versions=tuple(_trained(version) for version in history),
            retention=msgspec.convert(kept, Retention) if kept else None,
            baselines=lines,
            detection=self._detection(named),
            detection_cost=self._detection_cost(show),
            rates=self._rates(started),
            settings=_told(self.settings),
            seed=self.settings.learn.seed,
            versions_of=Packages(
                tidemark=pipeline.__version__,
                river=version("river"),
                torch=version("torch"),
                numpy=np.__version__,
            ),
        )

    def _event(self, event: SensorEvent) -> Event:
        sensor = self.recording.sensors[event.channel]
        return Event(
            series=event.series,
            row=event.row,
            kind=event.kind,
            sensor=sensor,
            text=sensor_event(event, sensor),
        )

    def _found(self, named: Sequence[Mapping[str, Any]]) -> tuple[Found, ...]:
        tasks = {(entry["series"], entry["segment"]): entry for entry in named}
        timed = self.recording.columns.time is not None
        return tuple(
            _told_boundary(
                b, self.recording.sensors, tasks.get(which), self.ends.get(which), timed=timed
            )
            for which, b in (((b.series, b.segment), b) for b in self.boundaries)
        )

    def _calibration(self) -> Calibration:
        state = self.streamer.owned[0].state
        expected = {} if state is None else state.expected_false_per_million()
        return Calibration(
            budget=self.settings.detect.false_boundaries_per_million,
            expected={name: round(n, 3) for name, n in expected.items()},
        )

    def _segments(self) -> dict[tuple[str, int], tuple[int, int]]:
        """(series, segment) -> its rows, half-open."""
        firsts = {name: [0] for name in self.rows}
        for boundary in self.boundaries:
            firsts[boundary.series].append(boundary.boundary_row)
        return {
            (name, k): (first, end)
            for name, first_rows in firsts.items()
            for k, (first, end) in enumerate(
                zip(first_rows, [*first_rows[1:], self.rows[name]], strict=True)
            )
        }

    def _tasks(self, named: Sequence[Mapping[str, Any]]) -> tuple[FoundTask, ...]:
        rows = self._segments()
        found: dict[int, list[TaskSegment]] = {}
        for entry in named:
            first, end = rows[entry["series"], entry["segment"]]
            found.setdefault(entry["task"], []).append(
                TaskSegment(series=entry["series"], first_row=first, end_row=end)
            )
        return tuple(
            FoundTask(
                task=task,
                readings=sum(s.end_row - s.first_row for s in segments),
                segments=tuple(segments),
            )
            for task, segments in sorted(found.items())
        )

    def _detection(self, named: Sequence[Mapping[str, Any]]) -> Detection | None:
        if self.truth is None:
            return None
        score = detection(
            self.truth,
            self.boundaries,
            self.rows,
            tolerance=self.options.tolerance,
            warm_up=self.settings.detect.warm_up,
        )
        right = recurrence_accuracy(self.truth, named, self._segments())
        return replace(score, recurrence_accuracy=right)

    def _detection_cost(self, show: Show) -> DetectionCost | None:
        wanted = self.options.train and TRUE_BOUNDARIES in self.options.baselines
        if self.truth is None or not wanted:
            return None
        return detection_cost(
            self.settings, self.recording, self.truth, self.boundaries, self._size(), show
        )

    def _lines(self, history: Sequence[Mapping[str, Any]], show: Show) -> dict[str, Baseline]:
        stream = self.streamer.stream.id
        numbers = {task.id: task.number for task in self.registry.tasks(stream)}
        lines = compare(self.settings, self.registry, stream, self.options.baselines, show)
        rows = [at // SECOND for at in lines.done] if lines else ()
        return comparison.summaries(lines, numbers, reports.trained_s(history), rows)

    def _rates(self, started: float) -> Rates:
        state = self.streamer.owned[0].state
        detect_s = state.detect_s if state is not None else 0.0
        return Rates(
            seconds=round(time.perf_counter() - started, 3),
            readings_per_s=round(self.done / self.stream_s, 1),
            detect_us_per_reading=round(detect_s / self.done * 1e6, 3),
        )


def _told_boundary(
    boundary: Boundary,
    sensors: Sequence[str],
    named: Mapping[str, Any] | None,
    end: Settled | None,
    *,
    timed: bool,
) -> Found:
    began = iso(boundary.boundary_time) if timed else None
    return Found(
        series=boundary.series,
        segment=boundary.segment,
        boundary_row=boundary.boundary_row,
        detected_row=boundary.detected_row,
        boundary_at=began,
        detected_at=iso(boundary.detected_time) if timed else None,
        end_row=end.end_row if end else None,
        end_at=iso(end.end_time) if end and timed else None,
        task=named["task"] if named else None,
        recurrence=named["recurrence"] if named else None,
        distance=named["distance"] if named else None,
        detectors=boundary.detectors,
        signal=boundary.signal,
        statistic=boundary.statistic,
        threshold=boundary.threshold,
        effect=round(max((change.effect for change in boundary.sensors), default=0.0), 4),
        sensors=tuple(
            Moved(
                name=sensors[change.channel],
                other=None if change.other is None else sensors[change.other],
                kind=change.kind,
                change=change.change,
                before=change.before,
                after=change.after,
            )
            for change in boundary.sensors
        ),
        text=_sentences(boundary, sensors, named, began),
    )


def _sentences(
    boundary: Boundary,
    sensors: Sequence[str],
    named: Mapping[str, Any] | None,
    began: str | None,
) -> str:
    """What happened, and what regime it led to."""
    at = f"{began[:19].replace('T', ' ')} UTC" if began else None
    text = explain(boundary, sensors, at)
    if named is None:
        return text
    said = named["task_kind"], named["task_name"]
    return f"{text} {told(named['task'], named['recurrence'], named['distance'], *said)}"


def _trained(entry: Mapping[str, Any]) -> TrainedVersion:
    return TrainedVersion(
        version=entry["version"],
        trigger=entry["reason"],
        row=parse_time(entry["created"]) // SECOND,
        status=entry["fate"],
        decision=entry["decision"],
        seconds=round(entry["metrics"].get("seconds", 0.0), 3),
    )


@contextmanager
def _scratch(settings: Settings) -> Iterator[Settings]:
    """The settings with a database of their own, at head, for as long as it is needed."""
    with TemporaryDirectory(prefix="tidemark-backtest-") as directory:
        database = Database(url=f"sqlite:///{Path(directory) / 'tidemark.db'}")
        upgrade(database)
        yield replace(settings, database=database)


def _settings(settings: Settings, recording: Recording, options: Options) -> Settings:
    """As given, but for what the recording decides, and what would depend on the machine."""
    if (d := len(recording.sensors)) > (most := settings.stream.max_channels):
        raise SourceError(f"{recording.path}: {d} sensors, more than {most} (stream.max_channels)")
    if options.tolerance < 1:
        raise SettingsError(f"a tolerance of {options.tolerance} rows is less than 1")
    seed = settings.learn.seed if options.seed is None else options.seed
    return replace(
        settings,
        stream=replace(
            settings.stream,
            topic=TOPIC,
            series="key",
            label=recording.columns.label or "",
            channels=recording.sensors,
            publish_scores=False,
        ),
        learn=replace(settings.learn, seed=seed, max_seconds=float(LARGEST)),
        retrain=Retrain(),  # by the clock on the wall
        run=replace(settings.run, checkpoint_interval_s=float(LARGEST)),
    )


def _told(settings: Settings) -> dict[str, Any]:
    """The settings that the answer depends on."""
    told = {
        name: msgspec.to_builtins(getattr(settings, name))
        for name in ("score", "detect", "learn", "gate")
    }
    told["learn"].pop("max_seconds")  # not limited here
    return told
