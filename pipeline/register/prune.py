"""Readings and weights that nobody will need again go; hashes, figures and decisions stay.

So do runs of schedules, but for the newest of each, and what is drawn of readings that are old by
their own time and by that of their series' newest.

An artifact's row stays too, without its content and with who let it go, so that whatever refers to
it still does. Its age is that of its last use: a request that brought it was done, a version was
made from it, a version of these weights was live. What goes on needs these, however old:

* inputs of requests that are not done,
* weights and EWC state of the champion, of the version that a roll-back would return to, of those
  that wait for a word, and of the first (forward transfer is measured from it), with the readings
  that they learned,
* each partition's newest reservoir, and the newest segments of each task, by which it is measured;
  all segments, where the strategy replays from them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from pipeline.register import ledger, rollback, schedules, tasks, timeline, versions
from pipeline.register import tables as t
from pipeline.register.engine import moment

#: Hashes in one statement, and in one entry of the ledger.
BATCH = 500
#: Later than any time of use.
FOREVER = 2**63 - 1
#: No request has a higher number, and no task more segments.
ALL = 2**31 - 1
DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """What may go, or went."""

    #: (sha256, kind, bytes), by hash.
    artifacts: Sequence[tuple[str, str, int]]
    #: Last used before, microseconds since 1970 UTC.
    before: int
    #: (schedule, due time before which its runs that ended before then go, how many).
    runs: Sequence[tuple[str, int, int]] = ()
    #: Buckets of timelines.
    buckets: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """Artifacts by kind, and bytes."""
        kinds = Counter(kind for _, kind, _ in self.artifacts)
        size = sum(size for *_, size in self.artifacts)
        return {
            "artifacts": dict(sorted(kinds.items())),
            "bytes": size,
            "before": self.before,
            "schedule_runs": sum(count for *_, count in self.runs),
            "timeline_buckets": self.buckets,
        }

    @property
    def sentence(self) -> str:
        """For people."""
        facts = self.facts
        kinds = ", ".join(f"{n} {kind}" for kind, n in facts["artifacts"].items()) or "nothing"
        since = moment(self.before).date()
        said = f"{kinds}, {facts['bytes']:,} bytes that nobody used since {since}"
        others = {"runs of schedules": facts["schedule_runs"], "pieces of timelines": self.buckets}
        return "; ".join([said, *(f"{count:,} {name}" for name, count in others.items() if count)])

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.artifacts or self.runs or self.buckets)


def old(conn: Connection, *, keep_days: int, replays_all: bool, at: int) -> Old:
    """What was not used in so many days and is not needed.

    replays_all: whether the strategy trains on all earlier segments again.
    """
    before, c = at - keep_days * DAY_US, t.artifacts.c
    rows = conn.execute(
        select(c.sha256, c.kind, c.size, c.created)
        .where(c.pruned.is_(None), c.created < before)
        .order_by(c.sha256)
    ).all()
    used: dict[str, int] = {}
    for sha256, when in _uses(conn, replays_all) if rows else ():
        used[sha256] = max(when, used.get(sha256, 0))
    gone = [(r.sha256, r.kind, r.size) for r in rows if used.get(r.sha256, 0) < before]
    buckets = select(func.count()).select_from(t.timeline_buckets)
    return Old(
        artifacts=gone,
        before=before,
        runs=schedules.old(conn, before),
        buckets=conn.execute(buckets.where(timeline.old(before, keep_days * DAY_US))).scalar_one(),
    )


def prune(
    conn: Connection,
    *,
    keep_days: int,
    replays_all: bool,
    actor: str,
    reason: str,
    at: int,
    more: Mapping[str, Any],
) -> Old:
    """Let the content of what `old` finds go; under the ledger's lock, which holds a hash each."""
    found = old(conn, keep_days=keep_days, replays_all=replays_all, at=at)
    c, entries = t.artifacts.c, []
    for first in range(0, len(found.artifacts), BATCH):
        batch = found.artifacts[first : first + BATCH]
        hashes = [sha256 for sha256, *_ in batch]
        conn.execute(
            update(t.artifacts)
            .where(c.sha256.in_(hashes))
            .values(content=b"", pruned=at, pruned_by=actor)
        )
        size = sum(size for *_, size in batch)
        told = {"hashes": hashes, "bytes": size, "keep_days": keep_days, "before": found.before}
        entries.append({**told, "reason": reason, **more})
    if found.runs or found.buckets:
        schedules.forget(conn, found.runs, before=found.before)
        conn.execute(
            delete(t.timeline_buckets).where(timeline.old(found.before, keep_days * DAY_US))
        )
        runs = [(name, until) for name, until, _ in found.runs]
        told = {"runs": runs, "buckets": found.buckets, "keep_days": keep_days}
        entries.append({**told, "before": found.before, "reason": reason, **more})
    ledger.append(conn, "pruned", *entries, at=at, actor=actor)
    return found


def _uses(conn: Connection, replays_all: bool) -> Iterator[tuple[str, int]]:
    """(sha256, when it was used) of everything that any stream refers to."""
    for stream_id in conn.execute(select(t.streams.c.id)).scalars().all():
        needed = _needed(conn, stream_id)
        yield from _of_requests(conn, stream_id)
        yield from _of_versions(conn, stream_id, needed)
        newest = tasks.latest_reservoirs(conn, stream_id, ALL).values()
        yield from ((sha256, FOREVER) for sha256 in newest)
        per_task = ALL if replays_all else tasks.HELD_OUT_SEGMENTS
        held_out = tasks.held_out(conn, stream_id, ALL, per_task, every_kind=True)
        yield from ((sha256, FOREVER) for shas in held_out.values() for sha256 in shas)


def _of_requests(conn: Connection, stream_id: int) -> Iterator[tuple[str, int]]:
    c = t.requests.c
    for row in conn.execute(select(c.inputs, c.finished).where(c.stream_id == stream_id)):
        when = FOREVER if row.finished is None else row.finished
        yield from ((sha256, when) for sha256 in json.loads(row.inputs).values())


def _of_versions(
    conn: Connection, stream_id: int, needed: frozenset[int]
) -> Iterator[tuple[str, int]]:
    v, p = t.versions.c, t.promotions.c
    left = select(func.max(func.coalesce(p.live_until, FOREVER))).where(p.version_id == v.id)
    rows = conn.execute(
        select(
            v.id, v.sha256, v.ewc_sha256, v.inputs, v.created, left.scalar_subquery().label("left")
        ).where(v.stream_id == stream_id)
    )
    for row in rows:
        inputs = json.loads(row.inputs)
        last = FOREVER if row.id in needed else max(row.created, row.left or 0)
        own = [row.sha256, row.ewc_sha256, *(sha for _, sha in inputs.get("segments", ()))]
        yield from ((sha256, last) for sha256 in own if sha256)
        yield from ((text, row.created) for text in _texts(inputs))


def _needed(conn: Connection, stream_id: int) -> frozenset[int]:
    """Ids of the versions that may be scored with, gone on from or measured from."""
    v = t.versions.c
    still = v.status.in_(("candidate", "champion", "waiting"))
    found = set(conn.execute(select(v.id).where(v.stream_id == stream_id, still)).scalars())
    if (first := versions.first(conn, stream_id)) is not None:
        found.add(first.id)
    if (champion := versions.champion(conn, stream_id)) is not None:
        former = rollback.former(conn, champion)
        found |= {former.version_id} if former else set()
    return frozenset(found)


def _texts(value: Any) -> Iterator[str]:
    """Every text in JSON: the hashes are among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
