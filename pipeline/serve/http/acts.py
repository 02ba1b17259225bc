"""What a person may do: each once, by whom and why, in the ledger.

Who acts is who the token names; without one, as on loopback, the request says it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pipeline.records import Request
from pipeline.register.marks import LONGEST
from pipeline.register.tokens import RESERVED
from pipeline.serve.answers import iso
from pipeline.serve.http.house import Asked, Named
from pipeline.serve.http.problems import Problem
from pipeline.serve.http.replies import Number, Sound, answer
from pipeline.serve.http.security import Who, needs

router = APIRouter(prefix="/streams/{name}", tags=["acts"])

Operator = Annotated[Who, Depends(needs("operator"))]
Approver = Annotated[Who, Depends(needs("approver"))]
Told = dict[str, Any]


class Said(BaseModel):
    """Why, and who says so."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[Sound, Field(min_length=1, max_length=1000)]
    actor: Annotated[Sound | None, Field(min_length=1, max_length=100)] = None

    def by(self, who: Who) -> str:
        """Who acts, for the ledger."""
        if who.name is not None and self.actor not in (None, who.name):
            raise Problem(403, f"the token says who acts: {who.name}")
        actor = who.name or self.actor
        if actor is None or actor in RESERVED:
            raise Problem(422, "actor: say who decides")
        return actor


class Retraining(Said):
    """A consolidation by hand."""

    without_task: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None


class RollBack(Said):
    """Which version to go back to; none: the champion before."""

    to: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None


class Marking(Said):
    """What a regime is, and what it is called; "" takes the name away."""

    kind: Literal["normal", "fault", "ignore"] | None = None
    name: Annotated[Sound | None, Field(max_length=LONGEST)] = None


@router.post("/retrain", response_model=Told)
def retrain(house: Asked, known: Named, who: Operator, said: Retraining) -> Response:
    """Ask for a consolidation."""
    told: Told = {"stream": known.name}
    if said.without_task is not None:
        base = house.registry.unaware(known.id, said.without_task)
        told |= {"without_task": said.without_task, "from_version": base.number if base else None}
    request = Request(
        stream_id=known.id,
        reason="manual",
        actor=said.by(who),
        note=said.reason,
        without_task=said.without_task,
    )
    return answer({"request": house.registry.submit(request)} | told)


@router.post("/rollback", response_model=Told)
def rollback(house: Asked, known: Named, who: Approver, said: RollBack) -> Response:
    """Take the champion's promotion back: an earlier champion is champion again."""
    back = house.registry.roll_back(known.id, to=said.to, actor=said.by(who), reason=said.reason)
    told = {"version": back.version, "to": back.to, "at": iso(back.time)}
    return answer({"stream": known.name} | told)


@router.post("/tasks/{number}", response_model=Told)
def mark(house: Asked, known: Named, number: Number, who: Operator, said: Marking) -> Response:
    """Say what a regime is, or what it is called."""
    if said.kind is None and said.name is None:
        raise Problem(422, "kind, name: give one of them")
    if said.name is not None and not said.name.isprintable():
        raise Problem(422, "name: it has printable characters only")
    marked = house.registry.mark(
        known.id, number, kind=said.kind, name=said.name, actor=said.by(who), reason=said.reason
    )
    return answer({"stream": known.name} | msgspec.to_builtins(marked))
