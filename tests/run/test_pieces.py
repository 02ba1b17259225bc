"""A partition's state in pieces: however it was written, what is stored is the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import Detect, Learn, Score, Settings
from pipeline.errors import ArtifactCorrupt
from pipeline.records import CHUNK, Batch
from pipeline.register.checkpoints import Key, Piece
from pipeline.run.partition import Partition
from pipeline.run.pieces import SERIES, rows_of
from tests.run.restoring import restore

#: Short enough for a log of some hundred readings to outgrow every part of the state.
QUICK = Settings(
    detect=Detect(warm_up=60, fit_after=200, settle_after=60),
    score=Score(window=4),
    learn=Learn(adapt_after=64, refine_after=0, segment_capacity=540, reservoir_capacity=20),
)
NAMES = ("a", "b", "c")
ROWS = 1400


def values() -> NDArray[np.float32]:
    """(series, ROWS, 2) noise whose level steps, of each series at other rows."""
    made = np.random.default_rng(5).normal(size=(len(NAMES), ROWS, 2))
    for k, step in enumerate((10_000, 450, 300)):
        made[k] += 9.0 * (np.arange(ROWS) // step % 2)[:, None]
    return made.astype(np.float32)


VALUES = values()


class Stored:
    """What SQL holds, and the process that writes it."""

    def __init__(self, chosen: Settings = QUICK, channels: int = 2) -> None:
        self.settings, self.channels = chosen, channels
        self.pieces: dict[Key, bytes] = {}
        self.head, self.offset = b"", 0
        self.rows = [0] * len(NAMES)
        self.partition = self.new()

    def new(self) -> Partition:
        return Partition(
            stream_id=1,
            topic="readings",
            number=0,
            channels=self.channels,
            settings=self.settings,
        )

    def feed(self, counts: Sequence[int]) -> None:
        """So many further readings of each series, one series after the other."""
        parts = [VALUES[k, self.rows[k] : self.rows[k] + n] for k, n in enumerate(counts)]
        here = [k for k, part in enumerate(parts) if len(part)]
        if not here:
            return
        sizes = [len(parts[k]) for k in here]
        order = np.arange(sum(sizes))
        batch = Batch(
            topic="readings",
            partition=0,
            series=tuple(NAMES[k] for k in here),
            starts=np.cumsum([0, *sizes]),
            offsets=self.offset + order,
            order=order,
            times=(self.offset + order) * 1000,
            values=np.concatenate([parts[k] for k in here]),
            next_offset=self.offset + len(order),
        )
        self.partition.advance(batch)
        self.offset += len(order)
        for k, n in zip(here, sizes, strict=True):
            self.rows[k] += n

    def checkpoint(self) -> tuple[list[Piece], Sequence[Key]]:
        """Written, and then known to be."""
        state = self.partition.state()
        for key in state.gone:
            del self.pieces[key]  # of what was never written nothing may be gone
        self.pieces |= {Key(*piece[:3]): piece.content for piece in state.pieces}
        self.head = state.head
        self.partition.written()
        return list(state.pieces), state.gone

    def restart(self) -> None:
        self.partition = self.new()
        if self.head:
            pieces = (Piece(*key, content) for key, content in self.pieces.items())
            restore(self.partition, self.head, pieces)


@given(
    steps=st.lists(
        st.tuples(
            st.tuples(*[st.sampled_from([0, 1, 7, 63, 64, 65, 200, 500])] * len(NAMES)),
            st.sampled_from(["go on", "checkpoint", "fail", "restart"]),
        ),
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_what_is_stored_is_the_state_however_often_it_was_written(
    steps: list[tuple[tuple[int, ...], str]],
) -> None:
    """Checkpoints at any reading, some that failed and some followed by a restart: in the end the
    pieces are, byte for byte, those of a process that wrote one checkpoint in its life."""
    often, once = Stored(), Stored()
    for counts, then in steps:
        often.feed(counts)
        once.feed(counts)
        if then == "fail":
            often.partition.state()  # made, and never in SQL
        elif then != "go on":
            often.checkpoint()
        if then == "restart":
            often.restart()
    often.checkpoint()
    once.checkpoint()
    assert often.pieces.keys() == once.pieces.keys()
    assert often.pieces == once.pieces
    assert often.head == once.head


@pytest.fixture
def stored() -> Stored:
    """Three series: one that is long, one short, one in its warm-up; all written."""
    made = Stored()
    made.feed((1150, 320, 130))
    made.checkpoint()
    return made


def test_only_what_changed_is_written(stored: Stored) -> None:
    """One more reading of one series: its row. Nothing more: nothing."""
    stored.feed((0, 1, 0))
    pieces, gone = stored.checkpoint()
    assert [(p.kind, p.slot) for p in pieces] == [(SERIES, 1)]
    assert gone == []
    assert stored.checkpoint() == ([], [])


def test_a_chunk_is_written_once_when_it_is_full(stored: Stored) -> None:
    """The long series has outgrown its head: each full chunk of its tail comes, an old one goes."""
    for _ in range(3):
        stored.feed((CHUNK, 0, 0))
        pieces, gone = stored.checkpoint()
        assert [p.kind for p in pieces] == [SERIES, "tail"]
        assert [key.kind for key in gone] == ["tail"]


def spoilt(stored: Stored) -> Iterator[tuple[str, dict[Key, bytes]]]:
    """What a store may have become, and what that is called."""
    pieces = stored.pieces
    first = {
        kind: next(k for k in pieces if k.kind == kind) for kind in (SERIES, "head", "rest", "warm")
    }
    last = max(k for k in pieces if k.kind == SERIES)
    yield "a series is missing", {k: c for k, c in pieces.items() if k != last}
    yield "a series is missing", {k: c for k, c in pieces.items() if k != first[SERIES]}
    yield "chunks of head", {k: c for k, c in pieces.items() if k != first["head"]}
    yield "chunks of rest", {k: c for k, c in pieces.items() if k != first["rest"]}
    yield "chunks of warm", {k: c for k, c in pieces.items() if k != first["warm"]}
    yield "chunks of tail", pieces | {Key("tail", 2, 0): b"x"}
    yield "rows of head", pieces | {first["head"]: pieces[first["head"]][:-1]}
    yield "checkpoint: ", pieces | {first[SERIES]: b"x"}
    yield "checkpoint: ", pieces | {first[SERIES]: pieces[first[SERIES]][:-5]}
    yield "no known kind \\(other\\)", pieces | {Key("other", 0, 0): b"x"}


def test_pieces_that_are_not_of_one_state_are_refused(stored: Stored) -> None:
    """In one line, and none is misread."""
    for says, pieces in spoilt(stored):
        other = Stored()
        other.head, other.pieces = stored.head, pieces
        with pytest.raises(ArtifactCorrupt, match=says) as refused:
            other.restart()
        assert "\n" not in str(refused.value)


# Size -----------------------------------------------------------------------------------------


def noise(rows: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=(rows, 8))


def wandering(rows: int) -> NDArray[np.float64]:
    """Levels that never rest, far from where they began."""
    return np.cumsum(np.random.default_rng(5).normal(size=(rows, 8)), axis=0)


def switching(rows: int) -> NDArray[np.float64]:
    """Another level every 4,000 rows, the last 500 rows ago."""
    return noise(rows) + 4.0 * ((np.arange(rows) + 3500) // 4000 % 2)[:, None]


@pytest.mark.parametrize(("profile", "most"), [("default", 64_000), ("light", 16_000)])
@pytest.mark.parametrize("stream", [noise, wandering, switching])
def test_the_state_of_a_mature_series_of_eight_sensors_is_small(
    profile: str, most: int, stream: Callable[[int], NDArray[np.float64]]
) -> None:
    """64 kB on a device, 16 in a fleet, staged readings apart. Every sample is there and ADWIN's
    windows are as long as they get; where nothing changes, river keeps most of that."""
    made = Stored(Settings(detect=Detect(profile=profile)), channels=8)  # type: ignore[arg-type]
    rows = stream(40_000).astype(np.float32)
    for first in range(0, len(rows), 5000):
        order = np.arange(first, first + 5000)
        batch = Batch(
            topic="readings",
            partition=0,
            series=("a",),
            starts=np.array([0, 5000]),
            offsets=order,
            order=order - first,
            times=order * 1000,
            values=rows[order],
            next_offset=first + 5000,
        )
        made.partition.advance(batch)
    made.checkpoint()
    (row,) = [Piece(*key, c) for key, c in made.pieces.items() if key.kind == SERIES]
    assert rows_of([row])[0].name == "a"
    assert len(row.content) <= most
