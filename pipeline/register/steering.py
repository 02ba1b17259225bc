"""Acts of no one stream: schedules are paused, resumed and run; tokens are made and revoked."""

from __future__ import annotations

from pipeline.register import schedules, tokens
from pipeline.register.engine import moment
from pipeline.register.orders import (
    AddToken,
    Done,
    PauseSchedule,
    ResumeSchedule,
    RevokeToken,
    RunSchedule,
)
from pipeline.register.scene import Scene


def pause(scene: Scene, order: PauseSchedule) -> Done:
    """One that is paused already stays as it is."""
    changed = schedules.pause(scene, order.schedule)
    said = "paused" if changed else "paused already"
    return _steered(scene, order, said, changed=changed)


def resume(scene: Scene, order: ResumeSchedule) -> Done:
    """What was due meanwhile is nobody's."""
    changed = schedules.resume(scene, order.schedule.name)
    return _steered(scene, order, "goes on" if changed else "was not paused", changed=changed)


def run_now(scene: Scene, order: RunSchedule) -> Done:
    """One run more, unless one that a person asked for still waits."""
    due, changed = schedules.order(scene, order.schedule)
    at = moment(due).isoformat(timespec="microseconds")
    return _steered(scene, order, "a scheduler will do it", changed=changed, due=at)


def add_token(scene: Scene, order: AddToken) -> Done:
    """Its text is told to who asks for it first."""
    token = tokens.add(scene, order.name, order.role)
    facts = {"name": order.name, "role": order.role}
    said = f"token {order.name} is made, and was told then: if it is lost, revoke it"
    return Done(act="token_add", at=scene.at, facts=facts, sentence=said, token=token)


def revoke_token(scene: Scene, order: RevokeToken) -> Done:
    """From the next request on."""
    tokens.revoke(scene, order.name)
    said = f"the token {order.name} lets nobody in any more"
    return Done(act="token_revoke", at=scene.at, facts={"name": order.name}, sentence=said)


def _steered(
    scene: Scene,
    order: PauseSchedule | ResumeSchedule | RunSchedule,
    said: str,
    *,
    changed: bool,
    **facts: str,
) -> Done:
    name = order.schedule.name
    return Done(
        act=str(order.__struct_config__.tag),
        at=scene.at,
        changed=changed,
        facts={"schedule": name, **facts},
        sentence=f"{name}: {said}",
    )
