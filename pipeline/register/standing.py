"""How every stream stands now, in figures to watch: SQL in, samples by the name of a metric out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, and_, case, func, literal, select

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
    yield "stream_boundaries", _total(t.boundaries, func.count(t.boundaries.c.id))
    yield "stream_tasks", _count(t.tasks, t.tasks.c.kind)
    yield "stream_requests", _count(t.requests, r.reason, r.status)
    yield "stream_versions", _count(t.versions, v.status)
    yield "champion_version", _of(t.versions, v.number).where(t.is_champion)
    yield (
        "champion_timestamp_seconds",
        _of(t.promotions, t.promotions.c.live_from / 1e6).where(t.is_live),
    )
    back = t.ledger.c.kind == "rollback"
    yield "roll_backs", _total(t.ledger, func.count(t.ledger.c.id), back)
    yield "dead_letters_decided", _count(t.dead_letters, d.status)
    lost = func.sum(t.gaps.c.end_offset - t.gaps.c.first_offset)
    yield "records_lost", _total(t.gaps, func.coalesce(lost, 0))
    yield "consolidation_seconds", _consolidations()
    yield "ledger_entries", select(func.max(t.ledger.c.id))
    failed = (t.ledger.c.kind == "verify_failed") & t.ledger.c.stream_id.is_(None)
    yield "verify_failures", select(func.count()).select_from(t.ledger).where(failed)
    yield "schedule_ok", _last_runs()
    lease = t.leases.c
    yield "lease_remaining_seconds", select(lease.name, lease.owner, (lease.until - at) / 1e6)


def _of(table: Any, *columns: Any) -> Select[Any]:
    """Columns of a stream's rows, behind its name."""
    return select(_NAME, *columns).join(table, table.c.stream_id == t.streams.c.id)


def _count(table: Any, *by: Any) -> Select[Any]:
    return _of(table, *by, func.count()).group_by(_NAME, *by)


def _total(table: Any, value: Any, *of: Any) -> Select[Any]:
    """A figure of each stream's rows, of those without one too: what begins above 0 has not risen,
    to whoever watches it."""
    rows = and_(table.c.stream_id == t.streams.c.id, *of)
    return select(_NAME, value).join_from(t.streams, table, rows, isouter=True).group_by(_NAME)


def _last_runs() -> Select[Any]:
    """Whether each schedule's last run that is over went well."""
    r = t.schedule_runs.c
    last = select(r.schedule, func.max(r.due).label("due")).where(r.finished.is_not(None))
    newest = last.group_by(r.schedule).subquery()
    this = (r.schedule == newest.c.schedule) & (r.due == newest.c.due)
    there = (t.schedules.c.name == r.schedule) & t.schedules.c.gone.is_(None)
    ok = case((r.ok, 1), else_=0)
    return select(r.schedule, r.kind, ok).join(newest, this).join(t.schedules, there)


def _consolidations() -> Select[Any]:
    """Seconds that each stream's newest version took to train."""
    newest = select(func.max(t.versions.c.id)).group_by(t.versions.c.stream_id)
    this = (t.metrics.c.name == "seconds") & t.metrics.c.version_id.in_(newest)
    return (
        _of(t.versions, t.metrics.c.value)
        .join(t.metrics, t.metrics.c.version_id == t.versions.c.id)
        .where(this)
    )
