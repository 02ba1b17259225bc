"""Versions, their figures and promotions, inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from pipeline.errors import RegistryError, VersionConflict
from pipeline.records import Candidate, Claim, Decision, Version
from pipeline.register import artifacts, envelopes, ledger, marks, requests
from pipeline.register import tables as t
from pipeline.register.engine import inserted, next_number

#: Who promotes.
GATE = "gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A candidate and everything that is to be known of it."""

    candidate: Candidate
    decision: Decision
    parent: Version | None
    #: The champion that it is to replace, if that is not its parent.
    champion: Version | None
    inputs: Mapping[str, Any]
    settings: Mapping[str, Any]
    strategy: str
    seed: int
    code_version: str


def register(conn: Connection, claim: Claim, made: Made, *, at: int) -> Version:
    """Artifacts, version, metrics, R's row, request done, promotion, ledger.

    One that the gate would promote, and that is outside of the agreed envelope, waits for a person.
    The version that this claim has made already, if it has.
    """
    ledger.lock(conn)
    if (version_id := _made_by(conn, claim)) is not None:
        return _version(conn, version_id)
    requests.hold(conn, claim)
    stream_id = claim.request.stream_id
    number = next_number(conn, t.versions, stream_id)
    marks.check(conn, stream_id, made.inputs)
    row = _row(conn, claim, made, number, at)
    version_id = inserted(conn, insert(t.versions).values(row))
    entry = row | {
        "version": version_id,
        "folded": [folded for folded, _ in claim.folded],
        "metrics": dict(made.candidate.metrics),
        "skills": dict(made.candidate.skills),
        "evaluations": _insert_figures(conn, version_id, made.candidate),
    }
    ledger.append(conn, "version", entry, at=at, stream_id=stream_id)
    word = "rejected"
    if made.decision.promote:
        word = _crown_or_wait(conn, stream_id, version_id, made, at=at)
    requests.finish(conn, claim, f"version {number} {word}: {made.decision.reason}", at=at)
    return _version(conn, version_id)


def _crown_or_wait(
    conn: Connection, stream_id: int, version_id: int, made: Made, *, at: int
) -> str:
    """Promote what the gate let through if it is inside the envelope; what became of it.

    Raises
    ------
    VersionConflict
        The champion is not the one to replace.
    """
    instead_of = made.champion or made.parent
    judged = envelopes.hold(conn, stream_id, version_id, instead_of, at=at)
    if judged is None or not judged.outside:
        more = judged.told() if judged else {}
        promote(conn, stream_id, version_id, instead_of, made.decision.reason, at=at, more=more)
        return "promoted"
    check_champion(conn, stream_id, instead_of.id if instead_of else None)
    move(conn, version_id, "candidate", "waiting")
    entry = judged.told() | {"version": version_id, "instead_of": judged.instead_of}
    ledger.append(conn, "waiting", entry, at=at, stream_id=stream_id)
    return "waits for a person's word"


def check_champion(conn: Connection, stream_id: int, expected: int | None) -> None:
    """Raise VersionConflict unless the champion is the version of that id (None: there is none)."""
    live = champion(conn, stream_id)
    if (live.id if live else None) == expected:
        return
    if expected is None:
        raise VersionConflict("the stream has another champion by now")
    raise VersionConflict(f"version {of(conn, expected).number} is no longer champion")


def promote(
    conn: Connection,
    stream_id: int,
    version_id: int,
    instead_of: Version | None,
    reason: str,
    *,
    at: int,
    before: str = "candidate",
    actor: str = GATE,
    more: Mapping[str, Any] | None = None,
) -> int:
    """Make a version the champion if the champion still is `instead_of`; when it did.

    before: what it was until now. more: further facts for the ledger.

    Raises
    ------
    VersionConflict
        It is another one.
    """
    try:
        if instead_of is not None:
            if not move(conn, instead_of.id, "champion", "retired"):
                raise VersionConflict(f"version {instead_of.number} is no longer champion")
            at = max(at, close_live(conn, stream_id, at))
        if not move(conn, version_id, before, "champion"):
            raise VersionConflict(f"the version to promote is no longer {before}")
        open_live(conn, stream_id, version_id, actor, reason, at=at)
    except IntegrityError as exc:  # the index allows one champion a stream
        raise VersionConflict("the stream has another champion by now") from exc
    facts: dict[str, Any] = {"version": version_id, "reason": reason, **(more or {})}
    facts["instead_of"] = instead_of.id if instead_of else None
    ledger.append(conn, "promotion", facts, at=at, actor=actor, stream_id=stream_id)
    return at


def champion(conn: Connection, stream_id: int) -> Version | None:
    """The version that is live."""
    row = conn.execute(
        select(t.versions.c.id).where(t.versions.c.stream_id == stream_id, t.is_champion)
    ).first()
    return _version(conn, row.id) if row else None


def first(conn: Connection, stream_id: int) -> Version | None:
    """The version that was live first."""
    row = conn.execute(
        select(t.promotions.c.version_id)
        .where(t.promotions.c.stream_id == stream_id)
        .order_by(t.promotions.c.id)
        .limit(1)
    ).first()
    return _version(conn, row.version_id) if row else None


def of(conn: Connection, version_id: int) -> Version:
    """The version of that id."""
    return _version(conn, version_id)


def numbered(conn: Connection, stream_id: int, number: int) -> Version:
    """The version of that number; RegistryError if the stream has none."""
    this = (t.versions.c.stream_id == stream_id) & (t.versions.c.number == number)
    id_ = conn.execute(select(t.versions.c.id).where(this)).scalar()
    if id_ is None:
        raise RegistryError(f"the stream has no version {number}")
    return _version(conn, id_)


def lives(conn: Connection, stream_id: int) -> list[tuple[int, str]]:
    """(since when, sha256 of the weights) of every version that was live, in order."""
    rows = conn.execute(
        select(t.promotions.c.live_from, t.versions.c.sha256)
        .join(t.versions, t.versions.c.id == t.promotions.c.version_id)
        .where(t.promotions.c.stream_id == stream_id)
        .order_by(t.promotions.c.id)
    )
    return [(row.live_from, row.sha256) for row in rows]


def skills(conn: Connection, version_id: int) -> dict[int, float]:
    """A version's row of R."""
    rows = conn.execute(
        select(t.evaluations.c.task_id, t.evaluations.c.skill).where(
            t.evaluations.c.version_id == version_id
        )
    )
    return {row.task_id: row.skill for row in rows}


def learned(conn: Connection, version_id: int) -> list[str]:
    """sha256 of the segments in a version's inputs."""
    return [sha for _, sha in inputs(conn, version_id).get("segments", ())]


def inputs(conn: Connection, version_id: int) -> dict[str, Any]:
    """Everything that a version was made from."""
    this = t.versions.c.id == version_id
    found: dict[str, Any] = json.loads(
        conn.execute(select(t.versions.c.inputs).where(this)).scalar_one()
    )
    return found


def rows_of_r(conn: Connection, version_id: int) -> list[tuple[dict[int, float], dict[int, float]]]:
    """(skills, parent's skills) by task id of a version and its forebears, the first one first."""
    v, e = t.versions.c, t.evaluations.c
    ids = select(v.id, v.parent_id, v.number)
    chain = ids.where(v.id == version_id).cte("chain", recursive=True)
    chain = chain.union_all(ids.join(chain, v.id == chain.c.parent_id))
    found: dict[int, tuple[dict[int, float], dict[int, float]]] = {}
    measured = (
        select(chain.c.id, e.task_id, e.skill, e.parent_skill)
        .outerjoin(t.evaluations, e.version_id == chain.c.id)
        .order_by(chain.c.number)
    )
    for row in conn.execute(measured):
        skills_, parents = found.setdefault(row.id, ({}, {}))
        if row.skill is not None:
            skills_[row.task_id] = row.skill
        if row.parent_skill is not None:
            parents[row.task_id] = row.parent_skill
    return list(found.values())


def open_live(
    conn: Connection, stream_id: int, version_id: int, actor: str, reason: str, *, at: int
) -> None:
    """Begin a live interval."""
    conn.execute(
        insert(t.promotions).values(
            stream_id=stream_id, version_id=version_id, live_from=at, actor=actor, reason=reason
        )
    )


def close_live(conn: Connection, stream_id: int, at: int) -> int:
    """End the live interval, never before it began; when it ended."""
    live = conn.execute(
        select(t.promotions).where(t.promotions.c.stream_id == stream_id, t.is_live)
    ).one()
    until = max(at, int(live.live_from))
    conn.execute(update(t.promotions).where(t.promotions.c.id == live.id).values(live_until=until))
    return until


def move(conn: Connection, version_id: int, before: str, after: str, **more: Any) -> bool:
    """Change a version's status, and `more` of its columns, if it still is `before`; whether it
    was."""
    this = (t.versions.c.id == version_id) & (t.versions.c.status == before)
    return conn.execute(update(t.versions).where(this).values(status=after, **more)).rowcount == 1


def _made_by(conn: Connection, claim: Claim) -> int | None:
    """The version that ended a claim's request."""
    if not requests.is_done(conn, claim):
        return None
    made = select(t.versions.c.id).where(t.versions.c.request_id == claim.id)
    return conn.execute(made).scalar()


def _row(conn: Connection, claim: Claim, made: Made, number: int, at: int) -> dict[str, Any]:
    """A version's columns, its artifacts kept."""
    candidate, decision = made.candidate, made.decision
    ewc = artifacts.put(conn, "ewc", candidate.ewc, at=at) if candidate.ewc else None
    return {
        "stream_id": claim.request.stream_id,
        "number": number,
        "parent_id": made.parent.id if made.parent else None,
        "request_id": claim.id,
        "sha256": artifacts.put(conn, "weights", candidate.weights, at=at),
        "ewc_sha256": ewc,
        "status": "candidate" if decision.promote else "rejected",
        "decision": decision.reason,
        "figures": ledger.canonical(decision.figures),
        "strategy": made.strategy,
        "seed": made.seed,
        "inputs": ledger.canonical(made.inputs),
        "settings": ledger.canonical(made.settings),
        "code_version": made.code_version,
        "created": at,
        "rejected": None if decision.promote else at,
    }


def _insert_figures(
    conn: Connection, version_id: int, candidate: Candidate
) -> list[dict[str, Any]]:
    """The rows of R. A figure that is not finite has none: SQLite keeps NaN as NULL; the ledger
    has it."""
    figures = [
        {"version_id": version_id, "name": name, "value": value}
        for name, value in candidate.metrics.items()
        if isfinite(value)
    ]
    if figures:
        conn.execute(insert(t.metrics), figures)
    row_of_r = [
        {
            "version_id": version_id,
            "task_id": task,
            "skill": skill,
            "parent_skill": _finite(candidate.parent_skills.get(task)),
            "windows": candidate.sizes[task],
            "score_mean": _finite(candidate.scores[task][0]),
            "score_spread": _finite(candidate.scores[task][1]),
        }
        for task, skill in candidate.skills.items()
        if isfinite(skill)
    ]
    if row_of_r:
        conn.execute(insert(t.evaluations), row_of_r)
    return row_of_r


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _version(conn: Connection, version_id: int) -> Version:
    row = conn.execute(select(t.versions).where(t.versions.c.id == version_id)).one()
    return Version(
        id=row.id,
        stream_id=row.stream_id,
        number=row.number,
        parent_id=row.parent_id,
        sha256=row.sha256,
        ewc_sha256=row.ewc_sha256,
        status=row.status,
    )
