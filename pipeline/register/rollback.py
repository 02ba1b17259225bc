"""A promotion taken back, inside the caller's transaction: the champion before is champion again.

The version that is left is `rolled_back` and no gate promotes it again. One that came back is not
rolled back by itself before another was promoted, so that two versions never take turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, func, select
from sqlalchemy.exc import IntegrityError

from pipeline.errors import RegistryError, VersionConflict
from pipeline.records import RolledBack, Version
from pipeline.register import artifacts, ledger, versions
from pipeline.register import tables as t

#: Who takes a promotion back where no person does.
WATCH = "rollback"


def roll_back(
    conn: Connection,
    stream_id: int,
    *,
    leave: Version | None,
    to: int | None,
    actor: str,
    reason: str,
    at: int,
    more: Mapping[str, Any] | None = None,
) -> RolledBack:
    """Make an earlier champion the champion again.

    leave: the champion to leave; None: whichever is. to: number of the version to go back to;
    None: the champion before. more: further facts for the ledger.

    Raises
    ------
    VersionConflict
        `leave` is no longer champion, or is one that came back itself and the actor is no person.
    RegistryError
        There is no champion, none before it, or `to` was never live or is champion.
    ArtifactPruned
        The weights of the version to go back to are gone.
    """
    ledger.lock(conn)
    champion = versions.champion(conn, stream_id)
    if champion is None:
        raise RegistryError("there is no champion to leave")
    if leave is not None and leave.id != champion.id:
        raise VersionConflict(f"version {leave.number} is no longer champion")
    if actor == WATCH and not _reigns_first(conn, champion):
        raise VersionConflict(f"version {champion.number} came back by a roll-back and stays")
    back = _before(conn, champion) if to is None else _lived(conn, stream_id, to)
    artifacts.check(conn, back.sha256, f"the weights of version {back.number}")
    try:
        if not versions.move(conn, champion.id, "champion", "rolled_back"):
            raise VersionConflict(f"version {champion.number} is no longer champion")
        at = max(at, versions.close_live(conn, stream_id, at))
        if not versions.move(conn, back.id, back.status, "champion"):
            raise VersionConflict(f"version {back.number} has changed meanwhile")
        versions.open_live(conn, stream_id, back.id, actor, reason, at=at)
    except IntegrityError as exc:  # the index allows one champion a stream
        raise VersionConflict("the stream has another champion by now") from exc
    facts = {"version": champion.id, "to": back.id, "reason": reason, **(more or {})}
    ledger.append(conn, "rollback", facts, at=at, actor=actor, stream_id=stream_id)
    return RolledBack(version=champion.number, to=back.number, actor=actor, reason=reason, time=at)


def on_trial(conn: Connection, champion: Version) -> bool:
    """Whether it may be left without a person's word: not the first, nor one that came back."""
    return former(conn, champion) is not None and _reigns_first(conn, champion)


def expected_scores(conn: Connection, version: Version) -> dict[int, tuple[float, float]]:
    """Task's number -> mean and spread of the scores that the gate saw of it."""
    e = t.evaluations.c
    rows = conn.execute(
        select(t.tasks.c.number, e.score_mean, e.score_spread)
        .join(t.tasks, t.tasks.c.id == e.task_id)
        .where(e.version_id == version.id, e.score_mean.is_not(None), e.score_spread.is_not(None))
    )
    return {row.number: (row.score_mean, row.score_spread) for row in rows}


def _reigns_first(conn: Connection, champion: Version) -> bool:
    """Whether it is live for the first time: it did not come back, and nobody brought it back."""
    mine = t.promotions.c.version_id == champion.id
    reigns = select(func.count()).select_from(t.promotions).where(mine)
    return conn.execute(reigns).scalar_one() == 1


def _before(conn: Connection, champion: Version) -> Version:
    row = former(conn, champion)
    if row is None:
        raise RegistryError(f"version {champion.number} is the first: there is none to go back to")
    return versions.of(conn, row.version_id)


def former(conn: Connection, champion: Version) -> Row[Any] | None:
    """The last promotion before the champion's first of a version that still stands."""
    p, v = t.promotions.c, t.versions.c
    promoted = select(func.min(p.id)).where(p.version_id == champion.id).scalar_subquery()
    return conn.execute(
        select(p.version_id)
        .join(t.versions, v.id == p.version_id)
        .where(p.stream_id == champion.stream_id, p.id < promoted, v.status == "retired")
        .order_by(p.id.desc())
        .limit(1)
    ).first()


def _lived(conn: Connection, stream_id: int, number: int) -> Version:
    """A version that was live and is not."""
    version = versions.numbered(conn, stream_id, number)
    if version.status == "champion":
        raise RegistryError(f"version {number} is champion already")
    if version.status not in ("retired", "rolled_back"):
        raise RegistryError(f"version {number} was never live: it is {version.status}")
    return version
