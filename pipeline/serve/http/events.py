"""The ledger: a page at a time, and told as it grows by server-sent events.

An event's id is its entry's number: who comes back with Last-Event-ID misses nothing (WHATWG HTML,
section 9.2). A connection ends after a while, so that a token which was revoked ends too; browsers
come back by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

import msgspec
from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from pipeline.errors import Away
from pipeline.register.proof import note
from pipeline.register.proof import verify as prove
from pipeline.serve.http.house import Asked, House
from pipeline.serve.http.paging import Page, Turn, paged
from pipeline.serve.http.problems import Problem
from pipeline.serve.http.replies import Sound, answer, encode
from pipeline.serve.http.security import Who, needs

router = APIRouter(tags=["ledger"])

#: Looked for more so often, and said that the line still stands, in seconds.
LOOK_S, ALIVE_S = 0.5, 15.0
#: A connection ends after, in seconds.
LIFE_S = 60.0
EVENTS = "text/event-stream"
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {EVENTS: {"schema": {"type": "string"}}}}
}
#: Entries that are read at once.
AT_ONCE = 100
#: A browser comes back after, in milliseconds.
RETRY_MS = 1000

OfStream = Annotated[Sound | None, Query(max_length=255, description="Only of this stream.")]
OfKind = Annotated[
    list[Sound] | None, Query(max_length=32, description="Only of this kind; may be repeated.")
]


@router.get("/ledger", response_model=Page)
def entries(
    house: Asked,
    turn: Annotated[Turn, Depends()],
    stream: OfStream = None,
    kind: OfKind = None,
) -> Response:
    """Every decision, in order, each with its hash and that of the one before."""
    stream_id = house.stream(stream).id if stream is not None else None
    fetch = partial(house.listing.entries, stream_id=stream_id, kinds=tuple(kind or ()))
    return paged(fetch, turn)


@router.get("/ledger/verify", response_model=dict[str, Any])
def verify(house: Asked, who: Annotated[Who, Depends(needs("reader"))]) -> Response:
    """Whether ledger and tables are as they were written; what is not, and what was done to it."""
    if not house.verifying.acquire(blocking=False):
        raise Problem(503, "it is being verified for somebody else", {"Retry-After": "5"})
    try:
        proof = prove(house.registry.database)
        note(house.registry.database, proof, actor=who.name or "http")
    finally:
        house.verifying.release()
    findings = msgspec.to_builtins(proof.findings)
    head = {"entries": proof.head.entries, "head": proof.head.hash}
    return answer(head | {"holds": not findings, "findings": findings})


@router.get("/events", response_class=StreamingResponse, responses=STREAM)
async def events(
    house: Asked,
    request: Request,
    stream: OfStream = None,
    kind: OfKind = None,
    after: Annotated[
        int | None, Query(ge=0, le=2**62, description="From behind this entry; default: from now.")
    ] = None,
    last_event_id: Annotated[str | None, Header(max_length=32)] = None,
) -> Response:
    """What happens, as it does: every entry of the ledger, its number as id."""
    if last_event_id is not None:
        if not (last_event_id.isascii() and last_event_id.isdigit()):
            raise Problem(422, "Last-Event-ID: the number of an entry")
        after = int(last_event_id) % 2**62
    stream_id = None
    if stream is not None:
        stream_id = (await to_thread.run_sync(house.stream, stream)).id
    if after is None:
        after = await to_thread.run_sync(house.listing.last_entry)
    if house.listeners >= house.settings.serve.max_listeners:
        raise Problem(503, "too many listen (serve.max_listeners)", {"Retry-After": "10"})
    fetch = partial(
        house.listing.entries, limit=AT_ONCE, stream_id=stream_id, kinds=tuple(kind or ())
    )
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    told = _told(house, fetch, after)
    return StreamingResponse(told, headers=headers, media_type=EVENTS)


async def _told(house: House, fetch: Any, after: int) -> AsyncIterator[bytes]:
    """Events from behind entry `after` on, until it is time to come back."""
    house.listeners += 1
    end = time.monotonic() + LIFE_S
    alive = time.monotonic() + ALIVE_S
    try:
        yield f"retry: {RETRY_MS}\n\n".encode()
        while time.monotonic() < end and not house.stop.is_set():
            try:
                last = await to_thread.run_sync(house.listing.last_entry)
                found = await to_thread.run_sync(partial(fetch, after=after))
            except Away:
                return  # the browser asks again, and hears then that it is away
            for entry in found:
                after = entry["id"]
                yield b"id: %d\ndata: %s\n\n" % (after, encode(entry))
            if len(found) < AT_ONCE:
                after = max(after, last)  # what was looked through is not looked through again
                await asyncio.sleep(LOOK_S)
            if time.monotonic() > alive:
                alive = time.monotonic() + ALIVE_S
                yield b": alive\n\n"
    finally:
        house.listeners -= 1
