"""The registry: one class of promises, kept on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import IntegrityError

from pipeline.config import Database
from pipeline.detect.tasks import NEW_FROM_ELSEWHERE, apart
from pipeline.errors import (
    ArtifactCorrupt,
    LeaseLost,
    MadeAnew,
    PipelineError,
    RegistryError,
    SettingsError,
    StaleEpoch,
    VersionConflict,
)
from pipeline.records import Claim, Gap, Request, Version
from pipeline.register import engine, ledger, requests, versions
from pipeline.register import tables as t
from pipeline.register.chain import sound
from pipeline.register.checkpoints import LARGE, Checkpoint, Piece, State
from pipeline.register.engine import reading, writing
from pipeline.register.requests import FOLD_LIMIT, LONGEST_S, PAUSE_S
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.tasks import Asked
from tests.register.making import (
    LEASE_S,
    SECOND,
    Clock,
    asked,
    boundary,
    by_hand,
    candidate,
    change,
    claimed,
    column,
    everything,
    hasty,
    next_version,
    opened,
    promoted,
    race,
    register,
    rejected,
)
from tests.register.processes import work

#: How many wait for the ledger's lock.
WAITING = "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
PRINT = np.array([[0.0, 1.0], [1.0, 2.5]])
#: Racing threads meet often enough in this many rounds.
ROUNDS = 8


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class RegistryContract:
    @pytest.fixture
    def database(self) -> Database:
        """A database at head with nothing in it."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Clock:
        """Time for `registry`."""
        return Clock()

    @pytest.fixture
    def registry(self, database: Database, clock: Clock) -> Iterator[SqlRegistry]:
        """A registry with nothing in it; what it did must have left a whole ledger."""
        with opened(database, clock) as registry:
            yield registry
            with reading(registry.engine) as conn:
                assert sound(conn)

    @pytest.fixture
    def second(self, registry: SqlRegistry) -> Iterator[SqlRegistry]:
        """Another process's registry over the same database, with the same time."""
        other = hasty(SqlRegistry(registry.database, clock=registry.clock))
        yield other
        other.close()

    @pytest.fixture
    def stream(self, registry: SqlRegistry) -> Stream:
        """A stream of two sensors."""
        return registry.open_stream("readings", ["pressure", "flow"])

    # Streams ----------------------------------------------------------------------------------

    def test_a_stream_is_made_once(self, registry: SqlRegistry) -> None:
        """Every process opens the stream at its start; the first one makes it."""
        first = registry.open_stream("readings", ["a", "b"])
        assert registry.open_stream("readings", ["a", "b"]) == first
        assert registry.stream("readings") == first
        assert registry.stream("other") is None
        assert column(registry.engine, "SELECT kind FROM ledger ORDER BY id") == ["stream"]

    def test_streams_come_in_order_of_making(self, registry: SqlRegistry) -> None:
        """Two topics in one database are two streams, each with its own channels."""
        made = [registry.open_stream("z", ["é\t☃"]), registry.open_stream("a", [])]
        assert registry.streams() == made
        assert [s.channels for s in made] == [("é\t☃",), ()]

    def test_the_first_channels_stay(self, registry: SqlRegistry) -> None:
        """A model is made for these sensors in this order: any other list is refused."""
        assert registry.open_stream("readings", []).channels == ()
        assert registry.open_stream("readings", ["a", "b"]).channels == ("a", "b")
        assert registry.open_stream("readings", []).channels == ("a", "b")
        for other in (["b", "a"], ["a"], ["a", "b", "c"]):
            with pytest.raises(RegistryError, match="readings has the channels a, b"):
                registry.open_stream("readings", other)
        assert registry.streams()[0].channels == ("a", "b")

    def test_processes_that_open_a_stream_at_once_share_it(
        self, registry: SqlRegistry, second: SqlRegistry
    ) -> None:
        """All workers of `tidemark run` start together on a new database."""
        for round_ in range(ROUNDS):
            name = f"readings-{round_}"
            one, two = race(
                lambda name=name: registry.open_stream(name, ["a"]),
                lambda name=name: second.open_stream(name, ["a"]),
            )
            assert one == two == registry.stream(name)
        assert column(registry.engine, "SELECT COUNT(*) FROM ledger") == [ROUNDS]

    def test_only_one_process_names_the_channels(
        self, registry: SqlRegistry, second: SqlRegistry
    ) -> None:
        """Two partitions' first readings differ: one wins, the other is told."""
        for round_ in range(ROUNDS):
            name = f"readings-{round_}"
            registry.open_stream(name, [])
            answers = race(
                lambda name=name: registry.open_stream(name, ["a"]),
                lambda name=name: second.open_stream(name, ["b"]),
            )
            won = [a for a in answers if isinstance(a, Stream)]
            assert len(won) == 1
            assert registry.stream(name) == won[0]

    def test_progress_counts_what_is_behind_and_before(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """`tidemark demo` waits for it: records passed, requests not at their end."""
        assert registry.progress() == (0, 0)
        for partition, end in ((0, 70), (1, 11)):
            epoch = registry.acquire(stream.id, partition, "w").epoch
            registry.save(stream.id, partition, epoch, next_offset=end, state=State(b"s"))
        registry.acquire(stream.id, 2, "w")  # no checkpoint yet
        for segment in range(3):
            registry.submit(asked(stream, segment))
        assert registry.progress() == (81, 3)
        claim = claimed(registry)  # one claimed, two folded
        assert registry.progress() == (81, 3)
        registry.finish(claim, "done")
        assert registry.progress() == (81, 0)
        registry.submit(by_hand(stream))
        registry.fail(claimed(registry), "no", retry=False)
        assert registry.progress() == (81, 0)

    def test_a_new_stream_has_a_place_in_every_partition_before_anything_is_read(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """The log's ends when it was first followed: a partition that another process takes over
        before its first checkpoint skips nothing that came since.

        Partition 2 was added later; it has no place, and so is read from its beginning.
        """
        registry.follow(stream, None, {0: 100, 1: 7})
        registry.follow(stream, None, {0: 130, 1: 9, 2: 5})
        assert [registry.acquire(stream.id, p, "w").next_offset for p in (0, 1, 2)] == [
            100,
            7,
            None,
        ]
        assert registry.acquire(stream.id, 0, "w2").next_offset == 100

    def test_only_one_process_says_where_a_stream_starts(
        self, registry: SqlRegistry, second: SqlRegistry
    ) -> None:
        """Two that start at once have seen the log's end at different moments."""
        for round_ in range(ROUNDS):
            stream = registry.open_stream(f"readings-{round_}", [])
            answers = race(
                lambda stream=stream: registry.follow(stream, "id", {0: 10, 1: 10}),
                lambda stream=stream: second.follow(stream, "id", {0: 20, 1: 20}),
            )
            assert answers == [None, None]
            starts = {registry.acquire(stream.id, p, "w").next_offset for p in (0, 1)}
            assert starts in ({10}, {20})

    def test_a_topic_that_was_made_anew_is_not_followed(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """Same name, another id: its offsets mean other readings. A broker that tells no id (older
        than 2.8) is no reason to refuse, nor to forget."""
        registry.follow(stream, None, {0: 0})
        registry.follow(stream, "first", {0: 0})
        registry.follow(stream, None, {0: 0})
        registry.follow(stream, "first", {0: 0})
        before = everything(registry.engine)
        with pytest.raises(MadeAnew, match="its id is second, and was first"):
            registry.follow(stream, "second", {0: 0})
        assert everything(registry.engine) == before
        assert column(registry.engine, "SELECT kind FROM ledger ORDER BY id") == ["stream", "topic"]

    # Partitions -------------------------------------------------------------------------------

    def test_a_gap_is_kept_once_with_where_it_goes_on(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """In the transaction that moves the next offset behind it: a crash before keeps neither,
        and a save whose answer was lost does nothing the second time."""
        gap = Gap(first_offset=3, end_offset=6, went_on="earliest")
        registry.follow(stream, None, {0: 3})
        epoch = registry.acquire(stream.id, 0, "w").epoch
        for _ in range(2):
            registry.save(stream.id, 0, epoch, next_offset=6, state=State(b"s"), gaps=[gap])
        assert registry.acquire(stream.id, 0, "w").next_offset == 6
        rows = everything(registry.engine)["gaps"]
        assert [row[1:6] for row in rows] == [(stream.id, 0, 3, 6, "earliest")]
        assert column(registry.engine, "SELECT kind FROM ledger ORDER BY id") == [
            "stream",
            "records_lost",
        ]

    def test_each_owner_has_a_larger_epoch(self, registry: SqlRegistry, stream: Stream) -> None:
        """A new owner goes on from the last checkpoint, under an epoch of its own."""
        first = registry.acquire(stream.id, 3, "w1")
        assert first == Checkpoint(epoch=1, next_offset=None)
        registry.save(stream.id, 3, 1, next_offset=42, state=State(b"\x00state\xff"))
        again = registry.acquire(stream.id, 3, "w2")
        assert again == Checkpoint(epoch=2, next_offset=42, head=b"\x00state\xff")
        assert column(registry.engine, "SELECT owner FROM checkpoints") == ["w2"]
        assert registry.acquire(stream.id, 4, "w1").epoch == 1

    def test_owners_that_come_at_once_have_different_epochs(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """Both believe the partition is theirs; the fence must tell them apart from the start."""
        for partition in range(ROUNDS):
            answers = race(
                lambda p=partition: registry.acquire(stream.id, p, "w1").epoch,
                lambda p=partition: second.acquire(stream.id, p, "w2").epoch,
            )
            assert sorted(answers) == [1, 2]

    def test_a_stale_epoch_writes_nothing(self, registry: SqlRegistry, stream: Stream) -> None:
        """A worker that slept through a rebalance has results in hand: none of them is kept."""
        version = next_version(registry, stream)
        old = registry.acquire(stream.id, 0, "w1").epoch
        new = registry.acquire(stream.id, 0, "w2").epoch
        registry.save(stream.id, 0, new, next_offset=5, state=State(b"new"))
        before = everything(registry.engine)
        for epoch in (old, new + 1):
            with pytest.raises(StaleEpoch, match=f"epoch {epoch} is over"):
                registry.save(
                    stream.id,
                    0,
                    epoch,
                    next_offset=9,
                    state=State(b"old"),
                    boundaries=[boundary()],
                    requests=[asked(stream)],
                    artifacts={"a": ("segment", b"readings")},
                    scored=[(version.id, 0, 9)],
                )
        assert everything(registry.engine) == before

    def test_saving_without_ever_owning_is_stale(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """No row is no ownership."""
        with pytest.raises(StaleEpoch):
            registry.save(stream.id, 0, 0, next_offset=1, state=State(b""))
        assert everything(registry.engine)["checkpoints"] == []

    def test_saving_races_with_a_new_owner(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """Either the save comes first and is what the new owner sees, or it is refused."""
        for partition in range(ROUNDS):
            epoch = registry.acquire(stream.id, partition, "w1").epoch
            saved, seen = race(
                lambda p=partition, e=epoch: registry.save(
                    stream.id, p, e, next_offset=7, state=State(b"s"), boundaries=[boundary()]
                ),
                lambda p=partition: second.acquire(stream.id, p, "w2"),
            )
            assert seen.epoch == 2
            assert seen.next_offset == (None if isinstance(saved, StaleEpoch) else 7)

    def test_a_save_keeps_all_its_parts(
        self, registry: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """Boundary, request, artifacts, offsets and state stand together, and in the ledger."""
        version = next_version(registry, stream)
        epoch = registry.acquire(stream.id, 0, "w").epoch
        clock.pass_s(5)
        registry.save(
            stream.id,
            0,
            epoch,
            next_offset=1200,
            state=State(b"state"),
            boundaries=[boundary(1), boundary(2), boundary(1, series="other")],
            requests=[asked(stream, 1), asked(stream, 1, reason="refine")],
            artifacts={"any": ("segment", b"readings"), "other": ("reservoir", b"kept")},
            scored=[(version.id, 1000, 1200)],
            readings=200,
        )
        rows = everything(registry.engine)
        assert [row[3:5] for row in rows["boundaries"]] == [("pump", 1), ("pump", 2), ("other", 1)]
        assert {row[-1] for row in rows["boundaries"]} == {clock.now}
        assert registry.get(sha(b"readings")) == b"readings"
        assert registry.get(sha(b"kept")) == b"kept"
        assert [row[1:] for row in rows["scored"]] == [(stream.id, 0, version.id, 1000, 1200)]
        assert rows["checkpoints"] == [
            (stream.id, 0, epoch, "w", 1200, b"state", sha(b"state"), clock.now, 200)
        ]
        kinds = column(registry.engine, "SELECT kind FROM ledger ORDER BY id")
        assert kinds[-5:] == ["boundary"] * 3 + ["request"] * 2
        claim = claimed(registry)
        assert claim.request == asked(stream, 1)
        assert [r for _, r in claim.folded] == [asked(stream, 1, reason="refine")]

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            ({"boundaries": [boundary(5), boundary(1)]}, IntegrityError),
            ({"boundaries": [boundary(5), boundary(5)]}, IntegrityError),
            ({"scored": [(1, 4, 5), (1, 9, 20)]}, RegistryError),
            ({"scored": [(1, 10, 11), (1, 12, 12)]}, IntegrityError),
            ({"scored": [(99, 10, 20)]}, IntegrityError),
        ],
        ids=["boundary again", "twice", "overlap", "no offsets", "no version"],
    )
    def test_a_save_is_all_or_nothing(
        self, registry: SqlRegistry, stream: Stream, fault: dict[str, Any], error: type[Exception]
    ) -> None:
        """A fault anywhere takes back what came before it: state, offset and all."""
        next_version(registry, stream)
        epoch = registry.acquire(stream.id, 0, "w").epoch
        registry.save(
            stream.id,
            0,
            epoch,
            next_offset=10,
            state=State(b"before"),
            boundaries=[boundary(1)],
            requests=[asked(stream, 1)],
            scored=[(1, 0, 10)],
        )
        before = everything(registry.engine)
        parts = {
            "boundaries": [boundary(2)],
            "requests": [asked(stream, 3)],
            "artifacts": {"a": ("segment", b"new")},
            "scored": [(1, 10, 20)],
        } | fault
        with pytest.raises(error):
            registry.save(stream.id, 0, epoch, next_offset=20, state=State(b"after"), **parts)
        assert everything(registry.engine) == before

    def test_a_save_with_a_request_that_is_there_keeps_everything_else(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """A segment that becomes due again under other settings must not stop its partition."""
        epoch = registry.acquire(stream.id, 0, "w").epoch
        first = asked(stream, 1)
        registry.save(stream.id, 0, epoch, next_offset=10, state=State(b"one"), requests=[first])
        longer = replace(first, inputs={"segment": "longer"})
        registry.save(
            stream.id,
            0,
            epoch,
            next_offset=20,
            state=State(b"two"),
            requests=[longer, asked(stream, 2)],
        )
        assert registry.acquire(stream.id, 0, "w").next_offset == 20
        claim = claimed(registry)
        assert [claim.request, *(r for _, r in claim.folded)] == [first, asked(stream, 2)]
        kinds = column(registry.engine, "SELECT kind FROM ledger ORDER BY id")
        assert kinds == ["stream", "request", "request", "request_claimed"]

    def test_a_damaged_checkpoint_is_refused(self, registry: SqlRegistry, stream: Stream) -> None:
        """Nobody goes on from a state that is not the one saved, and the refusal takes no epoch."""
        epoch = registry.acquire(stream.id, 0, "w").epoch
        registry.save(stream.id, 0, epoch, next_offset=1, state=State(b"state"))
        change(registry.engine, "UPDATE checkpoints SET state = :bad", bad=b"stale")
        before = everything(registry.engine)
        with pytest.raises(ArtifactCorrupt, match="partition 0 does not match its hash"):
            registry.acquire(stream.id, 0, "w2")
        assert everything(registry.engine) == before

    def test_scored_ranges_grow_and_begin(self, registry: SqlRegistry, stream: Stream) -> None:
        """Which version scored an offset: one row a stretch, however many checkpoints it took."""
        one, two = next_version(registry, stream), next_version(registry, stream)
        epoch = registry.acquire(stream.id, 0, "w").epoch
        end = 0
        for ranges in (
            [(one.id, 0, 10)],
            [(one.id, 10, 20)],  # goes on
            [(one.id, 20, 25), (two.id, 25, 30)],  # another version in the middle of a save
            [],
            [(two.id, 30, 40)],
            [(two.id, 45, 50)],  # after a hole: not the same stretch
            [(one.id, 50, 51)],  # rolled back
        ):
            end = ranges[-1][2] if ranges else end
            registry.save(stream.id, 0, epoch, next_offset=end, state=State(b""), scored=ranges)
        other = registry.acquire(stream.id, 1, "w").epoch
        registry.save(stream.id, 1, other, next_offset=9, state=State(b""), scored=[(one.id, 0, 9)])
        rows = everything(registry.engine)["scored"]
        assert [row[2:] for row in rows] == [
            (0, one.id, 0, 25),
            (0, two.id, 25, 40),
            (0, two.id, 45, 50),
            (0, one.id, 50, 51),
            (1, one.id, 0, 9),
        ]

    @pytest.mark.parametrize("first", [0, 5, 9])
    def test_an_offset_is_scored_once(
        self, registry: SqlRegistry, stream: Stream, first: int
    ) -> None:
        """Two answers to "which version scored this?" would be none."""
        version = next_version(registry, stream)
        epoch = registry.acquire(stream.id, 0, "w").epoch
        registry.save(
            stream.id, 0, epoch, next_offset=10, state=State(b""), scored=[(version.id, 0, 10)]
        )
        with pytest.raises(RegistryError, match=f"partition 0: offsets {first} to 10 scored twice"):
            registry.save(
                stream.id,
                0,
                epoch,
                next_offset=20,
                state=State(b""),
                scored=[(version.id, first, 20)],
            )

    # Artifacts --------------------------------------------------------------------------------

    def test_content_is_kept_once_under_its_hash(self, registry: SqlRegistry) -> None:
        """The name is the content's sha256, whoever brings it and as whatever."""
        content = bytes(range(256)) * 3
        assert registry.put("segment", content) == sha(content)
        assert registry.put("reservoir", content) == sha(content)
        assert registry.get(sha(content)) == content
        assert registry.put("segment", b"") == sha(b"")
        assert registry.get(sha(b"")) == b""
        assert column(registry.engine, "SELECT COUNT(*) FROM artifacts") == [2]

    def test_the_same_content_put_at_once_is_one_row(
        self, registry: SqlRegistry, second: SqlRegistry
    ) -> None:
        """Two partitions may stage the same readings in the same moment."""
        for round_ in range(ROUNDS):
            content = f"{round_}".encode()
            assert (
                race(
                    lambda c=content: registry.put("segment", c),
                    lambda c=content: second.put("segment", c),
                )
                == [sha(content)] * 2
            )

    @pytest.mark.parametrize("damage", [b"weights2", b"", b"Weights"])
    def test_a_damaged_artifact_is_refused(self, registry: SqlRegistry, damage: bytes) -> None:
        """A flipped bit on the disk must not become a model that scores."""
        name = registry.put("weights", b"weights")
        change(registry.engine, "UPDATE artifacts SET content = :bad", bad=damage)
        with pytest.raises(ArtifactCorrupt, match=f"{name} does not match its hash"):
            registry.get(name)

    def test_a_damaged_artifact_is_whole_again_when_it_is_brought_again(
        self, registry: SqlRegistry
    ) -> None:
        """A segment that is staged again after a crash mends what the disk had lost."""
        name = registry.put("segment", b"readings")
        change(registry.engine, "UPDATE artifacts SET content = :bad", bad=b"rubbish")
        assert registry.put("segment", b"readings") == name
        assert registry.get(name) == b"readings"

    def test_a_missing_artifact_is_named(self, registry: SqlRegistry) -> None:
        """Lost is refused like damaged: under its name."""
        with pytest.raises(ArtifactCorrupt, match="abc is not in the database"):
            registry.get("abc")

    # Requests ---------------------------------------------------------------------------------

    def test_a_request_comes_back_as_it_was_made(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """Whoever works on it knows all that the asker knew."""
        made = replace(
            asked(stream), actor="Zoë", note="line 1\nline 2", inputs={"segment": "a", "b": "c"}
        )
        number = registry.submit(made)
        claim = claimed(registry)
        assert claim == Claim(id=number, request=made, fence=1, attempts=1)
        assert registry.last_request(stream.id) == number

    def test_a_segment_is_asked_for_once_a_reason(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """A crash between saving and committing makes the same request again: it is there."""
        assert registry.submit(asked(stream)) is not None
        before = everything(registry.engine)
        assert registry.submit(asked(stream, note="again")) is None
        assert everything(registry.engine) == before
        for other in (
            asked(stream, reason="refine"),
            asked(stream, 2),
            asked(stream, series="other"),
            asked(stream, partition=1),
        ):
            assert registry.submit(other) is not None

    def test_a_due_time_is_asked_for_once(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """Two schedulers, or one that was restarted, ask for each due time once between them."""
        for due in range(ROUNDS):
            request = Request(stream_id=stream.id, reason="schedule", due=due)
            answers = race(lambda r=request: registry.submit(r), lambda r=request: second.submit(r))
            assert answers.count(None) == 1
        other = registry.open_stream("other", [])
        assert registry.submit(Request(stream_id=other.id, reason="schedule", due=0)) is not None
        assert column(registry.engine, "SELECT COUNT(*) FROM requests") == [ROUNDS + 1]

    def test_a_request_by_hand_may_be_repeated(self, registry: SqlRegistry, stream: Stream) -> None:
        """A person who asks twice means it."""
        assert registry.submit(by_hand(stream)) != registry.submit(by_hand(stream))

    @pytest.mark.parametrize("wrong", [{"stream_id": 99}, {"reason": "whim"}])
    def test_a_wrong_request_is_not_taken_for_a_known_one(
        self, registry: SqlRegistry, stream: Stream, wrong: dict[str, Any]
    ) -> None:
        """Only "the same one is there" is answered with None; anything else must be heard."""
        with pytest.raises(IntegrityError):
            registry.submit(replace(by_hand(stream), **wrong))
        assert everything(registry.engine)["requests"] == []

    def test_there_may_be_nothing_to_claim(self, registry: SqlRegistry, stream: Stream) -> None:
        """An idle trainer asks four times a second: None, and nothing written."""
        before = everything(registry.engine)
        assert registry.claim("t", LEASE_S) is None
        assert registry.last_request(stream.id) == 0
        assert everything(registry.engine) == before

    def test_the_oldest_is_claimed_and_takes_the_others_along(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """Ten boundaries during one training need one more training, not ten."""
        made = [asked(stream, n) for n in range(4)]
        numbers = [registry.submit(request) for request in made]
        claim = claimed(registry)
        assert (claim.id, claim.request) == (numbers[0], made[0])
        assert claim.folded == tuple(zip(numbers[1:], made[1:], strict=True))
        assert self.statuses(registry) == ["claimed", "folded", "folded", "folded"]
        registry.finish(claim, "version 1")
        assert self.statuses(registry) == ["done"] * 4
        outcomes = column(registry.engine, "SELECT outcome FROM requests ORDER BY id")
        assert outcomes == ["version 1"] + [f"with request {claim.id}: version 1"] * 3

    def test_a_claim_takes_so_many_along_and_no_more(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """A backlog of a night is worked off in bounded portions, none forgotten."""
        for segment in range(FOLD_LIMIT + 3):
            registry.submit(asked(stream, segment))
        first = claimed(registry)
        assert len(first.folded) == FOLD_LIMIT
        registry.finish(first, "done")
        rest = claimed(registry)
        assert (rest.request.segment, len(rest.folded)) == (FOLD_LIMIT + 1, 1)

    def test_one_stream_is_worked_on_by_one(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """Two trainings from one champion would compete; another stream need not wait."""
        registry.submit(asked(stream, 1))
        first = claimed(registry)
        registry.submit(asked(stream, 2))  # comes while the first is worked on
        assert second.claim("t2", LEASE_S) is None
        other = second.open_stream("other", [])
        second.submit(by_hand(other))
        assert claimed(second, "t2").request.stream_id == other.id
        registry.finish(first, "done")
        assert claimed(second, "t2").request.segment == 2

    def test_two_racing_claims_have_one_winner(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """Whatever the interleaving: one works, with everything; the other finds nothing."""
        for round_ in range(ROUNDS):
            for n in range(3):
                registry.submit(asked(stream, 3 * round_ + n))
            answers = race(
                lambda: registry.claim("t1", LEASE_S), lambda: second.claim("t2", LEASE_S)
            )
            won = [claim for claim in answers if claim is not None]
            assert len(won) == 1
            assert won[0].fence == won[0].attempts == 1
            assert column(
                registry.engine, "SELECT COUNT(*) FROM requests WHERE status = 'claimed'"
            ) == [1]
            registry.finish(won[0], "done")
            while (rest := registry.claim("t1", LEASE_S)) is not None:
                registry.finish(rest, "done")

    def test_racing_claims_of_two_streams_lose_none(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """Both trainers have work at the latest at their second look."""
        other = registry.open_stream("other", [])
        for round_ in range(ROUNDS):
            for known in (stream, other):
                registry.submit(asked(known, round_))
            answers = race(
                lambda: registry.claim("t1", LEASE_S), lambda: second.claim("t2", LEASE_S)
            )
            claims = [claim for claim in answers if claim is not None]
            while (late := registry.claim("t1", LEASE_S)) is not None:
                claims.append(late)
            assert sorted(c.request.stream_id for c in claims) == [stream.id, other.id]
            for claim in claims:
                registry.finish(claim, "done")

    def test_what_was_folded_comes_back_if_the_claim_fails(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """A request must not be lost with the one that took it along, whether that is retried..."""
        for segment in range(3):
            registry.submit(asked(stream, segment))
        first = claimed(registry)
        registry.release(first, "interrupted")
        assert self.statuses(registry) == ["pending"] * 3
        again = claimed(registry)
        assert (again.id, again.folded, again.fence) == (first.id, first.folded, first.fence + 1)
        registry.fail(again, "no data", retry=False)  # ...or not
        assert self.statuses(registry) == ["failed", "pending", "pending"]
        rest = claimed(registry)
        assert [rest.request.segment, *(r.segment for _, r in rest.folded)] == [1, 2]
        assert rest.attempts == 1

    def test_a_request_that_is_tried_again_runs_alone(
        self, registry: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """One whose readings are damaged fails every claim: the good ones get one without it."""
        for segment in range(3):
            registry.submit(asked(stream, segment))
        bad = claimed(registry)
        assert len(bad.folded) == 2
        for _ in range(2):
            registry.fail(bad, "damaged", retry=True)
            clock.pass_s(LONGEST_S)
            bad = claimed(registry, max_attempts=3)
            assert (bad.request.segment, bad.folded) == (0, ())
        registry.fail(bad, "damaged", retry=True)
        clock.pass_s(LONGEST_S)
        good = claimed(registry, max_attempts=3)
        assert [good.request.segment, *(r.segment for _, r in good.folded)] == [1, 2]

    def test_a_failed_attempt_is_followed_by_a_longer_pause_each_time(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """PAUSE_S, twice that, ..., LONGEST_S: three tries within a second are one try.

        What came later waits as well, since requests of a stream are worked off in their order;
        another stream does not.
        """
        registry.submit(asked(stream, 1))
        other = registry.open_stream("other", [])
        pauses = [min(PAUSE_S * 2**n, LONGEST_S) for n in range(10)]
        assert pauses[-1] == LONGEST_S
        for number, pause in enumerate(pauses):
            registry.fail(claimed(registry, max_attempts=99), "the database is away", retry=True)
            registry.submit(asked(stream, 2 + number))
            clock.now += pause * SECOND - 1
            assert second.claim("t2", LEASE_S, max_attempts=99) is None
            clock.now += 1
        registry.fail(claimed(registry, max_attempts=99), "the database is away", retry=True)
        registry.submit(by_hand(other))
        assert claimed(second).request.stream_id == other.id

    def test_a_claim_that_is_given_back_was_no_attempt(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """A trainer that is told to stop says nothing about the request."""
        registry.submit(by_hand(stream))
        for fence in range(1, 6):
            claim = claimed(registry, max_attempts=1)
            assert (claim.fence, claim.attempts) == (fence, 1)
            registry.release(claim, "interrupted")
        assert self.statuses(registry) == ["pending"]
        kinds = column(registry.engine, "SELECT kind FROM ledger ORDER BY id")
        assert kinds[2:] == ["request_claimed", "request_released"] * 5

    def test_an_expired_lease_is_taken_over(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """A trainer that died holds nothing for longer than its lease."""
        for segment in range(2):
            registry.submit(asked(stream, segment))
        old = claimed(registry, "t1")
        clock.pass_s(LEASE_S)
        assert second.claim("t2", LEASE_S) is None  # to the microsecond, it still is t1's
        clock.now += 1
        new = claimed(second, "t2")
        assert (new.id, new.folded) == (old.id, ())  # it may have been what killed t1: alone
        assert (new.fence, new.attempts) == (old.fence + 1, old.attempts + 1)
        told = "SELECT {} FROM ledger WHERE kind <> 'stream' AND kind <> 'request' ORDER BY id"
        kinds, entries = (column(registry.engine, told.format(c)) for c in ("kind", "entry"))
        rows = list(zip(kinds, map(json.loads, entries), strict=True))
        first = {"request": old.id, "owner": "t1", "fence": 1, "attempts": 1, "folded": [2]}
        taken = {"request": old.id, "owner": "t2", "fence": 2, "attempts": 2, "folded": []}
        assert rows == [
            ("request_claimed", first),
            ("request_expired", {"request": old.id, "owner": "t1"}),
            ("request_claimed", taken),
        ]

    def test_what_is_looked_up_at_once_is_of_one_moment(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """Another writes between two looks: the second sees what the first saw, and the entry that
        is named is the last one of that moment."""
        registry.submit(asked(stream, 1))

        def look(then: SqlRegistry) -> list[int]:
            seen = [then.last_request(stream.id)]
            second.submit(asked(stream, 2))
            return [*seen, then.last_request(stream.id)]

        assert registry.at_once(look) == (2, [1, 1])
        assert registry.last_request(stream.id) == 2

    def test_a_renewed_lease_is_not_taken_over(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """Training may take longer than a lease, as long as it shows signs of life."""
        registry.submit(by_hand(stream))
        claim = claimed(registry)
        for _ in range(3):
            clock.pass_s(LEASE_S - 1)
            registry.renew(claim, LEASE_S)
            assert second.claim("t2", LEASE_S) is None
        registry.finish(claim, "done")

    def test_a_lease_that_ran_out_unnoticed_is_still_good(
        self, registry: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """Late, but nobody else began: the work counts, the fence decides and not the clock."""
        registry.submit(by_hand(stream))
        claim = claimed(registry)
        clock.pass_s(10 * LEASE_S)
        registry.renew(claim, LEASE_S)
        registry.finish(claim, "done")
        assert self.statuses(registry) == ["done"]

    @pytest.mark.parametrize("now", ["taken over", "pending again", "done", "failed"])
    @pytest.mark.parametrize("act", ["register", "assign", "finish", "fail", "release", "renew"])
    def test_who_lost_the_lease_writes_nothing(
        self,
        registry: SqlRegistry,
        second: SqlRegistry,
        stream: Stream,
        clock: Clock,
        now: str,
        act: str,
    ) -> None:
        """The old holder wakes up with a finished model: whatever it does is refused whole."""
        for segment in range(2):
            registry.submit(asked(stream, segment))
        old = claimed(registry, "t1")
        if now == "pending again":
            registry.release(old, "interrupted")
        else:
            clock.pass_s(LEASE_S + 1)
            new = claimed(second, "t2")
            if now == "done":
                second.finish(new, "done")
            elif now == "failed":
                second.fail(new, "no", retry=False)
        before = everything(registry.engine)
        acts: dict[str, Callable[[], object]] = {
            "register": lambda: register(registry, old, promoted(), parent=None),
            "assign": lambda: registry.assign(old, old.id, PRINT),
            "finish": lambda: registry.finish(old, "done"),
            "release": lambda: registry.release(old, "too late"),
            "fail": lambda: registry.fail(old, "no", retry=True),
            "renew": lambda: registry.renew(old, LEASE_S),
        }
        with pytest.raises(LeaseLost, match=f"request {old.id} is no longer ours"):
            acts[act]()
        assert everything(registry.engine) == before

    def test_old_and_new_holder_race_to_register(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """One version comes of a request, however the two meet; the stream has one champion."""
        for _ in range(ROUNDS):
            registry.submit(by_hand(stream))
            parent = registry.champion(stream.id)
            old = claimed(registry, "t1")
            clock.pass_s(LEASE_S + 1)
            new = claimed(second, "t2")
            answers = race(
                lambda c=old, p=parent: register(registry, c, promoted(), parent=p),
                lambda c=new, p=parent: register(second, c, promoted(), parent=p),
            )
            assert isinstance(answers[0], LeaseLost)
            assert answers[1] == registry.champion(stream.id)
        assert column(registry.engine, "SELECT number FROM versions ORDER BY id") == list(
            range(1, ROUNDS + 1)
        )

    def test_a_poisonous_request_is_given_up(
        self, registry: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """It fails every time: after three attempts it stops, says why, and blocks nobody."""
        poison = registry.submit(asked(stream, 1))
        behind = registry.submit(asked(stream, 2))
        for attempt in range(1, 4):
            claim = claimed(registry, max_attempts=3)
            assert (claim.id, claim.attempts) == (poison, attempt)
            registry.fail(claim, f"loss is NaN ({attempt})", retry=True)
            clock.pass_s(LONGEST_S)
        assert claimed(registry, max_attempts=3).id == behind
        assert self.statuses(registry) == ["failed", "claimed"]
        reason = "given up after 3 attempts: loss is NaN (3)"
        assert column(registry.engine, "SELECT outcome FROM requests WHERE id = 1") == [reason]
        assert column(registry.engine, "SELECT finished FROM requests WHERE id = 1") == [
            registry.clock()
        ]
        kinds = column(registry.engine, "SELECT kind FROM ledger ORDER BY id")
        attempt = ["request_claimed", "request_failed"]
        given_up = ["request_failed", "request_claimed"]
        assert kinds == ["stream", "request", "request", *attempt * 3, *given_up]

    def test_a_request_that_kills_its_trainer_is_given_up_too(
        self, registry: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """No one comes back to say what went wrong: the lease's end counts as an attempt."""
        registry.submit(by_hand(stream))
        for attempt in (1, 2):
            assert claimed(registry, max_attempts=2).attempts == attempt
            clock.pass_s(LEASE_S + 1)
        assert registry.claim("t", LEASE_S, max_attempts=2) is None
        assert column(registry.engine, "SELECT outcome FROM requests") == [
            "given up after 2 attempts: the lease ran out"
        ]

    @staticmethod
    def statuses(registry: SqlRegistry) -> list[str]:
        return column(registry.engine, "SELECT status FROM requests ORDER BY id")

    # Tasks ------------------------------------------------------------------------------------

    def test_a_segment_is_given_a_new_or_a_known_task(
        self, registry: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """Regimes are numbered as they appear; one that returns is recognised, not numbered."""
        one, two, three = (registry.submit(asked(stream, n)) for n in range(3))
        assert one is not None and two is not None and three is not None  # noqa: PT018
        assert registry.task_of(one) is None
        claim = claimed(registry)
        first = registry.assign(claim, one, PRINT)
        second_ = registry.assign(claim, two, PRINT + 9)
        assert registry.assign(claim, three, PRINT + 0.1) == first
        assert [registry.task_of(n) for n in (one, two, three)] == [first, second_, first]
        tasks = registry.tasks(stream.id)
        assert [(t.id, t.number) for t in tasks] == [(first, 1), (second_, 2)]
        assert np.array_equal(tasks[0].fingerprint, PRINT)
        assert np.array_equal(tasks[1].fingerprint, PRINT + 9)
        said = "SELECT {} FROM segments ORDER BY segment"
        assert column(registry.engine, said.format("recurrence")) == [False, False, True]
        away = [apart(PRINT + 9, PRINT), apart(PRINT + 0.1, PRINT)]
        assert column(registry.engine, said.format("distance")) == [
            None,
            *(distance / NEW_FROM_ELSEWHERE for distance in away),
        ]
        assert registry.segments(stream.id) == [
            Asked(request=one, task=first, segment="segment-0", finished=None),
            Asked(request=two, task=second_, segment="segment-1", finished=None),
            Asked(request=three, task=first, segment="segment-2", finished=None),
        ]
        registry.finish(claim, "done")
        assert {each.finished for each in registry.segments(stream.id)} == {clock.now}

    def test_a_segment_is_named_once_however_often_it_is_asked_for(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """Whoever comes later is told what was said first: no second task, no second entry."""
        number = registry.submit(asked(stream)) or 0
        claim = claimed(registry)
        first = registry.assign(claim, number, PRINT)
        before = everything(registry.engine)
        assert second.assign(claim, number, PRINT + 9) == first
        assert everything(registry.engine) == before

    def test_a_segment_named_twice_at_once_is_one_task(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """A trainer that was slow, and the same claim in another thread: one task of it."""
        for round_ in range(ROUNDS):
            number = registry.submit(asked(stream, round_)) or 0
            claim = claimed(registry)
            one, two = race(
                lambda c=claim, n=number, p=PRINT * 4**round_: registry.assign(c, n, p),
                lambda c=claim, n=number, p=PRINT * 4**round_: second.assign(c, n, p),
            )
            assert one == two == registry.task_of(number)
            assert len(registry.tasks(stream.id)) == round_ + 1
            registry.finish(claim, "done")

    def test_later_requests_of_a_segment_have_the_task_of_its_first(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """More readings of one segment do not make another regime of it."""
        one = registry.submit(asked(stream, 1)) or 0
        more = registry.submit(asked(stream, 1, reason="refine")) or 0
        other = registry.submit(asked(stream, 1, series="fan")) or 0
        claim = claimed(registry)
        first = registry.assign(claim, one, PRINT)
        assert registry.assign(claim, more, PRINT + 50) == first
        assert registry.task_of(more) == first
        assert registry.assign(claim, other, PRINT + 50) != first

    def test_a_segment_is_measured_on_once_by_its_newest_readings(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """The first 256 readings are the beginning of the first 2000: they must not count twice."""
        numbers = [
            registry.submit(asked(stream, n, reason=reason, inputs={"segment": f"{reason}-{n}"}))
            for n, reason in ((1, "boundary"), (2, "boundary"), (1, "refine"))
        ]
        claim = claimed(registry)
        task = registry.assign(claim, numbers[0] or 0, PRINT)
        for number in numbers[1:]:
            registry.assign(claim, number or 0, PRINT)
        last = numbers[2] or 0
        assert registry.held_out(stream.id, last, 8) == {task: ["refine-1", "boundary-2"]}
        assert registry.held_out(stream.id, last - 1, 8) == {task: ["boundary-2", "boundary-1"]}

    def test_tasks_belong_to_their_stream(self, registry: SqlRegistry, stream: Stream) -> None:
        """Each stream numbers its own regimes from 1 and sees no other's."""
        other = registry.open_stream("other", [])
        for known in (stream, other):
            number = registry.submit(asked(known))
            assert number is not None
            registry.assign(claimed(registry), number, PRINT)
        assert [t.number for t in registry.tasks(stream.id)] == [1]
        assert [t.number for t in registry.tasks(other.id)] == [1]
        assert len(registry.segments(other.id)) == 1

    def test_held_out_readings_are_the_newest_of_each_task(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """What a version is measured on follows from the order of requests in SQL alone."""
        numbers = [registry.submit(asked(stream, n)) for n in range(6)]
        claim = claimed(registry)
        a = registry.assign(claim, numbers[0] or 0, PRINT)
        b = registry.assign(claim, numbers[1] or 0, PRINT + 50)
        for number, away in zip(numbers[2:5], (0, 0, 50), strict=True):
            registry.assign(claim, number or 0, PRINT + away)
        upto = numbers[4] or 0
        assert registry.held_out(stream.id, upto, 8) == {
            a: ["segment-3", "segment-2", "segment-0"],
            b: ["segment-4", "segment-1"],
        }
        assert registry.held_out(stream.id, upto, 1) == {a: ["segment-3"], b: ["segment-4"]}
        assert registry.held_out(stream.id, numbers[2] or 0, 2) == {
            a: ["segment-2", "segment-0"],
            b: ["segment-1"],
        }
        assert registry.held_out(stream.id, 0, 8) == {}

    def test_each_partition_has_its_newest_reservoir(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """Replay comes from what each partition had kept when the last request was made."""
        registry.submit(by_hand(stream))
        registry.submit(asked(stream, 1))
        upto = registry.submit(asked(stream, 2, partition=1)) or 0
        registry.submit(by_hand(stream))
        later = registry.submit(asked(stream, 3)) or 0
        assert registry.latest_reservoirs(stream.id, upto) == {0: "reservoir-1", 1: "reservoir-2"}
        assert registry.latest_reservoirs(stream.id, later) == {0: "reservoir-3", 1: "reservoir-2"}
        assert registry.latest_reservoirs(stream.id, 0) == {}
        other = registry.open_stream("other", [])
        assert registry.latest_reservoirs(other.id, later) == {}
        assert registry.last_request(stream.id) == later
        assert registry.last_request(other.id) == 0

    # Versions ---------------------------------------------------------------------------------

    def test_a_version_is_kept_with_all_that_is_known_of_it(
        self, registry: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """Weights, state, figures, R's row, the request's end, the promotion: all at once."""
        for segment in range(2):
            registry.submit(asked(stream, segment))
        claim = claimed(registry)
        tasks = [
            registry.assign(claim, number, PRINT * 4**number)
            for number in (claim.id, claim.folded[0][0])
        ]
        made = candidate(
            {tasks[0]: 0.75, tasks[1]: 0.5},
            {tasks[0]: 0.25},
            weights=b"\x00w",
            loss_after=0.125,
            seconds=2.0,
        )
        clock.pass_s(3)
        version = register(registry, claim, promoted("it is better"), parent=None, made=made)
        assert version == Version(
            id=version.id,
            stream_id=stream.id,
            number=1,
            parent_id=None,
            sha256=sha(b"\x00w"),
            ewc_sha256=sha(b"ewc of \x00w"),
            status="champion",
        )
        assert registry.champion(stream.id) == registry.first_version(stream.id) == version
        assert registry.get(version.sha256) == b"\x00w"
        assert registry.get(version.ewc_sha256 or "") == b"ewc of \x00w"
        assert registry.skills(version.id) == {tasks[0]: 0.75, tasks[1]: 0.5}
        rows = everything(registry.engine)
        assert rows["metrics"] == [(version.id, "loss_after", 0.125), (version.id, "seconds", 2.0)]
        assert rows["evaluations"] == [
            (version.id, tasks[0], 0.75, 0.25, 40, 1.0, 0.25),
            (version.id, tasks[1], 0.5, None, 40, 1.0, 0.25),
        ]
        assert self.statuses(registry) == ["done", "done"]
        assert column(registry.engine, "SELECT outcome FROM requests ORDER BY id") == [
            "version 1 promoted: it is better",
            f"with request {claim.id}: version 1 promoted: it is better",
        ]
        assert [row[2:6] for row in rows["promotions"]] == [(version.id, clock.now, None, "gate")]
        kinds = column(registry.engine, "SELECT kind FROM ledger ORDER BY id")
        assert kinds[-2:] == ["version", "promotion"]

    def test_a_rejected_version_is_kept_and_changes_nothing(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """Why something did not become champion is asked as often as why it did."""
        champion = next_version(registry, stream)
        before = everything(registry.engine)["promotions"]
        version = next_version(registry, stream, rejected("task 1 got worse"))
        assert (version.number, version.status, version.parent_id) == (2, "rejected", champion.id)
        assert registry.champion(stream.id) == champion
        assert everything(registry.engine)["promotions"] == before
        outcome = column(registry.engine, "SELECT outcome FROM requests WHERE id = 2")
        assert outcome == ["version 2 rejected: task 1 got worse"]

    def test_a_version_without_ewc_state_has_none(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """Strategies without an anchor leave nothing to keep, not an empty artifact."""
        made = replace(candidate(), ewc=b"")
        assert next_version(registry, stream, made=made).ewc_sha256 is None

    def test_equal_weights_may_come_twice(self, registry: SqlRegistry, stream: Stream) -> None:
        """A retraining that finds nothing new makes the same bytes: one artifact, two versions."""
        one, two = next_version(registry, stream), next_version(registry, stream)
        assert (one.sha256, one.number, two.number) == (two.sha256, 1, 2)

    @pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf])
    def test_figures_that_are_not_finite_do_not_stop_a_rejection(
        self, registry: SqlRegistry, stream: Stream, figure: float
    ) -> None:
        """The gate rejects such a candidate; that must be recorded, on every database alike."""
        number, other = (registry.submit(asked(stream, n)) or 0 for n in (1, 2))
        claim = claimed(registry)
        task = registry.assign(claim, number, PRINT)
        second_ = registry.assign(claim, other, PRINT + 50)
        parent = {second_: figure}
        made = candidate({task: figure, second_: 0.5}, parent, average_skill=figure, seconds=1.0)
        version = register(registry, claim, rejected(), parent=None, made=made)
        assert version.status == "rejected"
        assert registry.skills(version.id) == {second_: 0.5}
        assert column(registry.engine, "SELECT name FROM metrics") == ["seconds"]
        assert column(registry.engine, "SELECT parent_skill FROM evaluations") == [None]
        entry = json.loads(
            column(registry.engine, "SELECT entry FROM ledger WHERE kind = 'version'")[0]
        )
        assert entry["skills"] == {str(task): str(figure), str(second_): 0.5}

    def test_each_promotion_ends_the_one_before(
        self, registry: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """The live intervals touch and never overlap: [a, b), [b, c), [c, ...)."""
        made, times = [], []
        for _ in range(3):
            clock.pass_s(10)
            made.append(next_version(registry, stream))
            times.append(clock.now)
        assert self.live(registry) == [
            (made[0].id, times[0], times[1]),
            (made[1].id, times[1], times[2]),
            (made[2].id, times[2], None),
        ]
        assert column(registry.engine, "SELECT status FROM versions ORDER BY id") == [
            "retired",
            "retired",
            "champion",
        ]
        assert [v.parent_id for v in made] == [None, made[0].id, made[1].id]
        assert registry.first_version(stream.id) == replace(made[0], status="retired")
        assert registry.lives(stream.id) == [
            (at, version.sha256) for at, version in zip(times, made, strict=True)
        ]
        assert registry.champion(stream.id) == made[2]

    def test_a_clock_that_goes_back_makes_no_interval_backwards(
        self, registry: SqlRegistry, stream: Stream, clock: Clock
    ) -> None:
        """After a time correction the new version is live from where the old one's time began."""
        began = clock.now
        next_version(registry, stream)
        clock.pass_s(-100)
        next_version(registry, stream)
        clock.pass_s(-100)
        next_version(registry, stream)
        assert [(a, b) for _, a, b in self.live(registry)] == [
            (began, began),
            (began, began),
            (began, None),
        ]

    def test_no_version_yet(self, registry: SqlRegistry, stream: Stream) -> None:
        """Before the bootstrap there is nothing to score with, and that is no error."""
        assert registry.champion(stream.id) is None
        assert registry.first_version(stream.id) is None
        assert registry.lives(stream.id) == []
        assert registry.skills(1) == {}

    def test_streams_have_their_own_champions(self, registry: SqlRegistry, stream: Stream) -> None:
        """Numbers, champions and promotions of two topics do not touch."""
        other = registry.open_stream("other", [])
        one, two = next_version(registry, stream), next_version(registry, other)
        assert (one.number, two.number) == (1, 1)
        assert registry.champion(stream.id) == one
        assert registry.champion(other.id) == two

    @pytest.mark.parametrize("measured_against", ["nothing", "an older one"])
    def test_a_champion_that_changed_meanwhile_is_a_conflict(
        self, registry: SqlRegistry, stream: Stream, measured_against: str
    ) -> None:
        """The gate compared with a champion that is gone: its yes is void, nothing is written."""
        old = next_version(registry, stream)
        next_version(registry, stream)
        registry.submit(by_hand(stream))
        claim = claimed(registry)
        before = everything(registry.engine)
        parent = None if measured_against == "nothing" else old
        with pytest.raises(VersionConflict, match="champion"):
            register(registry, claim, promoted(), parent=parent, made=candidate(weights=b"new"))
        assert everything(registry.engine) == before
        registry.release(claim, "conflict")  # the claim is still ours
        assert self.statuses(registry)[-1] == "pending"

    @pytest.mark.parametrize("first", [True, False], ids=["first version", "later version"])
    def test_two_racing_promotions_make_one_champion(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream, first: bool
    ) -> None:
        """Two candidates measured against the same champion: the database lets one through."""
        for round_ in range(ROUNDS):
            here = registry.open_stream(f"raced-{round_}", [])
            champion = None if first else next_version(registry, here)
            rivals = [next_version(registry, here, rejected()).id for _ in range(2)]
            change(
                registry.engine,
                "UPDATE versions SET status = 'candidate' WHERE id IN (:a, :b)",
                a=rivals[0],
                b=rivals[1],
            )

            def promote(
                own: SqlRegistry, id_: int, s: Stream = here, c: Version | None = champion
            ) -> None:
                with writing(own.engine) as conn:
                    versions.promote(conn, s.id, id_, c, "better", at=own.clock())

            answers = race(
                lambda p=promote, r=rivals: p(registry, r[0]),
                lambda p=promote, r=rivals: p(second, r[1]),
            )
            assert sorted(str(type(a).__name__) for a in answers) == [
                "NoneType",
                "VersionConflict",
            ]
            won = rivals[answers.index(None)]
            now = registry.champion(here.id)
            assert now is not None
            assert now.id == won
            open_ = "SELECT version_id FROM promotions WHERE stream_id = :s AND live_until IS NULL"
            assert column(registry.engine, open_, s=here.id) == [won]

    @staticmethod
    def live(registry: SqlRegistry) -> list[tuple[Any, ...]]:
        return [row[2:5] for row in everything(registry.engine)["promotions"]]

    def test_a_reader_sees_one_moment(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """An answer comes from several tables; a promotion in between is not half in it."""
        champion = next_version(registry, stream)
        with reading(second.engine) as conn:
            status = conn.execute(select(t.versions.c.status)).scalar_one()
            next_version(registry, stream)
            live = conn.execute(select(t.promotions.c.version_id).where(t.is_live)).scalar_one()
            count = conn.execute(select(func.count()).select_from(t.versions)).scalar_one()
        assert (status, live, count) == ("champion", champion.id, 1)
        with reading(second.engine) as conn:
            assert conn.execute(select(func.count()).select_from(t.versions)).scalar_one() == 2

    # Leases -----------------------------------------------------------------------------------

    def test_a_lease_has_one_holder(
        self, registry: SqlRegistry, second: SqlRegistry, clock: Clock
    ) -> None:
        """Two schedulers: one acts, the other takes over when the first has been silent."""
        assert registry.lease("scheduler", "a", 10)
        assert not second.lease("scheduler", "b", 10)
        assert second.lease("other", "b", 10)
        clock.pass_s(8)
        assert registry.lease("scheduler", "a", 10)  # renewed
        clock.pass_s(10)
        assert not second.lease("scheduler", "b", 10)  # to the microsecond
        clock.now += 1
        assert second.lease("scheduler", "b", 10)
        assert not registry.lease("scheduler", "a", 10)

    def test_racing_for_a_lease_has_one_winner(
        self, registry: SqlRegistry, second: SqlRegistry, clock: Clock
    ) -> None:
        """A lease that nobody ever held, and one that has just ended: one is first."""
        for round_ in range(ROUNDS):
            for _ in range(2):
                answers = race(
                    lambda r=round_: registry.lease(f"l{r}", "a", 10),
                    lambda r=round_: second.lease(f"l{r}", "b", 10),
                )
                assert sorted(answers) == [False, True]
                clock.pass_s(10.5)

    # Several processes ------------------------------------------------------------------------

    def test_processes_write_at_once(self, registry: SqlRegistry) -> None:
        """No error such as `database is locked` reaches a process, and nothing gets lost."""
        workers, rounds = 3, 10
        context = multiprocessing.get_context("spawn")
        line, found = context.Barrier(workers), context.Queue()
        processes = [
            context.Process(target=work, args=(registry.database.url, n, rounds, line, found))
            for n in range(workers)
        ]
        for process in processes:
            process.start()
        failures = [found.get(timeout=120) for _ in processes]
        for process in processes:
            process.join()
        assert failures == [[]] * workers
        ends = column(registry.engine, "SELECT next_offset FROM checkpoints")
        assert ends == [rounds] * workers
        asked_ = column(registry.engine, "SELECT COUNT(*) FROM requests")
        assert asked_ == [workers * rounds]
        assert len(everything(registry.engine)["artifacts"]) == workers * rounds


class TestOnSqlite(RegistryContract):
    @pytest.fixture
    def database(self, sqlite_at_head: Database) -> Database:
        """A new file."""
        return sqlite_at_head

    def test_a_locked_file_is_reported_after_the_timeout(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """Somebody's open transaction: waited for as long as set, then said in one line."""
        hurried = Database(url=registry.database.url, busy_timeout_s=0.05)
        other = SqlRegistry(hurried)
        with writing(registry.engine):
            assert other.champion(stream.id) is None  # who reads does not wait
            with pytest.raises(RegistryError, match=r"database is locked$"):
                other.put("segment", b"x")
        assert other.put("segment", b"x")
        other.close()

    def test_a_decision_survives_a_power_cut(self, sqlite_at_head: Database) -> None:
        """In WAL mode only `synchronous = FULL` (2) waits for the disk at every commit."""
        registry = SqlRegistry(sqlite_at_head)
        with writing(registry.engine) as conn:
            assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        registry.close()

    def test_a_large_checkpoint_s_log_is_brought_in_afterwards(
        self, registry: SqlRegistry, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not by its commit, in a thread. A connection that wrote much, or failed to, is as any
        other then.
        """
        bring_in, may = engine._bring_in, threading.Event()
        brought = threading.Event()

        def held(what: Engine) -> None:
            assert may.wait(10)
            bring_in(what)
            brought.set()

        monkeypatch.setattr(engine, "_bring_in", held)
        file = engine.sqlite_file(registry.engine.url)
        assert file is not None
        size = LARGE + 1
        epoch = registry.acquire(stream.id, 0, "w").epoch
        state = State(b"h", [Piece("series", 0, 0, bytes(size))])
        registry.save(stream.id, 0, epoch, next_offset=1, state=state)
        assert file.stat().st_size < size
        may.set()
        assert brought.wait(10)
        assert file.stat().st_size >= size
        with pytest.raises(StaleEpoch):
            registry.save(stream.id, 0, epoch - 1, next_offset=2, state=state)
        with reading(registry.engine) as conn:
            assert conn.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar() == 1000

    def test_sqlite_s_log_shrinks_after_a_large_transaction(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """To what it is brought in at; it would keep the size of the largest there ever was."""
        file = engine.sqlite_file(registry.engine.url)
        assert file is not None
        log, limit = Path(f"{file}-wal"), engine.LOG_PAGES * engine.PAGE
        registry.put("segment", bytes(2 * limit))
        assert log.stat().st_size > 2 * limit
        registry.put("segment", b"x")  # the first after all of the log is in the file
        assert log.stat().st_size == limit


class TestOnPostgresql(RegistryContract):
    @pytest.fixture
    def database(self, postgresql_at_head: Database) -> Database:
        """A new database on the server."""
        return postgresql_at_head

    def test_what_is_asked_again_is_planned_once(
        self, registry: SqlRegistry, stream: Stream
    ) -> None:
        """psycopg has the server keep a statement from the sixth time on, until a roll-back."""
        for _ in range(7):
            assert registry.champion(stream.id) is None
        with reading(registry.engine) as conn:
            kept = conn.exec_driver_sql("SELECT statement FROM pg_prepared_statements").scalars()
            assert any("FROM versions" in statement for statement in kept)

    def test_the_server_s_default_isolation_does_not_matter(
        self, postgresql_at_head: Database
    ) -> None:
        """Under REPEATABLE READ, writers that queue up would not see each other's ledger entry."""
        setup = SqlRegistry(postgresql_at_head)
        name = setup.engine.url.database
        level = f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
        change(setup.engine, level)
        stream = setup.open_stream("readings", [])
        setup.close()
        each, threads = 20, 4
        registry = SqlRegistry(postgresql_at_head)

        def submit() -> list[int | None]:
            return [registry.submit(by_hand(stream)) for _ in range(each)]

        numbers = [n for answer in race(*[submit] * threads) for n in answer]
        assert len(set(numbers)) == each * threads
        registry.close()

    def test_requests_are_numbered_in_the_order_in_which_they_are_seen(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream
    ) -> None:
        """One that takes its number early and is seen late would be missing from `upto`."""
        with ThreadPoolExecutor(1) as pool:
            with writing(registry.engine) as conn:
                ledger.append(conn, "tested", {}, at=0)
                late = pool.submit(second.submit, asked(stream, 2))
                while column(registry.engine, WAITING) == [0]:
                    time.sleep(0.01)
                early = requests.submit(conn, asked(stream, 1), at=0)
            assert (early or 0) < (late.result() or 0)

    @pytest.mark.parametrize("ending", ["finish", "release", "fail", "register", "claim"])
    def test_who_waits_for_the_ledger_holds_no_request(
        self, registry: SqlRegistry, second: SqlRegistry, stream: Stream, ending: str
    ) -> None:
        """A checkpoint has the ledger when it names a segment's requests: a trainer that had one of
        them and waited for the ledger would wait for ever."""
        registry.submit(asked(stream))
        claim = registry.claim("t", LEASE_S)
        assert claim is not None
        acts: dict[str, Callable[[], Any]] = {
            "finish": lambda: second.finish(claim, "nothing to train"),
            "release": lambda: second.release(claim, "asked to stop"),
            "fail": lambda: second.fail(claim, "no memory", retry=True),
            "register": lambda: register(second, claim, promoted(), parent=None),
            "claim": lambda: second.claim("u", LEASE_S, max_attempts=1),
        }
        if ending == "claim":  # it was tried once: given up, which the ledger is told
            change(registry.engine, "UPDATE requests SET status = 'pending'")
        with ThreadPoolExecutor(1) as pool:
            with writing(registry.engine) as conn:
                ledger.lock(conn)
                waits = pool.submit(acts[ending])
                while column(registry.engine, WAITING) == [0]:
                    time.sleep(0.01)
                conn.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
                conn.execute(update(t.requests).values(note="named"))
            waits.result()

    def test_a_refused_login_does_not_show_the_password(
        self, postgresql_database: Database
    ) -> None:
        """The server's own words are passed on, and they must not have the secret in them."""
        url = postgresql_database.url.replace("postgres:@", "nobody:s3cret@")
        with pytest.raises(RegistryError, match='role "nobody" does not exist') as caught:
            SqlRegistry(Database(url=url)).streams()
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:s3cret@127.0.0.1:1/tidemark",
        "postgresql://ada@127.0.0.1:1/tidemark?password=s3cret",
        "postgresql://ada@127.0.0.1:1/tidemark?sslpassword=s3cret&connect_timeout=2",
        "postgresql://ada:p@s3cret@127.0.0.1:1/tidemark",
        "postgresql://ada:p@ss:s3cret@127.0.0.1/tidemark",
        "postgresql://ada:p@ss:s3cret/x@127.0.0.1/tidemark",
        "postgresql://ada:s3cret@127.0.0.1:port/tidemark",
        "postgresql+nodriver://ada:s3cret@127.0.0.1:1/tidemark",
        "oracle://ada:s3cret@127.0.0.1:1/tidemark",
        "ada:s3cret@127.0.0.1",
    ],
)
def test_no_error_shows_the_password(url: str) -> None:
    """A wrong URL is printed, logged and sent round by mail; its password must not be."""
    with pytest.raises(PipelineError) as caught:
        SqlRegistry(Database(url=url)).streams()
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        (
            "postgresql://ada:x@127.0.0.1:1/tidemark",
            RegistryError,
            r"ada:.*@127\.0\.0\.1:1/tidemark: .*refused",
        ),
        ("duckdb:///file", SettingsError, "database.url: "),
        ("nonsense", SettingsError, "database.url: "),
    ],
)
def test_a_database_that_cannot_be_used_is_named(
    url: str, error: type[PipelineError], said: str
) -> None:
    """One line says which database and what was wrong with it; a URL does not mend itself."""
    with pytest.raises(error, match=said):
        SqlRegistry(Database(url=url)).streams()


def test_seconds_of_a_lease_are_not_cut(sqlite_at_head: Database) -> None:
    """`run.lease_s = 0.5` is half a second, not none."""
    clock = Clock()
    with opened(sqlite_at_head, clock) as registry:
        stream = registry.open_stream("readings", [])
        registry.submit(by_hand(stream))
        registry.claim("t", 0.5)
        until = column(registry.engine, "SELECT lease_until FROM requests")
        assert until == [clock.now + SECOND // 2]
