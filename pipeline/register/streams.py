"""Topics with one model each, inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from pipeline.errors import MadeAnew, RegistryError
from pipeline.register import ledger
from pipeline.register import tables as t
from pipeline.register.engine import inserting


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Nothing is trained or asked for by the clock; readings are scored as ever."""

    #: Microseconds since 1970 UTC.
    since: int
    actor: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A topic with one model."""

    id: int
    name: str
    #: Names of the sensors; empty until the first reading.
    channels: tuple[str, ...]
    #: Microseconds since 1970 UTC.
    created: int
    #: Whether a person has stopped its training.
    pause: Pause | None = None


def open_(conn: Connection, name: str, channels: Sequence[str], *, at: int) -> Stream:
    """The stream of that name, made if need be; the first channels given are its channels.

    Raises
    ------
    RegistryError
        It has other channels already.
    """
    this = select(t.streams).where(t.streams.c.name == name).with_for_update()
    if conn.execute(this).first() is None:
        _make(conn, name, channels, at)
    found = _stream(conn.execute(this).one())  # ours, or another process's of the same moment
    if not channels or tuple(channels) == found.channels:
        return found
    if found.channels:
        raise RegistryError(f"stream {name} has the channels {', '.join(found.channels)}")
    text = ledger.canonical(list(channels))
    conn.execute(update(t.streams).where(t.streams.c.id == found.id).values(channels=text))
    ledger.append(conn, "channels", {"channels": text}, at=at, stream_id=found.id)
    return replace(found, channels=tuple(channels))


def follow(
    conn: Connection,
    stream: Stream,
    topic_id: str | None,
    starts: Mapping[int, int],
    *,
    at: int,
) -> None:
    """The stream's topic is followed: the first time of all, from these offsets.

    They are written at once: a partition that moves to another process before its first checkpoint
    goes on from the same place, and one without a row was added to the topic later.

    Raises
    ------
    MadeAnew
        The topic is not the one that was followed before.
    """
    this = t.streams.c.id == stream.id
    kept = conn.execute(select(t.streams.c.topic_id).where(this).with_for_update()).scalar()
    if kept is None and topic_id is not None:
        conn.execute(update(t.streams).where(this).values(topic_id=topic_id))
        entry = {"topic_id": topic_id}
        ledger.append(conn, "topic", entry, at=at, stream_id=stream.id)
    elif topic_id not in (None, kept):
        raise MadeAnew(stream.name, f"its id is {topic_id}, and was {kept}")
    c = t.checkpoints.c
    begun = select(c.epoch).where(c.stream_id == stream.id)
    if starts and conn.execute(begun).first() is None:
        whose = {"stream_id": stream.id, "epoch": 0, "owner": "", "updated": at}
        rows = [whose | {"partition": n, "next_offset": offset} for n, offset in starts.items()]
        conn.execute(insert(t.checkpoints), rows)


def known(conn: Connection) -> list[Stream]:
    """Every stream."""
    return [_stream(row) for row in conn.execute(select(t.streams).order_by(t.streams.c.id))]


def pause(conn: Connection, stream_id: int, pause_: Pause | None) -> None:
    """Stop a stream's training, or None: let it go on."""
    values = {
        "paused": pause_.since if pause_ else None,
        "paused_by": pause_.actor if pause_ else None,
        "paused_because": pause_.reason if pause_ else None,
    }
    conn.execute(update(t.streams).where(t.streams.c.id == stream_id).values(values))


def of(conn: Connection, stream_id: int) -> Stream:
    """The stream of that id."""
    return _stream(conn.execute(select(t.streams).where(t.streams.c.id == stream_id)).one())


def _make(conn: Connection, name: str, channels: Sequence[str], at: int) -> None:
    row = {"name": name, "channels": ledger.canonical(list(channels)), "created": at}
    statement = inserting(conn, t.streams).values(row).on_conflict_do_nothing()
    number = conn.execute(statement.returning(t.streams.c.id)).scalar()
    if number is not None:
        ledger.append(conn, "stream", row, at=at, stream_id=number)


def _stream(row: Row[Any]) -> Stream:
    channels = tuple(json.loads(row.channels))
    pause = None
    if row.paused is not None:
        pause = Pause(since=row.paused, actor=row.paused_by, reason=row.paused_because)
    return Stream(id=row.id, name=row.name, channels=channels, created=row.created, pause=pause)
