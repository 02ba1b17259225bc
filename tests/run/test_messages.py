from __future__ import annotations

import itertools
import json
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.records import Batch, Boundary, Change, DeadLetter, Named, SensorEvent, Settled
from pipeline.run.dead_letters import LONGEST, DeadLetters
from pipeline.run.messages import (
    boundary_message,
    event_message,
    iso,
    name_message,
    score_messages,
    settled_message,
    task_event,
)
from pipeline.telemetry import Metrics


class Reader:
    """What the README says to do: take what is above the highest seen of a series and partition."""

    def __init__(self) -> None:
        self.highest: dict[tuple[int, str], tuple[int, int]] = {}
        self.taken: list[tuple[int, int]] = []

    def read(self, value: bytes) -> None:
        body = json.loads(value)
        series, place, last = (body["partition"], body["series"]), body["place"], None
        for offset in body["offsets"]:
            place = place if last is None else place + 1 if offset == last else 0
            last = offset
            if (offset, place) > self.highest.get(series, (-1, 0)):
                self.highest[series] = (offset, place)
                self.taken.append((offset, place))


def poll(*offsets: int) -> Batch:
    """One series' readings of one poll, in records with these offsets."""
    n = len(offsets)
    return Batch(
        topic="t",
        partition=3,
        series=("a",),
        starts=np.array([0, n]),
        offsets=np.array(offsets),
        order=np.arange(n),
        times=np.arange(n),
        values=np.zeros((n, 1), np.float32),
        next_offset=max(offsets) + 1,
    )


def published(batch: Batch) -> list[tuple[bytes, bytes]]:
    return list(score_messages(batch, np.zeros(len(batch), np.float32), version=1))


class Sent:
    """A sink that keeps what it is handed."""

    def __init__(self) -> None:
        self.records: list[tuple] = []

    def send(self, topic, *, key, value, headers=()) -> None:
        self.records.append((topic, key, value, dict(headers)))


def letter(**changed) -> DeadLetter:
    facts = {
        "topic": "t",
        "partition": 2,
        "offset": 7,
        "kind": "not_json",
        "reason": "why",
        "key": b"k",
        "value": b"v",
    }
    return DeadLetter(**(facts | changed))


def test_scores_go_out_once_a_series_with_arrays_inside() -> None:
    """Two series in one poll: two messages, each keyed by its series; NaN is null."""
    batch = Batch(
        topic="t",
        partition=3,
        series=("a", "b"),
        starts=np.array([0, 2, 3]),
        offsets=np.array([10, 12, 11]),
        order=np.array([0, 2, 1]),
        times=np.array([1, 3, 2]),
        values=np.zeros((3, 1), np.float32),
        next_offset=13,
    )
    messages = dict(score_messages(batch, np.array([np.nan, 1.5, 0.25], np.float32), version=4))
    assert set(messages) == {b"t/3/a", b"t/3/b"}
    first = json.loads(messages[b"t/3/a"])
    assert (first["offsets"], first["scores"], first["version"]) == ([10, 12], [None, 1.5], 4)


def test_what_a_classifier_says_goes_with_its_scores() -> None:
    """The likeliest class by name and its probability; null before there is a window."""
    batch = poll(10, 11, 12)
    said = np.array([[np.nan, np.nan], [1, 0.75], [0, 0.5]], np.float32)
    ((_, value),) = score_messages(
        batch, np.zeros(3, np.float32), version=1, said=said, classes=("idle", "busy")
    )
    message = json.loads(value)
    assert message["classes"] == [None, "busy", "idle"]
    assert message["probabilities"] == [None, 0.75, 0.5]
    ((_, value),) = published(batch)
    assert not {"classes", "probabilities"} & json.loads(value).keys()


def test_scores_of_a_series_are_taken_once_however_the_replay_is_cut() -> None:
    """[0, 100) is published, then a crash, then [0, 150) and the rest: each reading once.

    The topic has four partitions, read one after the other: a series' messages stay in order
    because they share a key.
    """
    polls = [range(100), range(150), range(150, 170)]
    messages = [message for offsets in polls for message in published(poll(*offsets))]
    partitions: list[list[bytes]] = [[], [], [], []]
    for key, value in messages:
        partitions[zlib.crc32(key) % 4].append(value)
    reader = Reader()
    for value in itertools.chain(*partitions):
        reader.read(value)
    assert reader.taken == [(offset, 0) for offset in range(170)]


def test_a_message_of_scores_ends_with_a_record_if_it_can(monkeypatch) -> None:
    """Records of 2, 2, 9 and 1 readings, five in a message: only the long record is cut.

    Told twice, with a crash after each message, a reader still takes every reading once.
    """
    monkeypatch.setattr("pipeline.run.messages.LONGEST", 5)
    batch = poll(*[1] * 2, *[4] * 2, *[6] * 9, 7)
    values = [value for _, value in published(batch)]
    parts = [(body["offsets"], body["place"]) for body in map(json.loads, values)]
    assert parts == [([1, 1, 4, 4], 0), ([6] * 5, 0), ([6] * 4 + [7], 5)]
    wanted = [(o, k) for o, n in ((1, 2), (4, 2), (6, 9), (7, 1)) for k in range(n)]
    for crash in range(len(values) + 1):
        reader = Reader()
        for value in values[:crash] + values:
            reader.read(value)
        assert reader.taken == wanted


def test_a_boundary_names_its_sensors_and_its_times() -> None:
    """Channel indices become the stream's names; microseconds become ISO 8601 with zone."""
    boundary = Boundary(
        series="a",
        segment=1,
        boundary_row=5,
        detected_row=9,
        boundary_offset=50,
        detected_offset=90,
        boundary_time=0,
        detected_time=1_500_000,
        signal="level",
        statistic=6.0,
        threshold=5.0,
        detectors=("ADWIN",),
        sensors=(
            Change(kind="level", channel=1, change=-2.5, before=9.0, after=4.0),
            Change(kind="correlation", channel=1, other=0, change=-0.8, before=0.9, after=0.1),
        ),
    )
    key, value = boundary_message("t", 0, boundary, ("speed", "heat"))
    body = json.loads(value)
    assert key == b"t/0/a/1"
    level, correlation = body["sensors"]
    assert level == {
        "name": "heat", "other": None, "kind": "level",
        "change": -2.5, "before": 9.0, "after": 4.0,
    }  # fmt: skip
    assert (correlation["name"], correlation["other"]) == ("heat", "speed")
    assert body["detected_at"] == iso(1_500_000) == "1970-01-01T00:00:01.500000+00:00"


def test_a_dead_letter_says_where_and_why_and_is_cut_to_what_the_topic_takes() -> None:
    """A 2 MB record still reaches the dead-letter topic, with its true size beside it."""
    sink = Sent()
    DeadLetters("t", sink, Metrics("t")).send([letter(value=b"x" * 2_000_000)])
    topic, key, value, headers = sink.records[0]
    assert (topic, key, len(value)) == ("t.dead", b"k", LONGEST)
    assert headers == {
        "topic": b"t",
        "partition": b"2",
        "offset": b"7",
        "kind": b"not_json",
        "reason": b"why",
        "cut_from_bytes": b"2000000",
    }


def test_every_dead_letter_is_counted_by_kind() -> None:
    """None is lost silently: the counts add up to what came."""
    letters = DeadLetters("t", Sent(), Metrics("t"))
    letters.send([letter(), letter(kind="empty"), letter()])
    assert letters.counts == {"not_json": 2, "empty": 1}
    assert letters.metrics.dead_letters("not_json")._value.get() == 2


def test_the_end_of_a_transition_is_a_message_of_its_own() -> None:
    """Its key is not the boundary's: a compacted topic keeps both."""
    end = Settled(series="a", segment=1, end_row=9, end_offset=90, end_time=1_500_000)
    key, value = settled_message("t", 0, end)
    assert key == b"t/0/a/1/end"
    assert json.loads(value) == {
        "event": "transition_over",
        "topic": "t",
        "partition": 0,
        "series": "a",
        "segment": 1,
        "end_row": 9,
        "end_offset": 90,
        "end_at": "1970-01-01T00:00:01.500000+00:00",
    }


def test_what_happened_to_a_sensor_is_told_by_name() -> None:
    """Beside the boundaries, and told apart from them by `event`."""
    event = SensorEvent(
        series="press", channel=1, kind="sensor_back", row=7, offset=70, time=1_700_000_000_000_000
    )
    key, value = event_message("plant", 3, event, ["flow", "heat"])
    assert key == b"plant/3/press/7/1"
    assert json.loads(value) == {
        "event": "sensor_back",
        "topic": "plant",
        "partition": 3,
        "series": "press",
        "sensor": "heat",
        "row": 7,
        "offset": 70,
        "at": "2023-11-14T22:13:20.000000+00:00",
    }


def named(kind: str = "fault", **changes: Any) -> Named:
    made = Named(
        series="press",
        segment=3,
        task=4,
        kind=kind,
        name="bearing",
        recurrence=True,
        distance=0.4,
        rows=256,
        final=False,
        changed=True,
    )
    return replace(made, **changes)


def test_a_name_says_what_people_said_of_the_task() -> None:
    """A reader needs no other topic to know that this is a fault."""
    key, value = name_message("plant", 3, named())
    assert key == b"plant/3/press/3/task"
    assert json.loads(value) == {
        "event": "task_named",
        "topic": "plant",
        "partition": 3,
        "series": "press",
        "segment": 3,
        "task": 4,
        "kind": "fault",
        "name": "bearing",
        "recurrence": True,
        "distance": 0.4,
        "rows": 256,
        "final": False,
        "changed": True,
    }


@pytest.mark.parametrize(
    ("kind", "recurrence", "event", "text"),
    [
        ("fault", True, "task_returned", 'task 4 again: fault "bearing"'),
        ("ignore", True, "task_returned", 'task 4 again: ignored "bearing"'),
        (
            "asked",
            False,
            "task_waits",
            'new task 4: not learned until somebody says what it is "bearing"',
        ),
    ],
)
def test_what_is_not_learned_is_an_event(
    kind: str, recurrence: bool, event: str, text: str
) -> None:
    """In a sentence, with the task and its kind as fields; one key a segment and task."""
    made = task_event("plant", 3, named(kind, recurrence=recurrence))
    assert made is not None
    key, value = made
    assert key == b"plant/3/press/3/task/4"
    assert json.loads(value) == {
        "event": event,
        "topic": "plant",
        "partition": 3,
        "series": "press",
        "segment": 3,
        "task": 4,
        "kind": kind,
        "name": "bearing",
        "recurrence": recurrence,
        "text": text,
    }


def test_what_is_normal_or_was_told_before_is_no_event() -> None:
    """Each segment is named up to four times: one alarm is enough."""
    assert task_event("plant", 3, named("normal")) is None
    assert task_event("plant", 3, named(changed=False, final=True)) is None
