"""What a person may do that is of no one stream: schedules and tokens (see desk.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import AfterValidator, Field
from starlette.responses import Response

from pipeline.config import Schedule
from pipeline.register import orders
from pipeline.register.orders import LONGEST_NAME, Order
from pipeline.serve import answers
from pipeline.serve.http.desk import Desk, Said, of_all, printable
from pipeline.serve.http.house import Asked
from pipeline.serve.http.replies import Sound, answer
from pipeline.serve.http.security import Who, needs
from pipeline.serve.schedules import find

router = APIRouter(tags=["acts"])

Told = dict[str, Any]
Operator = Annotated[Desk, Depends(of_all("operator"))]
Approver = Annotated[Desk, Depends(of_all("approver"))]
ScheduleName = Annotated[Sound, Path(min_length=1, max_length=64, description="Of the schedule.")]
TokenName = Annotated[
    Sound, AfterValidator(printable), Field(min_length=1, max_length=LONGEST_NAME)
]


class Naming(Said):
    """Which token."""

    name: TokenName


class Admission(Naming):
    """Who is to get in, and what it lets in to."""

    role: Literal["reader", "operator", "approver"] = "reader"


def _order(kind: Callable[..., Order]) -> Callable[..., Response]:
    def steer(desk: Operator, schedule: ScheduleName, said: Said) -> Response:
        found: Schedule = find(desk.house.settings, desk.house.registry, schedule)
        return desk.do(said, kind(schedule=found))

    return steer


#: What a schedule is told, and what comes of it.
STEERED: tuple[tuple[str, Callable[..., Order], str], ...] = (
    ("pause", orders.PauseSchedule, "Have nothing done by a schedule until it is resumed"),
    ("resume", orders.ResumeSchedule, "Have a schedule count from now on"),
    ("run-now", orders.RunSchedule, "Ask for a run without waiting for the clock"),
)

for _act, _kind, _summary in STEERED:
    router.add_api_route(
        f"/schedules/{{schedule}}/{_act}",
        _order(_kind),
        methods=["POST"],
        response_model=Told,
        summary=_summary,
        name=f"schedule_{_act}",
    )


@router.get("/tokens", response_model=list[Told])
def tokens(house: Asked, _: Annotated[Who, Depends(needs("approver"))]) -> Response:
    """Every token that there ever was: name, role, who made it, and whether it is good."""
    return answer([answers.token(each) for each in house.tokens.all()])


@router.post("/tokens", response_model=Told)
def add_token(desk: Approver, said: Admission) -> Response:
    """Make a token; its text is in this answer and nowhere else, and not told again."""
    return desk.do(said, orders.AddToken(name=said.name, role=said.role))


@router.post("/tokens/revoke", response_model=Told)
def revoke_token(desk: Approver, said: Naming) -> Response:
    """Let nobody in with a token from the next request on."""
    return desk.do(said, orders.RevokeToken(name=said.name))
