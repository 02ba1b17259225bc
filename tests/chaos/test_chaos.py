"""The short form of `make chaos`: a fixed seed, a dozen blows, nothing lost or done twice."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import pytest
import structlog

from pipeline.config import Database
from pipeline.register import ledger
from pipeline.register.sql import SqlRegistry
from tests.brokers import kafka_home
from tests.chaos.compare import chain, pieced, requests_once, unlike
from tests.chaos.log import PARTITIONS, SERIES, messages
from tests.chaos.plan import DECK, GUEST, SESSION_S, plan
from tests.chaos.report import as_markdown, write
from tests.chaos.run import run
from tests.register.making import by_hand

BUILD = Path(__file__).resolve().parents[2] / "build"
KILLS, SEED, SOME = 10, 29, 32


def test_the_seed_says_what_is_done_in_which_order() -> None:
    """The same again, the beginning of a longer one, and every kind as often as its share."""
    decks = 10
    whole = plan(7, decks * sum(DECK.values()))
    assert plan(7, 40) == whole[:40]
    assert plan(8, 40) != whole[:40]
    done = Counter(blow.kind for blow in whole)
    assert done["broker"] == done["database"] == 5 * decks
    assert done["kill"] == 8 * decks
    assert done["freeze"] == 4 * decks
    assert all(blow.stop_s > SESSION_S for blow in whole if blow.kind == "freeze")
    guest = [blow.kind for blow in whole if blow.who == GUEST]
    assert guest == ["add", "remove"] * decks


def test_the_log_is_the_seed_s_and_holds_what_logs_hold() -> None:
    """Every series, its messages on one partition; some twice, some late, some no reading."""
    rounds = list(islice(messages(1), 300))
    assert rounds == list(islice(messages(1), 300))
    sent = [message for some in rounds for message in some]
    good = [message for message in sent if not message.bad]
    place = {(message.key, message.partition) for message in good}
    assert len(place) == SERIES
    assert {partition for _, partition in place} == set(range(PARTITIONS))
    assert max(Counter((m.key, m.value) for m in good).values()) == 2
    assert 0 < len(sent) - len(good) < len(sent) / 100
    times: dict[bytes | None, list[int]] = {}
    for message in good:
        times.setdefault(message.key, []).append(json.loads(message.value)["time"])
    steps = [after - before for each in times.values() for before, after in pairwise(each)]
    assert steps.count(-1) > 0
    assert sum(step < -3000 for step in steps) > 0
    assert sum(None in json.loads(message.value)["values"] for message in good) > 0
    first = {message.key for message in rounds[0]}
    assert 0 < SERIES - len(first) < SERIES / 2


def test_what_differs_is_named() -> None:
    """One missing, one too many, one that is otherwise, and where."""
    ours = {(0,): {"a": 1, "b": b"xyz"}, (1,): 5}
    theirs = {(0,): {"a": 1, "b": b"xz"}, (2,): 5}
    assert list(unlike(ours, theirs)) == [
        "(0,) is b 3 bytes, not 2: they part at 1",
        "(1,) is one too many",
        "(2,) is missing",
    ]
    assert list(unlike(ours, ours)) == []


def test_holes_and_overlaps_are_found() -> None:
    """Of [0, 5), [5, 9), [10, 20), [18, 30) two borders are wrong, and the end is not at 30."""
    ranges = [(0, 5), (5, 9), (10, 20), (18, 30)]
    assert list(pieced(ranges[:2], 9)) == []
    assert list(pieced(ranges, 31)) == [
        "ends at 30, not 31",
        "a hole between 9 and 10",
        "an overlap between 20 and 18",
    ]
    assert list(pieced([], 9)) == ["was never scored"]


def test_what_was_done_twice_or_never_is_found(sqlite_at_head: Database) -> None:
    """Three requests end as one; then one is ended again, and another is not."""
    registry = SqlRegistry(sqlite_at_head)
    stream = registry.open_stream("readings", ["flow"])
    for note in ("a", "b", "c"):
        registry.submit(by_hand(stream, note=note))
    claim = registry.claim("trainer", 60.0)
    assert claim is not None
    registry.finish(claim, "served")
    assert list(requests_once(registry.engine)) == []
    registry.submit(by_hand(stream, note="d"))
    with registry.engine.begin() as conn:
        ledger.append(conn, "request_done", {"request": claim.id}, at=1)
    assert list(requests_once(registry.engine)) == [
        f"request {claim.id} was ended 2 times, not 1",
        "request 4 is pending: None",
        "request 4 was ended 0 times, not 1",
    ]
    assert list(chain(registry.engine)) == []
    registry.close()


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_lost_and_nothing_done_twice(tmp_path: Path) -> None:
    """Real processes, broker and database, hurt ten times: the end is that of a run that nobody
    disturbed. It takes longer than others, since each blow has to fall on work in progress."""
    if kafka_home() is None:
        missing = "no Kafka jars and Java"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    errors_only = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=errors_only)  # or what differs is lost among its log lines
    result = run(tmp_path, KILLS, SEED, lambda _: None, series=SOME)
    write(BUILD / "chaos.json", result)
    assert result["differences"] == []
    assert min(result["log"].values()) > 0
    assert len(result["log"]) == 6
    assert sum(result["done"].values()) == KILLS
    assert result["compared"]["boundaries"] > 0
    # how many requests a version takes along is for the machine's speed to say
    assert result["compared"]["versions made again"] > 0
    assert result["compared"]["entries decided again: version"] > 0
    assert f"{KILLS} blows" in as_markdown(result)
