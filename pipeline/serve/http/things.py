"""What is kept, a page at a time: streams and everything of one stream but its versions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from pipeline.errors import PipelineError
from pipeline.register.sql import Stream
from pipeline.serve.http.house import Asked, House, Named
from pipeline.serve.http.paging import MOST, Page, Turn, paged
from pipeline.serve.http.replies import Number, Sound, answer
from pipeline.serve.http.security import Who, needs
from pipeline.serve.schedules import listed

router = APIRouter(tags=["what is kept"])

#: No filter.
NONE: Mapping[str, str | None] = {}
Filter = Annotated[Sound | None, Query(max_length=255)]


@router.get("/me", response_model=dict[str, Any])
def me(who: Annotated[Who, Depends(needs("reader"))]) -> Response:
    """Who asks, and with which role; without a token nobody has a name."""
    return answer({"name": who.name, "role": who.role})


@router.get("/schedules", response_model=dict[str, Any])
def schedules(house: Asked) -> Response:
    """What is done by the clock: its next five times and last runs; and what a rule holds back."""
    return answer(listed(house.settings, house.registry))


@router.get("/streams", response_model=list[dict[str, Any]])
def streams(house: Asked) -> Response:
    """Every stream, with the number of its champion."""
    return answer(house.listing.streams())


@router.get("/streams/{name}", response_model=dict[str, Any])
def stream(house: Asked, known: Named) -> Response:
    """One stream."""
    found = next((s for s in house.listing.streams() if s["id"] == known.id), None)
    if found is None:
        raise PipelineError(f"no stream {known.name}")
    return answer(found)


@router.get("/streams/{name}/boundaries", response_model=Page)
def boundaries(
    house: Asked, known: Named, turn: Annotated[Turn, Depends()], series: Filter = None
) -> Response:
    """Where segments begin, with the test that crossed and what changed."""
    return _of(house, known, "boundaries", turn, {"series": series})


@router.get("/streams/{name}/tasks", response_model=Page)
def tasks(
    house: Asked, known: Named, turn: Annotated[Turn, Depends()], kind: Filter = None
) -> Response:
    """The regimes that are known."""
    return _of(house, known, "tasks", turn, {"kind": kind})


@router.get("/streams/{name}/tasks/{number}", response_model=dict[str, Any])
def task(house: Asked, known: Named, number: Number) -> Response:
    """One regime, with its segments and all that people said of it."""
    return answer(house.lineage.task(known.name, number))


@router.get("/streams/{name}/requests", response_model=Page)
def requests(
    house: Asked,
    known: Named,
    turn: Annotated[Turn, Depends()],
    status: Filter = None,
    reason: Filter = None,
) -> Response:
    """Consolidations that were asked for, and what became of them."""
    return _of(house, known, "requests", turn, {"status": status, "reason": reason})


@router.get("/streams/{name}/requests/{number}", response_model=dict[str, Any])
def request(house: Asked, known: Named, number: Number) -> Response:
    """One request."""
    return answer(house.listing.one("requests", known.id, number))


@router.get("/streams/{name}/sensor-events", response_model=Page)
def sensor_events(
    house: Asked,
    known: Named,
    turn: Annotated[Turn, Depends()],
    kind: Filter = None,
    series: Filter = None,
) -> Response:
    """Sensors that fell silent, repeat one value or are back."""
    return _of(house, known, "sensor-events", turn, {"kind": kind, "series": series})


@router.get("/streams/{name}/gaps", response_model=Page)
def gaps(house: Asked, known: Named, turn: Annotated[Turn, Depends()]) -> Response:
    """Records that Kafka no longer had."""
    return _of(house, known, "gaps", turn)


@router.get("/streams/{name}/promotions", response_model=Page)
def promotions(
    house: Asked, known: Named, turn: Annotated[Turn, Depends()], actor: Filter = None
) -> Response:
    """Which version was live when: half-open, by whom and why."""
    return _of(house, known, "promotions", turn, {"actor": actor})


@router.get("/streams/{name}/matrix", response_model=list[dict[str, Any]])
def matrix(
    house: Asked,
    known: Named,
    newest: Annotated[
        int | None, Query(ge=1, le=MOST, description="Versions, the last ones; none: all.")
    ] = None,
) -> Response:
    """R, a row a version: its skill on each task's held-out readings."""
    return answer(house.lineage.matrix(known.name, newest))


@router.get("/streams/{name}/dead-letters", response_model=dict[str, Any])
def dead_letters(house: Asked, known: Named) -> Response:
    """How many letters people have decided on; those that are open are in TOPIC.dead alone."""
    return answer(house.listing.dead_letters(known.id))


def _of(
    house: House, known: Stream, kind: str, turn: Turn, filters: Mapping[str, str | None] = NONE
) -> Response:
    only = {name: value for name, value in filters.items() if value is not None}
    return paged(partial(house.listing.page, kind, known.id, only=only), turn)
