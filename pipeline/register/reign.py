"""Acts that make a version champion, or not: promote, roll back, approve, refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from pipeline.errors import RegistryError, VersionConflict
from pipeline.records import Version
from pipeline.register import artifacts, envelopes, marks, rollback, versions
from pipeline.register import tables as t
from pipeline.register.orders import Approve, Done, Promote, Refuse, RollBack
from pipeline.register.scene import Scene


def promote(scene: Scene, order: Promote) -> Done:
    """Any version but one that waits: that has its own words."""
    conn, stream_id = scene.conn, scene.stream_id
    version = versions.numbered(conn, stream_id, order.version)
    champion = versions.champion(conn, stream_id)
    name = scene.stream.name
    facts: dict[str, Any] = {"version": version.number}
    if version.status == "champion":
        said = f"version {version.number} of {name} is champion already: nothing to do"
        return Done(act="promote", at=scene.at, changed=False, facts=facts, sentence=said)
    if version.status == "waiting":
        raise RegistryError(f"version {version.number} waits for a word: approve or refuse it")
    _check_made(scene, version)
    held = envelopes.judgement(conn, version.id) or envelopes.hold(
        conn, stream_id, version.id, champion, at=scene.at
    )
    facts |= {
        "was": version.status,
        "instead_of": champion.number if champion else None,
        "against": _against(conn, version),
        **(held.told() if held else {}),
    }
    told = {name: value for name, value in facts.items() if name not in ("version", "instead_of")}
    at = _crown(scene, version, champion, told)
    against = f", against the gate: {facts['against']}" if facts["against"] else ""
    said = f"version {version.number} of {name} is champion, {_in_place_of(champion)}{against}"
    return Done(act="promote", at=at, facts=facts, sentence=said)


def roll_back(scene: Scene, order: RollBack) -> Done:
    """As a person wants it: whichever is champion is left."""
    back = rollback.roll_back(
        scene.conn,
        scene.stream_id,
        leave=None,
        to=order.to,
        actor=scene.act.actor,
        reason=scene.act.reason,
        at=scene.at,
        more=scene.more,
    )
    said = (
        f"version {back.to} of {scene.stream.name} is champion again, in place of "
        f"{back.version}: the stream scores with it from its next poll on"
    )
    facts = {"version": back.version, "to": back.to}
    return Done(act="rollback", at=back.time, facts=facts, sentence=said)


def approve(scene: Scene, order: Approve) -> Done:
    """As long as the champion is still the one that the version was measured against."""
    version, held = _waiting(scene, order.version)
    try:
        versions.check_champion(scene.conn, scene.stream_id, held.instead_of)
    except VersionConflict as exc:
        raise VersionConflict(
            f"version {version.number} was overtaken: {exc}; refuse it, then promote it if you must"
        ) from None
    _check_made(scene, version)
    champion = versions.champion(scene.conn, scene.stream_id)
    facts = {"version": version.number, "instead_of": champion.number if champion else None}
    at = _crown(scene, version, champion, {"was": version.status, **held.told()})
    said = (
        f"version {version.number} of {scene.stream.name} is champion, {_in_place_of(champion)}, "
        f"outside of envelope {held.envelope}"
    )
    return Done(act="approve", at=at, facts=facts | held.told(), sentence=said)


def refuse(scene: Scene, order: Refuse) -> Done:
    """Only what waits: what is champion is left by a roll-back."""
    version, held = _waiting(scene, order.version)
    versions.move(scene.conn, version.id, "waiting", "refused", rejected=scene.at)
    scene.note("refused", {"version": version.id, **held.told()})
    facts = {"version": version.number, **held.told()}
    said = f"version {version.number} of {scene.stream.name} is refused"
    return Done(act="refuse", at=scene.at, facts=facts, sentence=said)


def _waiting(scene: Scene, number: int) -> tuple[Version, envelopes.Judgement]:
    """A version that waits, and why."""
    version = versions.numbered(scene.conn, scene.stream_id, number)
    held = envelopes.judgement(scene.conn, version.id)
    if version.status != "waiting" or held is None:
        back = ": `tidemark rollback` leaves it" if version.status == "champion" else ""
        raise RegistryError(f"version {number} waits for no word, it is {version.status}{back}")
    return version, held


def _check_made(scene: Scene, version: Version) -> None:
    """Its weights are there; and what was never live knows no task that is not to be learned."""
    artifacts.check(scene.conn, version.sha256, f"the weights of version {version.number}")
    if version.status not in ("retired", "rolled_back"):
        marks.check(scene.conn, scene.stream_id, versions.inputs(scene.conn, version.id))


def _crown(
    scene: Scene, version: Version, champion: Version | None, told: Mapping[str, Any]
) -> int:
    return versions.promote(
        scene.conn,
        scene.stream_id,
        version.id,
        champion,
        scene.act.reason,
        at=scene.at,
        before=version.status,
        actor=scene.act.actor,
        more={**told, **scene.more},
    )


def _against(conn: Connection, version: Version) -> str | None:
    """The gate's sentence, where it said no."""
    if version.status != "rejected":
        return None
    this = t.versions.c.id == version.id
    return str(conn.execute(select(t.versions.c.decision).where(this)).scalar_one())


def _in_place_of(champion: Version | None) -> str:
    return f"in place of {champion.number}" if champion else "the first of the stream"
