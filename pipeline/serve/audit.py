"""The nine questions of the audit, as SQL: one call each, plain data out. Read only.

Nobody who asks matters here: the command line prints the answers, HTTP passes them on as they are.
The same can be read from the views of register/views.py.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select, tuple_

from pipeline.config import Database
from pipeline.errors import ArtifactCorrupt, PipelineError
from pipeline.register import artifacts
from pipeline.register import tables as t
from pipeline.register.engine import connect, reading
from pipeline.serve import answers, data, decisions, difference, queries
from pipeline.serve.answers import Answer, iso

#: Refusals in one answer, if nobody says how many.
PAGE = 100


class Audit:
    """Questions about one database's streams.

    `stream` is a stream's name, which is its topic's; `number` a version's in its stream. Times in
    are microseconds since 1970 UTC (`times.parse_time` reads ISO 8601 with a zone), times out ISO
    8601 in UTC. Each call is one transaction that reads: an answer is of one moment.

    All raise PipelineError, with one line, where there is no such stream or version.
    """

    def __init__(self, database: Database) -> None:
        self.engine = connect(database)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def live_at(self, stream: str, at: int) -> Answer:
        """The version that was live at a time: half-open intervals.

        Raises
        ------
        PipelineError
            No version was live then; it says since when there is one.
        """
        with reading(self.engine) as conn:
            promotion, version = queries.live(conn, queries.stream(conn, stream), at)
            return answers.live(stream, at, promotion, version)

    def why(self, stream: str, number: int) -> Answer:
        """Why a version was trained: the boundary with its test, or who asked; and the gate."""
        with reading(self.engine) as conn:
            version = queries.numbered(conn, queries.stream(conn, stream), number)
            channels = queries.channels(conn, version.stream_id)
            first, *others = queries.reasons(conn, version.request_id)
            along = [answers.taken_along(row, channels) for row in others]
            left = queries.roll_backs(conn, version.stream_id, version.id)[version.id]
            boundary = answers.explained(first, channels)
            return answers.why(stream, version, boundary, along, left)

    def data(self, stream: str, number: int) -> Answer:
        """What a version was made from: offsets, times, readings per task, hashes, replay."""
        with reading(self.engine) as conn:
            version = queries.numbered(conn, queries.stream(conn, stream), number)
            return data.made_from(conn, stream, version)

    def metrics_at(self, stream: str, at: int) -> Answer:
        """The figures of the version live at a time, as they were known then.

        `..._again`: its skills as the clock had them measured last, up to that time.

        Raises
        ------
        PipelineError
            No version was live then.
        """
        with reading(self.engine) as conn:
            _, version = queries.live(conn, queries.stream(conn, stream), at)
            again = queries.measured(conn, version.id, at)
            return {
                "stream": stream,
                "at": iso(at),
                "version": version.number,
                "measured_at": iso(version.created),
                **_figures(conn, version),
                "measured_again_at": iso(again[0].measured) if again else None,
                "skills_again": answers.skills(again),
            }

    def decided(self, stream: str, number: int) -> Answer:
        """What the gate said of a version, by which thresholds and figures; what came after."""
        with reading(self.engine) as conn:
            version = queries.numbered(conn, queries.stream(conn, stream), number)
            return decisions.decided(conn, stream, version)

    def rejected(
        self,
        stream: str,
        start: int | None = None,
        end: int | None = None,
        *,
        after: int | None = None,
        limit: int = PAGE,
    ) -> Answer:
        """Versions that the gate or a person refused in [start, end), the oldest refusal first,
        also those that a person promoted later.

        after: number of the version at which the page before ended, its `next`.
        """
        with reading(self.engine) as conn:
            stream_id = queries.stream(conn, stream)
            last = None if after is None else queries.numbered(conn, stream_id, after)
            if last is not None and last.rejected is None:
                raise PipelineError(f"version {after} was never refused: no page ended there")
            v = t.versions.c
            rows = queries.versions().where(v.stream_id == stream_id, v.rejected.is_not(None))
            if start is not None:
                rows = rows.where(v.rejected >= start)
            if end is not None:
                rows = rows.where(v.rejected < end)
            if last is not None:
                rows = rows.where(tuple_(v.rejected, v.number) > (last.rejected, last.number))
            found = conn.execute(rows.order_by(v.rejected, v.number).limit(limit + 1)).all()
            told = decisions.refusals(conn, found[:limit])
        return {
            "stream": stream,
            "from": iso(start),
            "to": iso(end),
            "rejected": told,
            "next": told[-1]["version"] if len(found) > limit else None,
        }

    def scored(self, stream: str, partition: int, offset: int) -> Answer:
        """Which version scored the readings of a record.

        Raises
        ------
        PipelineError
            None did; it says how far the partition has been scored.
        """
        with reading(self.engine) as conn:
            s = t.scored.c
            mine = (s.stream_id == queries.stream(conn, stream)) & (s.partition == partition)
            version = (t.versions.c.number, t.versions.c.sha256)
            row = conn.execute(
                select(s.first_offset, s.end_offset, *version)
                .join(t.versions, t.versions.c.id == s.version_id)
                .where(mine, s.first_offset <= offset)
                .order_by(s.first_offset.desc())
                .limit(1)
            ).first()
            if row is None or offset >= row.end_offset:
                end = conn.execute(select(func.max(s.end_offset)).where(mine)).scalar()
                reached = f"it is scored up to {end - 1}" if end else "nothing of it is"
                where = f"offset {offset} of partition {partition}"
                raise PipelineError(f"{where} was scored by no version: {reached}")
        return {
            "stream": stream,
            "partition": partition,
            "offset": offset,
            "version": row.number,
            "sha256": row.sha256,
            "first_offset": row.first_offset,
            "end_offset": row.end_offset,
        }

    def diff(self, stream: str, number: int, other: int) -> Answer:
        """From one version to another: settings, data, figures, the weights' distance per layer.

        `weights` is None, with the reason beside it, where they are damaged or gone.
        """
        with reading(self.engine) as conn:
            stream_id = queries.stream(conn, stream)
            one, two = (queries.numbered(conn, stream_id, n) for n in (number, other))
            before, after = _figures(conn, one), _figures(conn, two)
            made = [json.loads(row.settings) | _made(row) for row in (one, two)]
            answer = {
                "stream": stream,
                "from": number,
                "to": other,
                "settings": difference.settings(*made),
                "data": difference.data(*(data.made_from(conn, stream, row) for row in (one, two))),
                "metrics": difference.figures(before["metrics"], after["metrics"]),
                "skills": difference.figures(before["skills"], after["skills"]),
            }
            try:
                contents = [artifacts.get(conn, row.sha256) for row in (one, two)]
                return answer | {"weights": difference.weights(*contents)}
            except ArtifactCorrupt as exc:
                return answer | {"weights": None, "weights_missing": str(exc)}

    def lineage(self, stream: str, number: int) -> Answer:
        """A version and its parents to the bootstrap, each with what else was made of its parent.

        `chain` begins with the version; `others` of a member are the other children of it.
        """
        with reading(self.engine) as conn:
            stream_id = queries.stream(conn, stream)
            first = queries.numbered(conn, stream_id, number)
            chain = _chain(conn, first.id)
            others = _children(conn, first.id, {row.id for row in chain})
        above = [*(row.number for row in chain[1:]), None]
        return {
            "stream": stream,
            "version": number,
            "depth": len(chain),
            "chain": [
                answers.ancestor(row, parent, others[row.id])
                for row, parent in zip(chain, above, strict=True)
            ],
        }


def _figures(conn: Connection, version: Row[Any]) -> Answer:
    this = t.versions.c.id == version.id
    return {
        "metrics": answers.metrics(queries.metrics(conn, this)[version.id]),
        "skills": answers.skills(queries.evaluations(conn, this)[version.id]),
    }


def _made(version: Row[Any]) -> Answer:
    """What else a version was made with, beside its settings."""
    return {name: getattr(version, name) for name in ("strategy", "seed", "code_version")}


def _forebears(version_id: int) -> Any:
    """Ids of a version and its parents, back to the first."""
    ids = select(t.versions.c.id, t.versions.c.parent_id)
    chain = ids.where(t.versions.c.id == version_id).cte("chain", recursive=True)
    return chain.union_all(ids.join(chain, t.versions.c.id == chain.c.parent_id))


def _chain(conn: Connection, version_id: int) -> Sequence[Any]:
    chain, v = _forebears(version_id), t.versions.c
    told = (v.id, v.number, v.status, v.decision, v.created, v.sha256, t.requests.c.reason)
    rows = select(*told).join(chain, chain.c.id == v.id).join(t.requests)
    return conn.execute(rows.order_by(v.number.desc())).all()


def _children(conn: Connection, version_id: int, chain: set[int]) -> defaultdict[int, list[Any]]:
    """Version id -> the versions made of it that are not in the chain."""
    forebears, v = _forebears(version_id), t.versions.c
    rows = select(v.id, v.parent_id, v.number, v.status).join(
        forebears, forebears.c.id == v.parent_id
    )
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for row in conn.execute(rows.order_by(v.number)):
        if row.id not in chain:
            found[row.parent_id].append(row)
    return found
