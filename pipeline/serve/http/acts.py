"""What a person may do to a stream: each once, by whom and why, in the ledger (see desk.py)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from pipeline.errors import PipelineError
from pipeline.register import orders
from pipeline.register.envelope import parsed
from pipeline.register.marks import LONGEST
from pipeline.serve import answers
from pipeline.serve.http.desk import Desk, Said, of_a_stream
from pipeline.serve.http.house import Asked, Named
from pipeline.serve.http.problems import Problem
from pipeline.serve.http.replies import Number, Sound, answer

router = APIRouter(prefix="/streams/{name}", tags=["acts"])

Told = dict[str, Any]
Operator = Annotated[Desk, Depends(of_a_stream("operator"))]
Approver = Annotated[Desk, Depends(of_a_stream("approver"))]


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
