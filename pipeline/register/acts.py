"""What people do, over the command line or HTTP: an order in, what was done out, once each.

Every act has an actor, a reason and a request id, is one transaction, and an entry of the ledger
with all three. The same request again gets the same answer and does nothing; what failed may be
tried again under its id. All of them queue at the ledger's lock, as registration does, so that each
sees what the one before it left.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection, insert, select

from pipeline.errors import PipelineError, RegistryError
from pipeline.records import Request
from pipeline.register import (
    envelopes,
    ledger,
    marks,
    prune,
    reign,
    requests,
    schedules,
    steering,
    streams,
    versions,
)
from pipeline.register import tables as t
from pipeline.register.engine import moment
from pipeline.register.orders import (
    Act,
    AddToken,
    Agree,
    Approve,
    Done,
    Mark,
    Order,
    Pause,
    PauseSchedule,
    Promote,
    Prune,
    Refuse,
    Resume,
    ResumeSchedule,
    Retrain,
    RevokeToken,
    RollBack,
    RunSchedule,
    person,
)
from pipeline.register.scene import Scene

#: Characters of a request id, at most.
LONGEST_ID = 100


def perform(conn: Connection, stream_id: int | None, order: Order, act: Act, *, at: int) -> Done:
    """Do it, unless it was done before under this request id; what was done.

    Raises
    ------
    PipelineError
        Nobody did it, for no reason, or the id belongs to another act; and whatever the order's
        own function raises. In all cases nothing is written.
    """
    _check(order, act)
    ledger.lock(conn)
    asked = ledger.canonical(
        {"stream": stream_id, "order": _asked(order), "actor": act.actor, "reason": act.reason}
    )
    this = t.acts.c.request_id == act.request_id
    if (row := conn.execute(select(t.acts).where(this)).first()) is not None:
        if row.asked != asked:
            what = json.loads(row.asked)["order"]["act"]
            raise RegistryError(
                f"request id {act.request_id} was used for another act: {what}, "
                f"{moment(row.at):%Y-%m-%d %H:%M:%S} UTC"
            )
        return msgspec.json.decode(row.answer, type=Done)
    done = _DO[type(order)](Scene(conn, stream_id, act, at), order)
    answer = ledger.canonical(replace(done, token=msgspec.UNSET))
    conn.execute(
        insert(t.acts).values(
            request_id=act.request_id, stream_id=stream_id, asked=asked, answer=answer, at=at
        )
    )
    return replace(msgspec.json.decode(answer, type=Done), token=done.token)  # as told again


def done_by_people(conn: Connection, stream_id: int) -> list[tuple[Act, str, Done]]:
    """(act, what was ordered, what was done) of every act, in order of time."""
    rows = conn.execute(
        select(t.acts)
        .where(t.acts.c.stream_id == stream_id)
        .order_by(t.acts.c.at, t.acts.c.request_id)
    )
    found = []
    for row in rows:
        asked = json.loads(row.asked)
        act = Act(actor=asked["actor"], reason=asked["reason"], request_id=row.request_id)
        found.append((act, asked["order"]["act"], msgspec.json.decode(row.answer, type=Done)))
    return found


def by_somebody(actor: str, reason: str) -> None:
    """Raise PipelineError unless a person decides, for a reason."""
    person(actor)
    _because(reason)


def _asked(order: Order) -> dict[str, Any]:
    """What is ordered; a schedule is the one of its name, whatever the settings make of it."""
    told: dict[str, Any] = msgspec.to_builtins(order)
    if isinstance(order, PauseSchedule | ResumeSchedule | RunSchedule):
        told["schedule"] = order.schedule.name
    return told


def _check(order: Order, act: Act) -> None:
    if not (isinstance(order, Prune) and act.actor == schedules.ACTOR):  # what the clock has done
        person(act.actor)
    _because(act.reason)
    if not 0 < len(act.request_id) <= LONGEST_ID or not act.request_id.isprintable():
        raise PipelineError(f"a request id has 1 to {LONGEST_ID} printable characters")


def _because(reason: str) -> None:
    if not reason.strip():
        raise PipelineError("--reason is empty: say why")


def _retrain(scene: Scene, order: Retrain) -> Done:
    request = Request(
        stream_id=scene.stream_id,
        reason="manual",
        actor=scene.act.actor,
        note=scene.act.reason,
        without_task=order.without_task,
    )
    base = None
    facts: dict[str, Any] = {}
    if order.without_task is not None:
        base = marks.unaware(scene.conn, scene.stream_id, order.without_task)
        number = None if base is None else versions.of(scene.conn, base).number
        facts = {"without_task": order.without_task, "from_version": number}
    facts = {"request": requests.submit(scene.conn, request, at=scene.at, more=scene.more)} | facts
    stream = scene.stream
    when = "once the stream goes on: it is paused" if stream.pause else ""
    said = f"request {facts['request']} for {stream.name}: a trainer will take it {when}".rstrip()
    return Done(act="retrain", at=scene.at, facts=facts, sentence=said)


def _pause(scene: Scene, _: Pause) -> Done:
    stream = scene.stream
    if stream.pause is not None:
        since = f"{moment(stream.pause.since):%Y-%m-%d %H:%M:%S} UTC"
        said = f"{stream.name} is paused already, since {since} by {stream.pause.actor}"
        return Done(act="pause", at=scene.at, changed=False, sentence=said)
    act = scene.act
    new = streams.Pause(since=scene.at, actor=act.actor, reason=act.reason)
    streams.pause(scene.conn, stream.id, new)
    scene.note("paused", {})
    said = f"{stream.name} is paused: it is scored, and nothing is trained"
    return Done(act="pause", at=scene.at, sentence=said)


def _resume(scene: Scene, _: Resume) -> Done:
    stream = scene.stream
    if stream.pause is None:
        said = f"{stream.name} is not paused: nothing to do"
        return Done(act="resume", at=scene.at, changed=False, sentence=said)
    streams.pause(scene.conn, stream.id, None)
    scene.note("resumed", {"paused": stream.pause.since})
    said = f"{stream.name} goes on: what was asked for meanwhile is trained"
    return Done(act="resume", at=scene.at, sentence=said)


def _mark(scene: Scene, order: Mark) -> Done:
    marked = marks.mark(
        scene.conn,
        scene.stream_id,
        order.task,
        kind=order.kind,
        name=order.name,
        actor=scene.act.actor,
        reason=scene.act.reason,
        at=scene.at,
        more=scene.more,
    )
    called = f'"{marked.after["name"]}"' if marked.after["name"] else "without a name"
    said = f"task {order.task} of {scene.stream.name}: {marked.after['kind']}, {called}"
    facts = msgspec.to_builtins(marked)
    return Done(
        act="task", at=scene.at, changed=marked.before != marked.after, facts=facts, sentence=said
    )


def _agree(scene: Scene, order: Agree) -> Done:
    act = scene.act
    envelope = envelopes.agree(
        scene.conn,
        scene.stream_id,
        order.limits,
        actor=act.actor,
        reason=act.reason,
        at=scene.at,
        more=scene.more,
    )
    said = f"envelope {envelope.number} of {scene.stream.name} holds for what is registered now"
    facts = {"envelope": envelope.number, "limits": msgspec.to_builtins(order.limits)}
    return Done(act="envelope", at=scene.at, facts=facts, sentence=said)


def _prune(scene: Scene, order: Prune) -> Done:
    gone = prune.prune(
        scene.conn,
        keep_days=order.keep_days,
        replays_all=order.replays_all,
        actor=scene.act.actor,
        reason=scene.act.reason,
        at=scene.at,
        more=scene.more,
    )
    said = f"pruned: {gone.sentence}"
    return Done(act="prune", at=scene.at, changed=bool(gone), facts=gone.facts, sentence=said)


_DO: dict[type[Order], Callable[[Scene, Any], Done]] = {
    Promote: reign.promote,
    RollBack: reign.roll_back,
    Approve: reign.approve,
    Refuse: reign.refuse,
    Retrain: _retrain,
    Pause: _pause,
    Resume: _resume,
    Mark: _mark,
    Agree: _agree,
    Prune: _prune,
    PauseSchedule: steering.pause,
    ResumeSchedule: steering.resume,
    RunSchedule: steering.run_now,
    AddToken: steering.add_token,
    RevokeToken: steering.revoke_token,
}
