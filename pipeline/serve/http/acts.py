"""What a person may do: each once, by whom and why, in the ledger.

Who acts is who the token names; without one, as on loopback, the request says it. The same request
again, by `request_id` or the header Idempotency-Key, gets the same answer and does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import Response

from pipeline.errors import PipelineError
from pipeline.register import orders
from pipeline.register.acts import LONGEST_ID
from pipeline.register.envelope import parsed
from pipeline.register.marks import LONGEST
from pipeline.register.orders import Act, Order
from pipeline.register.sql import Stream
from pipeline.register.tokens import RESERVED
from pipeline.serve import answers
from pipeline.serve.answers import iso
from pipeline.serve.http.house import Asked, House, Named
from pipeline.serve.http.problems import Problem
from pipeline.serve.http.replies import Number, Sound, answer
from pipeline.serve.http.security import Who, needs

router = APIRouter(prefix="/streams/{name}", tags=["acts"])

Told = dict[str, Any]


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("it says nothing")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has printable characters only")
    return text


Id = Annotated[str, AfterValidator(_printable), Field(min_length=1, max_length=LONGEST_ID)]
Key = Annotated[
    str | None,
    AfterValidator(lambda text: text if text is None else _printable(text)),
    Header(alias="Idempotency-Key", min_length=1, max_length=LONGEST_ID),
]


class Said(BaseModel):
    """Why, and who says so."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[Sound, AfterValidator(_said), Field(min_length=1, max_length=1000)]
    actor: Annotated[Sound | None, Field(min_length=1, max_length=100)] = None
    request_id: Id | None = None

    def by(self, who: Who, key: str | None) -> Act:
        """Who acts, for the ledger, and under which id."""
        if who.name is not None and self.actor not in (None, who.name):
            raise Problem(403, f"the token says who acts: {who.name}")
        actor = who.name or self.actor
        if actor is None or not actor.strip() or actor in RESERVED:
            raise Problem(422, "actor: say who decides")
        if None not in (key, self.request_id) and key != self.request_id:
            raise Problem(422, "request_id: the header Idempotency-Key says another one")
        request_id = self.request_id or key
        if request_id is None:
            return Act(actor=actor, reason=self.reason)
        return Act(actor=actor, reason=self.reason, request_id=request_id)


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


class Agreement(Said):
    """Limits, as in the file of `tidemark envelope set`; {} takes all of them away."""

    limits: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Desk:
    """Where somebody who may do it does something to a stream."""

    house: House
    stream: Stream
    who: Who
    key: str | None

    def do(self, said: Said, order: Order) -> Response:
        """Give an order; what was done, now or by the same request before."""
        act = said.by(self.who, self.key)
        done = self.house.registry.act(self.stream.id, order, act)
        told = {"at": iso(done.at), "changed": done.changed, "said": done.sentence}
        named = {"stream": self.stream.name, "request_id": act.request_id}
        return answer(named | told | done.facts)


def _operators(
    house: Asked, known: Named, who: Annotated[Who, Depends(needs("operator"))], key: Key = None
) -> Desk:
    return Desk(house, known, who, key)


def _approvers(
    house: Asked, known: Named, who: Annotated[Who, Depends(needs("approver"))], key: Key = None
) -> Desk:
    return Desk(house, known, who, key)


Operator = Annotated[Desk, Depends(_operators)]
Approver = Annotated[Desk, Depends(_approvers)]


@router.post("/retrain", response_model=Told)
def retrain(desk: Operator, said: Retraining) -> Response:
    """Ask for a consolidation."""
    return desk.do(said, orders.Retrain(without_task=said.without_task))


@router.post("/pause", response_model=Told)
def pause(desk: Operator, said: Said) -> Response:
    """Train nothing and ask for nothing by the clock; scoring goes on."""
    return desk.do(said, orders.Pause())


@router.post("/resume", response_model=Told)
def resume(desk: Operator, said: Said) -> Response:
    """End a pause: what was asked for meanwhile is trained."""
    return desk.do(said, orders.Resume())


@router.post("/tasks/{number}", response_model=Told)
def mark(desk: Operator, number: Number, said: Marking) -> Response:
    """Say what a regime is, or what it is called."""
    if said.kind is None and said.name is None:
        raise Problem(422, "kind, name: give one of them")
    if said.name is not None and not said.name.isprintable():
        raise Problem(422, "name: it has printable characters only")
    return desk.do(said, orders.Mark(task=number, kind=said.kind, name=said.name))


@router.post("/rollback", response_model=Told)
def rollback(desk: Approver, said: RollBack) -> Response:
    """Take the champion's promotion back: an earlier champion is champion again."""
    return desk.do(said, orders.RollBack(to=said.to))


@router.post("/versions/{number}/promote", response_model=Told)
def promote(desk: Approver, number: Number, said: Said) -> Response:
    """Make a version champion, whatever the gate said of it."""
    return desk.do(said, orders.Promote(version=number))


@router.post("/versions/{number}/approve", response_model=Told)
def approve(desk: Approver, number: Number, said: Said) -> Response:
    """Make a version champion that waits, as it is outside of the agreed envelope."""
    return desk.do(said, orders.Approve(version=number))


@router.post("/versions/{number}/refuse", response_model=Told)
def refuse(desk: Approver, number: Number, said: Said) -> Response:
    """Refuse a version that waits, as it is outside of the agreed envelope."""
    return desk.do(said, orders.Refuse(version=number))


@router.post("/envelope", response_model=Told)
def agree(desk: Approver, said: Agreement) -> Response:
    """Agree on limits: a version outside of them waits for a person."""
    try:
        limits = parsed(said.limits)
    except PipelineError as exc:
        raise Problem(422, f"limits: {exc}") from None
    return desk.do(said, orders.Agree(limits=limits))


@router.get("/envelope", response_model=Told)
def envelope(house: Asked, known: Named) -> Response:
    """The limits that hold; null: everything is allowed."""
    every = house.registry.envelopes(known.id)
    told = answers.envelope(every[-1]) if every else None
    return answer({"stream": known.name, "envelope": told})


@router.get("/envelopes", response_model=list[Told])
def envelopes(house: Asked, known: Named) -> Response:
    """All limits that were ever agreed on, by whom and why, the first first."""
    return answer([answers.envelope(each) for each in house.registry.envelopes(known.id)])


@router.get("/waiting", response_model=list[Told])
def waiting(house: Asked, known: Named) -> Response:
    """Versions that wait for a person's word, the oldest first, and what they pass over."""
    return answer([answers.waiting(*each) for each in house.registry.waiting(known.id)])
