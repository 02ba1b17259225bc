"""Poll, score, detect, mark, publish, checkpoint: the process that follows a topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import structlog

from pipeline.config import Settings
from pipeline.detect.prints import Print
from pipeline.errors import (
    Away,
    MadeAnew,
    RegistryError,
    StaleEpoch,
    TransactionLost,
    VersionConflict,
)
from pipeline.ingest.decode import Decoder
from pipeline.ingest.series import admit
from pipeline.ports import Outlet, Sink, Source, Transactions
from pipeline.records import (
    Batch,
    Boundary,
    DeadLetter,
    FloatArray,
    Gap,
    Named,
    Records,
    Request,
    SensorEvent,
    Settled,
    Version,
)
from pipeline.register.checkpoints import Checkpoint, State, paged
from pipeline.register.rollback import WATCH
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.run.dead_letters import DeadLetters
from pipeline.run.live import LiveChampion
from pipeline.run.messages import (
    boundary_message,
    event_message,
    gap_message,
    name_message,
    rollback_message,
    score_messages,
    settled_message,
    task_event,
)
from pipeline.run.outbox import Outbox, cut, let_out, mark, opened
from pipeline.run.partition import Partition, Step
from pipeline.run.timeline import Timeline
from pipeline.run.watch import Left, Watch
from pipeline.telemetry import Metrics

log = structlog.get_logger()

#: Readings of a rise after which a training is asked for, where nothing is rolled back.
FALL_AFTER = 500
#: How often the lag is taken, in seconds.
LAG_INTERVAL_S = 5.0
#: How long results wait for a transaction that has more of them, in seconds.
TRANSACTION_INTERVAL_S = 0.5


@dataclass(slots=True)
class Owned:
    """A partition that this process owns, and what its next checkpoint will write."""

    epoch: int
    next_offset: int | None
    #: The next offset of the last checkpoint; None: nothing is kept yet.
    kept: int | None
    #: The last checkpoint, until the number of channels is known.
    saved: Checkpoint | None
    state: Partition | None = None
    dirty: bool = False
    #: Of the champion; it begins anew with the process, and is in no checkpoint.
    watch: Watch = field(kw_only=True)
    timeline: Timeline = field(kw_only=True)
    #: The same, for scores that call for a training.
    fall: Watch = field(kw_only=True)
    #: Of results that go out in transactions; None: they go out at once.
    outbox: Outbox | None = None
    boundaries: list[Boundary] = field(default_factory=list)
    events: list[SensorEvent] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    prints: list[Print] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    artifacts: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    #: Taken in since the last checkpoint.
    readings: int = 0
    #: (version id, first offset, end offset), half-open, in order.
    scored: list[tuple[int, int, int]] = field(default_factory=list)


class Streamer:
    """Follows one topic; the `Owner` of the partitions that the consumer group gives it.

    Parameters
    ----------
    source, sink, registry
        Where records come from, where results go, where state is kept. Closed by the caller.
    transactions
        How results go out instead if `kafka.exactly_once`; names and roll-backs, which SQL decides,
        go by the sink all the same.
    owner
        Name of this process, for the checkpoints it writes.
    alive
        Called between the partitions of a poll and of a checkpoint: both may take long.
    clock
        Monotonic seconds, for intervals only; nothing that is kept depends on it.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        sink: Sink,
        registry: SqlRegistry,
        *,
        owner: str,
        transactions: Transactions | None = None,
        metrics: Metrics | None = None,
        alive: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.source = source
        self.sink = sink
        self.registry = registry
        self.owner = owner
        self.transactions = transactions
        self.alive = alive
        self.clock = clock
        self.topic = settings.stream.topic
        self.metrics = metrics or Metrics(self.topic)
        self.stream: Stream = registry.open_stream(self.topic, settings.stream.channels)
        self.decoder = self._decoder()
        self.owned: dict[int, Owned] = {}
        self.live = LiveChampion(registry, self.stream.id, clock, settings.score.factory)
        self.dead_letters = DeadLetters(self.topic, sink, self.metrics)
        #: The champion because of whose scores a training was asked for.
        self._asked_for: int | None = None
        self._lag_due = self._transaction_due = 0.0
        self._checkpoint_due = clock() + settings.run.checkpoint_interval_s

    # The owner's side -------------------------------------------------------------------------

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Take the partitions over: a new epoch each, and go on from its checkpoint.

        What that one named is said again: the former owner may have come no further.
        """
        go_on: dict[int, int] = {}
        transactions = self.transactions
        done = transactions.done(partitions) if transactions is not None else {}
        for number in partitions:
            checkpoint = self.registry.acquire(self.stream.id, number, self.owner)
            self.owned[number] = Owned(
                epoch=checkpoint.epoch,
                next_offset=checkpoint.next_offset,
                kept=checkpoint.next_offset,
                saved=checkpoint,
                watch=Watch(self.settings.gate.rollback_after),
                timeline=self._timeline(number),
                fall=self._fall(),
                outbox=opened(done.get(number), self.stream.created) if transactions else None,
            )
            segments = self.registry.newest_named(self.stream.id, number)
            self.owned[number].watch.named(segments)
            self.owned[number].fall.named(segments)
            if checkpoint.next_offset is not None:
                go_on[number] = checkpoint.next_offset
            log.info(
                "partition_assigned",
                partition=number,
                epoch=checkpoint.epoch,
                next_offset=checkpoint.next_offset,
            )
            self._publish_names(number, self.registry.last_named(self.stream.id, number))
        self.live.refresh(now=True)  # the former owner may have scored with a newer champion
        return go_on

    def revoked(self, partitions: Sequence[int]) -> None:
        """Write a last checkpoint and give the partitions up.

        If it cannot be written now, their next owner goes on from the one before.
        """
        try:
            self.checkpoint(partitions)
        except (Away, StaleEpoch, TransactionLost) as exc:
            self._leave_out(partitions, exc)
        self._release(partitions)

    def _leave_out(self, partitions: Iterable[int], exc: Exception) -> None:
        """Say from where on what was taken will be read again: nothing of it was kept."""
        again = {n: self.owned[n].kept for n in partitions if n in self.owned}
        log.warning("last_checkpoint_left_out", read_again_from=again, reason=str(exc))

    def lost(self, partitions: Sequence[int]) -> None:
        """Forget the partitions and write nothing: somebody else has them."""
        if gone := self._release(partitions):
            log.warning("partitions_lost", partitions=gone)

    def skipped(self, partition: int, gap: Gap) -> None:
        """Go on behind records that were lost; detectors go on as if none had been sent."""
        owned = self.owned.get(partition)
        if owned is None:
            return
        if owned.next_offset is not None:
            gap = replace(gap, first_offset=min(gap.first_offset, owned.next_offset))
        log.error("records_lost", partition=partition, **asdict(gap))
        if owned.outbox is not None:
            owned.outbox.reach(gap.end_offset)
        key, value = gap_message(self.topic, partition, gap)
        self._outlet(partition).send(f"{self.topic}.events", key=key, value=value)
        owned.gaps.append(gap)
        owned.next_offset, owned.dirty = gap.end_offset, True
        self.checkpoint([partition])

    def _release(self, partitions: Sequence[int]) -> list[int]:
        """Forget the partitions; those that were owned."""
        gone = [number for number in partitions if self.owned.pop(number, None) is not None]
        for number in partitions:
            self.metrics.forget_lag(number)
        if gone:
            log.info("partitions_released", partitions=gone)
        return gone

    # The loop ---------------------------------------------------------------------------------

    def run(self, stop: Callable[[], bool], ready: Callable[[], None] = lambda: None) -> None:
        """Follow the topic until `stop()`; a last checkpoint on the way out.

        ready: called after each poll with a partition of our own.

        Raises
        ------
        SourceError
            A topic for results is not there, or the topic is not the one that was followed before;
            no partition has been asked for.
        """
        self.sink.require(self.settings.stream.result_topics)
        starts = self.source.starts()  # asks the broker, and so learns the topic's id
        self.registry.follow(self.stream, self.source.topic_id(), starts)
        self.source.subscribe(self)
        try:
            while not stop():
                self._go_on(ready)
        except Away as exc:
            if not stop():
                raise
            self._leave_out(self.owned, exc)  # in mid-poll: half of a step is not to be kept
        else:
            self.revoked(list(self.owned))

    def _go_on(self, ready: Callable[[], None]) -> None:
        try:
            self.poll_once()
            if self.owned:
                ready()
        except (StaleEpoch, TransactionLost) as exc:
            # the group thinks otherwise, or has not told us yet; or what is out has to be asked
            log.warning("rejoining", reason=str(exc))
            self._release(list(self.owned))
            self.source.rejoin()

    def poll_once(self) -> int:
        """Take one poll through the stages; the number of readings.

        1. Poll raw records. Nothing is promised yet.
        2. Decode into one batch a partition; bad records become dead letters.
        3. Make windows and score all of them in one pass of the champion.
        4. Detect: signals, river, confirm, locate.
        5. Stage the open segments' readings; a closed segment is offered to the reservoir.
        6. Publish scores, boundaries, ends of transitions, dead letters: at once, or kept for one
           Kafka transaction with how far they go, every TRANSACTION_INTERVAL_S and before 7.
        7. One SQL transaction a partition: boundaries, their ends, requests, artifacts, scored
           ranges, state and next offset, fenced by the epoch. A crash before this replays from the
           last one. What it named is published after it.
        8. Commit the offsets, for lag tools.
        """
        polled = self.source.poll(self.settings.run.poll_timeout_s)  # 1
        self.live.refresh()
        readings, steps = 0, []
        for part in self._cut(polled):
            batches = self._decode(part)  # 2
            steps += self._take(batches)  # 3 to 6
            readings += sum(map(len, batches))
        marked = any(s.boundaries or s.settled or s.events or s.prints or s.requests for s in steps)
        if marked or self.clock() >= self._checkpoint_due:
            self.checkpoint()  # 7, 8
        elif self.transactions is not None and self.clock() >= self._transaction_due:
            self._let_out()
        self._take_lag()
        return readings

    def take(self, batch: Batch) -> Step:
        """Steps 3 to 6 for a batch of an assigned partition that needs no decoding.

        Steps 7 and 8 are `checkpoint`, whenever the caller likes.
        """
        self.live.refresh()
        self._reach(batch.partition, int(batch.offsets.min()), batch.next_offset)
        return self._take([batch])[0]

    def _take(self, batches: Sequence[Batch]) -> list[Step]:
        """Steps 3 to 6 for the batches of one poll."""
        steps = [self._advance(batch) for batch in batches]  # 3 (windows), 4, 5
        scores = self.live.score(steps)  # 3
        self._publish(batches, steps, scores)  # 6
        for i, batch in enumerate(batches):
            self.owned[batch.partition].timeline.add(batch, scores[i] if scores else None)
        for part in scores:
            self.metrics.score(part)
        if scores:
            self._watch(batches, steps, scores)
        return steps

    def _watch(
        self, batches: Sequence[Batch], steps: Sequence[Step], scores: Sequence[FloatArray]
    ) -> None:
        """Take the champion's promotion back if it has left what the gate saw of it; ask for a
        training if it scores worse by so much that one is wanted."""
        version = self.live.version
        if version is None:
            return
        found, fallen = [], []
        for batch, step, part in zip(batches, steps, scores, strict=True):
            seen = batch.series, batch.starts, part, step.boundaries, step.settled
            watch, fall = self.owned[batch.partition].watch, self.owned[batch.partition].fall
            watch.follow(version.id, self.live.expected, on_trial=self.live.on_trial)
            fall.follow(version.id, self.live.expected, on_trial=True)
            found += watch.update(*seen)
            fallen += fall.update(*seen)
        if fallen and self._asked_for != version.id:
            self._ask(version, max(fallen, key=lambda left: left.readings))
        if found:
            self._roll_back(version, max(found, key=lambda left: left.readings))

    def _fall(self) -> Watch:
        """A watch for the rise of `retrain.on_metric_fall`; of nothing, if that is 0."""
        share = self.settings.retrain.on_metric_fall
        after = self.settings.gate.rollback_after or FALL_AFTER
        return Watch(after if share else 0, spreads=0.0, least_rise=share)

    def _ask(self, champion: Version, left: Left) -> None:
        """Ask for a training once; after a restart the registry knows."""
        self._asked_for = champion.id
        number = self.registry.submit_metric_fall(champion, str(left))
        if number is not None:
            log.warning("requested", request=number, reason="metric", because=str(left))

    def _roll_back(self, version: Version, left: Left) -> None:
        try:
            back = self.registry.roll_back(
                self.stream.id, leave=version, actor=WATCH, reason=str(left)
            )
        except VersionConflict as exc:  # another process or a person was quicker
            log.info("roll_back_refused", version=version.number, reason=str(exc))
        else:
            log.warning("rolled_back", version=back.version, to=back.to, reason=back.reason)
            key, value = rollback_message(self.topic, back)
            self.sink.send(f"{self.topic}.events", key=key, value=value)
        self.live.refresh(now=True)

    def checkpoint(self, partitions: Iterable[int] | None = None) -> None:
        """Write what the owned partitions have become, then commit their offsets.

        Raises
        ------
        StaleEpoch
            Another process owns a partition now; nothing of it was written.
        """
        self._checkpoint_due = self.clock() + self.settings.run.checkpoint_interval_s
        wanted = self.owned if partitions is None else partitions
        dirty = {n: self.owned[n] for n in wanted if n in self.owned and self.owned[n].dirty}
        if not dirty:
            return
        self._let_out()
        started = self.clock()
        for number, owned in dirty.items():
            self.alive()
            if self.owned.get(number) is owned:  # not lost while something was away
                self._publish_names(number, self._save(number, owned))
        self.metrics.checkpoint_seconds.observe(self.clock() - started)
        if self.transactions is None:  # else they are in the transaction
            self.source.commit({n: o.next_offset for n, o in dirty.items() if o.next_offset})
        self.dead_letters.report()

    def _let_out(self) -> None:
        """Wait until what was published is kept; in transactions, let it out, all or nothing.

        Raises
        ------
        TransactionLost
            It is not out, or nobody knows.
        """
        self.sink.flush()
        if self.transactions is None:
            return
        self._transaction_due = self.clock() + TRANSACTION_INTERVAL_S
        boxes = {
            number: (owned.outbox, owned.next_offset, mark(self.stream.created, owned.scored))
            for number, owned in self.owned.items()
            if owned.outbox is not None and owned.next_offset is not None
        }
        let_out(self.transactions, boxes)

    def _outlet(self, number: int) -> Outlet:
        """Where a partition's results go."""
        return self.owned[number].outbox or self.sink

    def _save(self, number: int, owned: Owned) -> list[Named]:
        """Step 7 for one partition; what its segments were named."""
        if owned.next_offset is None:
            return []
        saved = owned.saved.head if owned.saved is not None else b""
        state = owned.state.state() if owned.state is not None else State(head=saved)
        named = self.registry.save(
            self.stream.id,
            number,
            owned.epoch,
            next_offset=owned.next_offset,
            state=state,
            boundaries=owned.boundaries,
            events=owned.events,
            settled=owned.settled,
            requests=owned.requests,
            artifacts=owned.artifacts,
            scored=owned.scored,
            prints=owned.prints,
            gaps=owned.gaps,
            summary=owned.timeline.summary(),
            readings=owned.readings,
            ask=self.settings.learn.new_tasks == "ask",
        )
        if owned.state is not None:
            owned.state.written()
        owned.timeline.written()
        segments = [(each.series, each.segment, each.task) for each in named]
        owned.watch.named(segments)
        owned.fall.named(segments)
        owned.boundaries, owned.events, owned.settled, owned.gaps = [], [], [], []
        owned.prints, owned.requests, owned.artifacts, owned.scored = [], [], {}, []
        owned.kept, owned.dirty = owned.next_offset, False
        owned.readings = 0
        return named

    def _publish_names(self, number: int, named: Sequence[Named]) -> None:
        """Say which task each segment is, once SQL has it; after a crash between the two, the next
        owner says it."""
        for each in named:
            log.info(
                "task_named",
                partition=number,
                series=each.series,
                segment=each.segment,
                task=each.task,
                kind=each.kind,
                name=each.name,
                recurrence=each.recurrence,
                distance=each.distance,
                final=each.final,
            )
            key, value = name_message(self.topic, number, each)
            self.sink.send(f"{self.topic}.boundaries", key=key, value=value)
            if (event := task_event(self.topic, number, each)) is not None:
                key, value = event
                self.sink.send(f"{self.topic}.events", key=key, value=value)
        if named:
            self.sink.flush()

    # The steps --------------------------------------------------------------------------------

    def _cut(self, polled: Sequence[Records]) -> list[list[Records]]:
        """The poll in parts, each of which is out already, or not, as a whole."""
        boxes = {n: owned.outbox for n, owned in self.owned.items()}
        return cut(polled, {n: box.done for n, box in boxes.items() if box is not None})

    def _decode(self, polled: Sequence[Records]) -> list[Batch]:
        """Step 2 for every owned partition of a poll."""
        batches = []
        for records in polled:
            self.alive()
            if records.partition not in self.owned:  # revoked while these records were in hand
                continue
            batch, letters = self._decode_one(records)
            if records.partition not in self.owned:  # lost while the database was away
                continue
            if batch is not None:
                known = self._state(batch.partition).slots
                batch, further = admit(batch, records, known, self.settings.stream.max_series)
                letters = sorted([*letters, *further], key=lambda letter: letter.offset)
            self._reach(records.partition, records.offsets[0], records.next_offset)
            self.dead_letters.send(letters, self._outlet(records.partition))
            if batch is not None:
                batches.append(batch)
        return batches

    def _reach(self, number: int, first: int, next_offset: int) -> None:
        """Move the partition on, and note which version scores these offsets: the champion, or
        the one that did before they were read again."""
        owned = self.owned[number]
        if owned.next_offset is not None and first < owned.next_offset:
            how = f"partition {number} goes on at offset {first}, before the checkpoint's"
            raise MadeAnew(self.topic, f"{how} {owned.next_offset}")
        box = owned.outbox
        if box is not None:
            box.reach(next_offset)
        if box is not None and box.silent:
            for version, low, high in box.said_of(first, next_offset):
                _note(owned.scored, version, low, high)
        elif self.live.version is not None:
            _note(owned.scored, self.live.version.id, first, next_offset)
        owned.next_offset = next_offset
        owned.dirty = True

    def _decode_one(self, records: Records) -> tuple[Batch | None, list[DeadLetter]]:
        """Decode; the first good reading ever decides the stream's channels, for all processes."""
        decoded = self.decoder.decode(records)
        if self.stream.channels or not self.decoder.channels:
            return decoded
        try:
            self.stream = self.registry.open_stream(self.topic, self.decoder.channels)
        except RegistryError:
            self.stream = self.registry.open_stream(self.topic, ())
            if not self.stream.channels:
                raise
            # another process came first, with others
        self.decoder = self._decoder()
        return self.decoder.decode(records)

    def _decoder(self) -> Decoder:
        settings = self.settings
        return Decoder(
            settings.stream,
            settings.kafka.max_message_bytes,
            self.stream.channels,
            settings.score.classes,
        )

    def _advance(self, batch: Batch) -> Step:
        """Steps 3 (windows), 4 and 5 for one batch."""
        self.alive()
        owned = self.owned[batch.partition]
        step = self._state(batch.partition).advance(batch)
        owned.readings += len(batch)
        owned.boundaries += step.boundaries
        owned.events += step.events
        owned.settled += step.settled
        owned.prints += step.prints
        owned.requests += step.requests
        owned.artifacts |= step.artifacts
        for boundary in step.boundaries:
            log.info(
                "boundary_marked",
                partition=batch.partition,
                series=boundary.series,
                segment=boundary.segment,
                offset=boundary.boundary_offset,
                detected_offset=boundary.detected_offset,
                statistic=round(boundary.statistic, 2),
                detectors=boundary.detectors,
            )
        for settled in step.settled:
            log.info(
                "transition_over",
                partition=batch.partition,
                series=settled.series,
                segment=settled.segment,
                end_offset=settled.end_offset,
            )
        for event in step.events:
            log.warning(
                event.kind,
                partition=batch.partition,
                series=event.series,
                sensor=self.stream.channels[event.channel],
                offset=event.offset,
            )
        return step

    def _state(self, number: int) -> Partition:
        """The partition's state; at first, that of its last checkpoint."""
        owned = self.owned[number]
        if owned.state is None:
            owned.state = self._partition(number, owned.saved)
            owned.saved = None
        return owned.state

    def _timeline(self, number: int) -> Timeline:
        most = self.settings.run.timeline_series
        return Timeline(self.registry.begun(self.stream.id, number) if most else {}, most)

    def _partition(self, number: int, saved: Checkpoint | None) -> Partition:
        partition = Partition(
            stream_id=self.stream.id,
            topic=self.topic,
            number=number,
            channels=len(self.stream.channels),
            settings=self.settings,
        )
        if saved is not None and saved.head:
            pieces = partial(self.registry.pieces, self.stream.id, number, saved.epoch)
            partition.restore(saved, paged(pieces))
        return partition

    def _publish(
        self, batches: Sequence[Batch], steps: Sequence[Step], scores: Sequence[FloatArray]
    ) -> None:
        """Step 6: boundaries as they were marked; scores, if there is a champion."""
        for batch, step in zip(batches, steps, strict=True):
            outlet = self._outlet(batch.partition)
            self.metrics.readings.inc(len(batch))
            self.metrics.boundaries.inc(len(step.boundaries))
            for detector, alarms in step.alarms.items():
                self.metrics.alarms(detector).inc(alarms)
            for boundary in step.boundaries:
                key, value = boundary_message(
                    self.topic, batch.partition, boundary, self.stream.channels
                )
                outlet.send(f"{self.topic}.boundaries", key=key, value=value)
            for settled in step.settled:
                key, value = settled_message(self.topic, batch.partition, settled)
                outlet.send(f"{self.topic}.boundaries", key=key, value=value)
            for event in step.events:
                key, value = event_message(self.topic, batch.partition, event, self.stream.channels)
                outlet.send(f"{self.topic}.boundaries", key=key, value=value)
        if self.live.version is None or not self.settings.stream.publish_scores:
            return
        number, classes = self.live.version.number, self.live.classes
        told: Sequence[FloatArray | None] = self.live.classify(steps)
        told = told or [None] * len(scores)
        for batch, part, said in zip(batches, scores, told, strict=True):
            outlet = self._outlet(batch.partition)
            for key, value in score_messages(batch, part, number, said=said, classes=classes):
                outlet.send(f"{self.topic}.scores", key=key, value=value)

    def _take_lag(self) -> None:
        """Lag of every assigned partition, on a timer: it must not freeze when nothing comes."""
        if self.clock() < self._lag_due:
            return
        self._lag_due = self.clock() + LAG_INTERVAL_S
        for number, behind in self.source.lag().items():
            self.metrics.take_lag(number, behind)


def _note(scored: list[tuple[int, int, int]], version: int, first: int, end: int) -> None:
    """Extend the last range if the same version goes on, else begin another."""
    if scored and scored[-1][0] == version and scored[-1][2] <= first:
        scored[-1] = (version, scored[-1][1], end)
    else:
        scored.append((version, first, end))
