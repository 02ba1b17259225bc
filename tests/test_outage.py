"""Waiting for what is away: how long, how often, and what is said."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from pipeline.errors import BrokerAway, DatabaseAway
from pipeline.outage import LONGEST_S, PAUSE_S, Outage


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slices: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.slices.append(seconds)
        self.now += seconds


def away_until(time: Time, end: float, asked: list[float]):
    def act() -> str:
        asked.append(time.now)
        if time.now < end:
            raise DatabaseAway("database x: gone")
        return "answer"

    return act


def outage(time: Time, limit_s: float, stop: threading.Event | None = None) -> Outage:
    made = Outage("database", limit_s, stop, clock=time)
    made.pause = time.pass_s
    return made


def test_an_outage_shorter_than_the_limit_is_waited_out_with_two_lines() -> None:
    """Pauses double from the first to the longest, each cut by up to half; none outlasts it."""
    time, asked = Time(), list[float]()
    with capture_logs() as logs:
        assert outage(time, 300.0).ask(away_until(time, 60.0, asked)) == "answer"
    pauses = [b - a for a, b in pairwise(asked)]
    for n, pause in enumerate(pauses):
        longest = min(LONGEST_S, PAUSE_S * 2**n)
        assert longest / 2 <= pause + 1e-9
        assert pause <= longest + 1e-9
    assert len({round(pause, 6) for pause in pauses[8:]}) > 1  # jitter
    assert [line["event"] for line in logs] == ["database_away", "database_back"]
    assert logs[0]["reason"] == "database x: gone"
    assert logs[1]["after_s"] == pytest.approx(time.now, abs=0.1)


def test_past_the_limit_it_is_one_line_that_names_the_key() -> None:
    """The limit counts from the first failure, and whoever asks next has no limit of his own."""
    time, asked = Time(), list[float]()
    waiting = outage(time, 20.0)
    with capture_logs() as logs, pytest.raises(DatabaseAway) as caught:
        waiting.ask(away_until(time, 1e9, asked))
    assert 20.0 <= time.now <= 20.0 + LONGEST_S
    assert "run.outage_limit_s" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert [line["event"] for line in logs] == ["database_away"]
    asked.clear()
    with pytest.raises(DatabaseAway):
        waiting.ask(away_until(time, 1e9, asked))
    assert len(asked) == 1


def test_each_outage_has_the_whole_limit() -> None:
    """What came back in between is well again."""
    time = Time()
    waiting = outage(time, 20.0)
    for _ in range(5):
        asked: list[float] = []
        assert waiting.ask(away_until(time, time.now + 15.0, asked)) == "answer"


def test_told_to_stop_nothing_is_waited_for() -> None:
    """SIGTERM ends a process within seconds, whoever is away."""
    stop, time = threading.Event(), Time()
    waiting = outage(time, 300.0, stop)

    def pause(seconds: float) -> None:
        time.pass_s(seconds)
        if time.now > 3.0:
            stop.set()

    waiting.pause = pause
    with pytest.raises(DatabaseAway):
        waiting.ask(away_until(time, 1e9, []))
    assert time.now < 4.0


def test_other_threads_are_answered_at_once() -> None:
    """A rebalance that waited for a database would cost the process its place in the group."""
    time, found = Time(), list[BaseException]()
    waiting = outage(time, 300.0)

    def elsewhere() -> None:
        try:
            waiting.ask(away_until(time, 1e9, []))
        except DatabaseAway as exc:
            found.append(exc)

    thread = threading.Thread(target=elsewhere)
    with capture_logs() as logs:
        thread.start()
        thread.join(10)
    assert len(found) == 1
    assert time.now == 0.0
    assert logs == []


def test_no_limit_means_no_waiting() -> None:
    """What a command at a terminal wants."""
    time = Time()
    with pytest.raises(BrokerAway, match=r"^Kafka is gone$"):
        outage(time, 0.0).note(BrokerAway("Kafka is gone"))


def test_a_pause_is_cut_into_slices_that_notice_a_signal() -> None:
    """Five seconds deaf would be as long as a whole stop may take."""
    time = Time()
    outage(time, 300.0).ask(away_until(time, 60.0, []))
    assert max(time.slices) <= 0.5
