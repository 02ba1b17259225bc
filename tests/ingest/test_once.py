"""However a replay cuts what it publishes, the reader gives each reading once and in order."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.ingest.memory import MemoryLog
from pipeline.ingest.once import Once
from pipeline.records import Batch, LogRecord
from pipeline.run import messages
from pipeline.run.scores import lines, read

#: A log: of each record in turn, its series and how many readings it holds.
Log = list[tuple[str, int]]


def poll(log: Log, low: int, high: int) -> Batch:
    """Records low:high of the log, as the stream would have them."""
    rows: dict[str, list[int]] = defaultdict(list)
    for offset, (series, readings) in enumerate(log[low:high], low):
        rows[series] += [offset] * readings
    starts = np.cumsum([0, *map(len, rows.values())])
    offsets = np.array([o for of in rows.values() for o in of], dtype=np.int64)
    n = len(offsets)
    return Batch(
        topic="t",
        partition=0,
        series=tuple(rows),
        starts=starts,
        offsets=offsets,
        order=np.arange(n),
        times=np.arange(n),
        values=np.zeros((n, 1), np.float32),
        next_offset=high,
    )


def published(log: Log, low: int, high: int) -> Iterator[dict[str, Any]]:
    """What one poll says; a score tells its reading's offset and place in the record."""
    batch = poll(log, low, high)
    place = np.array([i - list(batch.offsets).index(o) for i, o in enumerate(batch.offsets)])
    scores = (batch.offsets + place / 1000).astype(np.float32)
    for _, value in messages.score_messages(batch, scores, 1):
        yield json.loads(value)


@st.composite
def lives(draw: st.DrawFn) -> tuple[Log, list[tuple[int, int]]]:
    """A log, and the polls over it: each life goes on from any checkpoint not past what it was."""
    log = draw(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5)), min_size=1))
    polls, checkpoint = [], 0
    for _ in range(draw(st.integers(0, 3))):
        at = checkpoint
        for _ in range(draw(st.integers(0, 5))):
            high = draw(st.integers(at, len(log)))
            polls.append((at, high))
            at = high
        checkpoint = draw(st.integers(checkpoint, at))
    return log, [*polls, (checkpoint, len(log))]


@given(lives(), st.integers(1, 4), st.integers(0, 40))
def test_any_cut_and_any_replay_give_each_reading_once_in_order(
    life: tuple[Log, list[tuple[int, int]]], longest: int, restart: int
) -> None:
    """Readings of several series, records longer than a message, and a reader that is replaced by
    one that goes on from its positions, and reads again from the beginning."""
    log, polls = life
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "LONGEST", longest)
        topic = [message for low, high in polls for message in published(log, low, high)]
    taken: dict[str, list[float]] = defaultdict(list)
    once = Once()
    for message in topic[:restart]:
        keep(taken, once.new(message))
    again = Once(json_and_back(once))
    for message in topic:
        keep(taken, again.new(message))
    expected: dict[str, list[float]] = defaultdict(list)
    for offset, (series, readings) in enumerate(log):
        expected[series] += [pytest.approx(offset + i / 1000) for i in range(readings)]
    assert taken == expected


def keep(taken: dict[str, list[float]], message: dict[str, Any] | None) -> None:
    """Note what is new; its offsets and place say of which readings."""
    if message is None:
        return
    assert message["scores"]
    offsets, place = message["offsets"], message["place"]
    for i, (offset, score) in enumerate(zip(offsets, message["scores"], strict=True)):
        nth = i - offsets.index(offset) + (place if offset == offsets[0] else 0)
        assert score == pytest.approx(offset + nth / 1000)
    taken[message["series"]] += message["scores"]


def json_and_back(once: Once) -> dict[tuple[int, str], tuple[int, int]]:
    """The positions, as somebody would keep them."""
    kept = json.loads(json.dumps([[*whose, *at] for whose, at in once.positions.items()]))
    return {(partition, series): (offset, seen) for partition, series, offset, seen in kept}


# The command's side ------------------------------------------------------------------------------


def record(offset: int, value: bytes) -> LogRecord:
    return LogRecord(partition=0, offset=offset, time=0, key=b"k", value=value, headers={})


def said(*offsets: int, **more: Any) -> bytes:
    n = len(offsets)
    facts = {"topic": "t", "partition": 3, "series": "a", "version": 2, "place": 0}
    lists = {"offsets": offsets, "times": [0] * n, "scores": [1.5] * n}
    return json.dumps(facts | lists | more).encode()


class Growing(MemoryLog):
    """A topic that gets one more record each time its ends are asked for."""

    def __init__(self, values: Sequence[bytes], there: int, stop: Event) -> None:
        records = [record(i, value) for i, value in enumerate(values)]
        self.rest, self.stop = records[there:], stop
        super().__init__({0: records[:there]})

    def ends(self) -> dict[int, int]:
        found = super().ends()
        if self.rest:
            self.partitions = {0: [*self.partitions[0], self.rest.pop(0)]}
        else:
            self.stop.set()
        return found


@pytest.mark.parametrize(("beginning", "first"), [(True, 0), (False, 2)])
def test_following_goes_on_with_what_comes(beginning: bool, first: int) -> None:
    """From the beginning or from the end of now; the overlap [2, 4) is told once."""
    values, stop = [said(0, 1), said(2, 3), said(2, 3, 4), said(5)], Event()
    log = Growing(values, 1, stop)
    found = list(read(log, follow=True, from_beginning=beginning, stop=stop))
    assert [o for message in found for o in message["offsets"]] == list(range(first, 6))


def test_what_is_no_message_of_scores_is_one_line() -> None:
    """Somebody else writes to the topic: said where, and nothing is made of it."""
    for value in (b"{", b"[]", b"{}", said(), said(1, version="2"), said(1, scores=[])):
        log = MemoryLog({0: [record(7, value)]})
        with pytest.raises(SourceError, match=r"partition 0, offset 7: no message") as caught:
            list(read(log, follow=False, from_beginning=True, stop=Event()))
        assert len(str(caught.value).splitlines()) == 1


def test_people_get_a_line_a_reading() -> None:
    """Time, series, place in the topic, version, score, and the class if there is one."""
    message = json.loads(said(8, 9, scores=[None, 0.25], classes=[None, "worn"]))
    time = "1970-01-01T00:00:00.000000+00:00"
    assert list(lines(message)) == [f"{time} a 3:8 v2 -", f"{time} a 3:9 v2 0.2500 worn"]
