"""Where somebody who may do it says what to do: who it is, why, and under which id.

Who acts is who the token names; without one, as on loopback, the request says it. The same request
again, by `request_id` or the header Idempotency-Key, gets the same answer and does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import Response

from pipeline.errors import PipelineError
from pipeline.register.acts import LONGEST_ID
from pipeline.register.orders import LONGEST_NAME, Act, Order, person
from pipeline.register.sql import Stream
from pipeline.serve.answers import iso
from pipeline.serve.http.house import Asked, House, Named
from pipeline.serve.http.problems import Problem
from pipeline.serve.http.replies import Sound, answer
from pipeline.serve.http.security import Who, needs


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("it says nothing")
    return text


def printable(text: str) -> str:
    """The text; ValueError if a character of it cannot be printed."""
    if not text.isprintable():
        raise ValueError("it has printable characters only")
    return text


Id = Annotated[str, AfterValidator(printable), Field(min_length=1, max_length=LONGEST_ID)]
Key = Annotated[
    str | None,
    AfterValidator(lambda text: text if text is None else printable(text)),
    Header(alias="Idempotency-Key", min_length=1, max_length=LONGEST_ID),
]


class Said(BaseModel):
    """Why, and who says so."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[Sound, AfterValidator(_said), Field(min_length=1, max_length=1000)]
    actor: Annotated[Sound | None, Field(min_length=1, max_length=LONGEST_NAME)] = None
    request_id: Id | None = None

    def by(self, who: Who, key: str | None) -> Act:
        """Who acts, for the ledger, and under which id."""
        if who.name is not None and self.actor not in (None, who.name):
            raise Problem(403, f"the token says who acts: {who.name}")
        actor = who.name or self.actor
        try:
            actor = person(actor or "")
        except PipelineError:
            raise Problem(422, "actor: say who decides") from None
        if None not in (key, self.request_id) and key != self.request_id:
            raise Problem(422, "request_id: the header Idempotency-Key says another one")
        request_id = self.request_id or key
        if request_id is None:
            return Act(actor=actor, reason=self.reason)
        return Act(actor=actor, reason=self.reason, request_id=request_id)


@dataclass(frozen=True, slots=True)
class Desk:
    """Where somebody who may do it gives orders, to a stream or to all of them."""

    house: House
    stream: Stream | None
    who: Who
    key: str | None

    def do(self, said: Said, order: Order) -> Response:
        """Give an order; what was done, now or by the same request before."""
        act, stream = said.by(self.who, self.key), self.stream
        done = self.house.registry.act(stream.id if stream else None, order, act)
        told = {"at": iso(done.at), "changed": done.changed, "said": done.sentence}
        named = {"stream": stream.name} if stream else {}
        told |= {"token": done.token} if done.token else {}
        return answer({**named, "request_id": act.request_id, **told, **done.facts})


def of_a_stream(role: str) -> Callable[..., Desk]:
    """A route's dependency: the desk of the stream that the path names, for such a role."""
    check = Depends(needs(role))

    def desk(house: Asked, known: Named, who: Who = check, key: Key = None) -> Desk:
        return Desk(house, known, who, key)

    return desk


def of_all(role: str) -> Callable[..., Desk]:
    """The same for what is of no one stream."""
    check = Depends(needs(role))

    def desk(house: Asked, who: Who = check, key: Key = None) -> Desk:
        return Desk(house, None, who, key)

    return desk
