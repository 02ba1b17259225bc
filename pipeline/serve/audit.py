"""The nine questions of the audit, as SQL: one call each, plain data out. Read only.

Nobody who asks matters here: the command line prints the answers, HTTP passes them on as they are.
The same can be read from the views of register/views.py.
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import Any

from msgspec.json import decode
from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Row,
    Select,
    bindparam,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)

from pipeline.config import Database
from pipeline.errors import ArtifactCorrupt, PipelineError
from pipeline.register import artifacts
from pipeline.register import tables as t
from pipeline.register.engine import connect, reading
from pipeline.serve import answers, data, decisions, difference, queries
from pipeline.serve.answers import Answer, iso

#: Refusals in one answer, if nobody says how many.
PAGE = 100
#: What a version was made with, beside settings and seed.
MADE_WITH = ("strategy", "code_version")
#: Before and after every time.
EARLIEST, LATEST = -(2**63), 2**63 - 1


class Audit:
    """Questions about one database's streams.

    `stream` is a stream's name, which is its topic's; `number` a version's in its stream. Times in
    are microseconds since 1970 UTC (`times.parse_time` reads ISO 8601 with a zone), times out ISO
    8601 in UTC. Each call is one transaction that reads: an answer is of one moment.

    All raise PipelineError, with one line, where there is no such stream or version.
    """

    def __init__(self, database: Database) -> None:
        self.engine = connect(database, plan_once=True)

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
            return answers.live(stream, at, queries.live(conn, stream, at))

    def why(self, stream: str, number: int) -> Answer:
        """Why a version was trained: the boundary with its test, or who asked; and the gate."""
        with reading(self.engine) as conn:
            (version,) = queries.numbered(conn, stream, number, told=_WHY)
            channels = decode(version.channels)
            first, *others = queries.reasons(conn, version.request_id)
            along = [answers.taken_along(row, channels) for row in others]
            left = queries.roll_backs(conn, version.stream_id, version.id)[version.id]
            boundary = answers.explained(first, channels)
            return answers.why(stream, version, boundary, along, left)

    def data(self, stream: str, number: int) -> Answer:
        """What a version was made from: offsets, times, readings per task, hashes, replay."""
        with reading(self.engine) as conn:
            version = queries.numbered(conn, stream, number, told=data.MADE)
            (answer,) = data.made_from(conn, stream, version)
            return answer

    def metrics_at(self, stream: str, at: int) -> Answer:
        """The figures of the version live at a time, as they were known then.

        `..._again`: its skills as the clock had them measured last, up to that time.

        Raises
        ------
        PipelineError
            No version was live then.
        """
        with reading(self.engine) as conn:
            version = queries.live(conn, stream, at)
            (figures,) = queries.figures(conn, [version.id])
            again = queries.measured(conn, version.id, at)
            return {
                "stream": stream,
                "at": iso(at),
                "version": version.number,
                "measured_at": iso(version.created),
                **figures,
                "measured_again_at": iso(again[0].measured) if again else None,
                "skills_again": answers.skills(again),
            }

    def decided(self, stream: str, number: int) -> Answer:
        """What the gate said of a version, by which thresholds and figures; what came after."""
        with reading(self.engine) as conn:
            (version,) = queries.numbered(conn, stream, number, told=decisions.DECIDED)
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
            since = (EARLIEST if start is None else start, 0)
            if after is not None:
                since = max(since, _refused(conn, stream, after))
            which = {"stream": stream, "since": since[0], "after": since[1]}
            # written out: in its one plan for all values PostgreSQL takes an unknown limit for many
            some = _REJECTED.limit(literal_column(str(int(limit) + 1)))
            found = conn.execute(some, which | {"end": LATEST if end is None else end}).all()
            if not found:
                queries.stream(conn, stream)  # is there
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
            where = {"stream": stream, "partition": partition}
            row = conn.execute(_SCORED, where | {"offset": offset}).first()
            if row is None or offset >= row.end_offset:
                queries.stream(conn, stream)  # is there
                end = conn.execute(_REACHED, where).scalar()
                reached = f"it is scored up to {end - 1}" if end else "nothing of it is"
                asked = f"offset {offset} of partition {partition}"
                raise PipelineError(f"{asked} was scored by no version: {reached}")
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
            both = queries.numbered(conn, stream, number, other, told=_DIFF)
            before, after = queries.figures(conn, [row.id for row in both])
            made = [decode(row.settings) | _made(row) for row in both]
            answer = {
                "stream": stream,
                "from": number,
                "to": other,
                "settings": difference.settings(*made),
                "data": difference.data(*data.made_from(conn, stream, both)),
                "metrics": difference.figures(before["metrics"], after["metrics"]),
                "skills": difference.figures(before["skills"], after["skills"]),
            }
            try:
                contents = artifacts.several(conn, [row.sha256 for row in both])
                return answer | {"weights": difference.weights(*contents)}
            except ArtifactCorrupt as exc:
                return answer | {"weights": None, "weights_missing": str(exc)}

    def lineage(self, stream: str, number: int) -> Answer:
        """A version and its parents to the bootstrap, each with what else was made of its parent.

        `chain` begins with the version; `others` of a member are the other children of it.
        """
        with reading(self.engine) as conn:
            (first,) = queries.numbered(conn, stream, number, told=_FIRST)
            rows = conn.execute(_DESCENT, {"version": first.id}).all()
        chain = [list(same) for _, same in groupby(rows, key=attrgetter("number"))]
        above = [*(same[0].number for same in chain[1:]), None]
        return {
            "stream": stream,
            "version": number,
            "depth": len(chain),
            "chain": [
                answers.ancestor(same[0], parent, [row for row in same if row.other is not None])
                for same, parent in zip(chain, above, strict=True)
            ],
        }


def _refused(conn: Connection, stream: str, number: int) -> tuple[int, int]:
    """When a version was refused, and its number: where a page ends."""
    (last,) = queries.numbered(conn, stream, number)
    if last.rejected is None:
        raise PipelineError(f"version {number} was never refused: no page ended there")
    return last.rejected, last.number


def _made(version: Row[Any]) -> Answer:
    """What else a version was made with, beside its settings."""
    return {name: getattr(version, name) for name in (*MADE_WITH, "seed")}


def _rejected() -> Select[Any]:
    """All refusals in order behind one of (`since`, `after`), and before `end`."""
    v = t.versions.c
    since = tuple_(bindparam("since", type_=BigInteger), bindparam("after", type_=Integer))
    return (
        queries.versions()
        .where(v.stream_id == queries.OF_NAME, tuple_(v.rejected, v.number) > since)
        .where(v.rejected < bindparam("end"))
        .order_by(v.rejected, v.number)
    )


def _scored() -> Select[Any]:
    """The range of a partition that begins at an offset, or is the last to begin before it."""
    s = t.scored.c
    return (
        select(s.first_offset, s.end_offset, t.versions.c.number, t.versions.c.sha256)
        .join(t.versions, t.versions.c.id == s.version_id)
        .where(s.stream_id == queries.OF_NAME, s.partition == bindparam("partition"))
        .where(s.first_offset <= bindparam("offset"))
        .order_by(s.first_offset.desc())
        .limit(1)
    )


def _reached() -> Select[Any]:
    """How far a partition was scored."""
    s = t.scored.c
    mine = (s.stream_id == queries.OF_NAME) & (s.partition == bindparam("partition"))
    return select(func.max(s.end_offset)).where(mine)


def _descent() -> Select[Any]:
    """A version and its parents, back to the first; a row for each other version made of one, or
    one row with `other` NULL.
    """
    v, others = t.versions.c, t.versions.alias("others")
    first = select(v.id, v.parent_id, literal(0).label("heir")).where(v.id == bindparam("version"))
    chain = first.cte("chain", recursive=True)
    chain = chain.union_all(select(v.id, v.parent_id, chain.c.id).where(v.id == chain.c.parent_id))
    told = (v.number, v.status, v.decision, v.created, v.sha256, t.requests.c.reason)
    return (
        select(*told, others.c.number.label("other"), others.c.status.label("other_fate"))
        .select_from(chain)
        .join(t.versions, v.id == chain.c.id)
        .join(t.requests, t.requests.c.id == v.request_id)
        .outerjoin(others, (others.c.parent_id == chain.c.id) & (others.c.id != chain.c.heir))
        .order_by(v.number.desc(), others.c.number)
    )


def _why() -> Select[Any]:
    """A version with its stream's sensors, without what it was made with."""
    large = {t.versions.c[name] for name in ("figures", "settings")}
    told = [column for column in queries.NUMBERED.selected_columns if column not in large]
    names = select(t.streams.c.channels).where(t.streams.c.id == t.versions.c.stream_id)
    return queries.NUMBERED.with_only_columns(
        *told, names.scalar_subquery().label("channels"), maintain_column_froms=True
    )


_WHY = _why()
_DIFF = data.MADE.add_columns(*(t.versions.c[name] for name in ("id", "settings", *MADE_WITH)))
_FIRST = queries.NUMBERED.with_only_columns(t.versions.c.id, t.versions.c.number)
_REJECTED, _SCORED, _REACHED, _DESCENT = _rejected(), _scored(), _reached(), _descent()
