"""How every stream stands now, in figures to watch: SQL in, samples by the name of a metric out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, func, literal, select

from pipeline.register import tables as t
from pipeline.register.engine import now_us, reading

_NAME = t.streams.c.name


class Sample(NamedTuple):
    """One value of a metric, with the labels that tell it from the others."""

    metric: str
    labels: tuple[str, ...]
    value: float


def standing(engine: Engine, *, clock: Callable[[], int] = now_us) -> list[Sample]:
    """Every figure, as of one moment."""
    at = clock()
    with reading(engine) as conn:
        return [
            sample for metric, query in _queries(at) for sample in _samples(conn, metric, query)
        ]


def _samples(conn: Connection, metric: str, query: Select[Any]) -> Iterator[Sample]:
    """The last column is the value, those before it are labels."""
    for *labels, value in conn.execute(query):
        if value is not None:
            yield Sample(metric, tuple(map(str, labels)), float(value))


def _queries(at: int) -> Iterator[tuple[str, Select[Any]]]:
    """Metric and the query of its samples."""
    c, r, v, d = t.checkpoints.c, t.requests.c, t.versions.c, t.dead_letters.c
    age = (literal(at) - c.updated) / 1e6
    yield "stream_next_offset", _of(t.checkpoints, c.partition, c.next_offset)
    yield "checkpoint_age_seconds", _of(t.checkpoints, c.partition, age)
    yield "stream_boundaries", _count(t.boundaries)
    yield "stream_tasks", _count(t.tasks, t.tasks.c.kind)
    yield "stream_requests", _count(t.requests, r.reason, r.status)
    yield "stream_versions", _count(t.versions, v.status)
    yield "champion_version", _of(t.versions, v.number).where(t.is_champion)
    yield (
        "champion_timestamp_seconds",
        _of(t.promotions, t.promotions.c.live_from / 1e6).where(t.is_live),
    )
    yield "roll_backs", _count(t.ledger).where(t.ledger.c.kind == "rollback")
    yield "dead_letters_decided", _count(t.dead_letters, d.status)
    yield (
        "records_lost",
        _of(t.gaps, func.sum(t.gaps.c.end_offset - t.gaps.c.first_offset)).group_by(_NAME),
    )
    yield "consolidation_seconds", _consolidations()
    yield "ledger_entries", select(func.max(t.ledger.c.id))
    lease = t.leases.c
    yield "lease_remaining_seconds", select(lease.name, lease.owner, (lease.until - at) / 1e6)


def _of(table: Any, *columns: Any) -> Select[Any]:
    """Columns of a stream's rows, behind its name."""
    return select(_NAME, *columns).join(table, table.c.stream_id == t.streams.c.id)


def _count(table: Any, *by: Any) -> Select[Any]:
    return _of(table, *by, func.count()).group_by(_NAME, *by)


def _consolidations() -> Select[Any]:
    """Seconds that each stream's newest version took to train."""
    newest = select(func.max(t.versions.c.id)).group_by(t.versions.c.stream_id)
    this = (t.metrics.c.name == "seconds") & t.metrics.c.version_id.in_(newest)
    return (
        _of(t.versions, t.metrics.c.value)
        .join(t.metrics, t.metrics.c.version_id == t.versions.c.id)
        .where(this)
    )
