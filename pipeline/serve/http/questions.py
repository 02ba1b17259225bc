"""The audit's questions, one call each: a table of what is asked and what it is asked with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from pipeline.serve.http.house import Asked, Named
from pipeline.serve.http.paging import MOST, USUAL
from pipeline.serve.http.replies import Moment, Number, answer

router = APIRouter(prefix="/streams/{name}/audit", tags=["audit"])

Partition = Annotated[int, Path(ge=0, le=2**31 - 1, description="Of the topic.")]
Offset = Annotated[int, Path(ge=0, le=2**62, description="Of the record.")]
At = Annotated[Moment, Query(description="ISO 8601 with zone, or now.")]


def _at(ask: str) -> Callable[..., Response]:
    def of_a_time(house: Asked, known: Named, at: At) -> Response:
        return answer(getattr(house.lineage, ask)(known.name, at))

    return of_a_time


def _version(ask: str) -> Callable[..., Response]:
    def of_a_version(house: Asked, known: Named, number: Number) -> Response:
        return answer(getattr(house.lineage, ask)(known.name, number))

    return of_a_version


def _stream(ask: str) -> Callable[..., Response]:
    def of_a_stream(house: Asked, known: Named) -> Response:
        return answer(getattr(house.lineage, ask)(known.name))

    return of_a_stream


def _two(ask: str) -> Callable[..., Response]:
    def of_two_versions(house: Asked, known: Named, number: Number, other: Number) -> Response:
        return answer(getattr(house.lineage, ask)(known.name, number, other))

    return of_two_versions


def _place(ask: str) -> Callable[..., Response]:
    def of_a_reading(house: Asked, known: Named, partition: Partition, offset: Offset) -> Response:
        return answer(getattr(house.lineage, ask)(known.name, partition, offset))

    return of_a_reading


def _range(ask: str) -> Callable[..., Response]:
    def of_a_range(
        house: Asked,
        known: Named,
        start: Annotated[Moment | None, Query(description="From then on.")] = None,
        end: Annotated[Moment | None, Query(description="Before then.")] = None,
        after: Annotated[
            int | None, Query(ge=1, le=2**31 - 1, description="`next` of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST, description="Items, at most.")] = USUAL,
    ) -> Response:
        found = getattr(house.lineage, ask)(known.name, start, end, after=after, limit=limit)
        return answer(found)

    return of_a_range


#: Path, method of Lineage, what it is asked with, and what it answers.
QUESTIONS: tuple[tuple[str, str, Callable[[str], Callable[..., Response]], str], ...] = (
    ("/live-at", "live_at", _at, "Which version was live at a time"),
    ("/why/{number}", "why", _version, "Why a version was trained"),
    ("/data/{number}", "data", _version, "What a version was made from"),
    ("/metrics-at", "metrics_at", _at, "Which figures the version had that was live then"),
    ("/decided/{number}", "decided", _version, "What the gate said of a version, and by what"),
    ("/rejected", "rejected", _range, "Versions that were tried and refused"),
    ("/scored/{partition}/{offset}", "scored", _place, "Which version scored a reading"),
    ("/diff/{number}/{other}", "diff", _two, "How two versions differ"),
    ("/lineage/{number}", "lineage", _version, "A version's parents, back to the first"),
    ("/card/{number}", "card", _version, "Everything about a version"),
    ("/history", "history", _stream, "Every version with its reason, figures and fate"),
    ("/events", "events", _stream, "Sensors that fell silent or are back; records lost"),
)

for _path, _method, _form, _summary in QUESTIONS:
    router.add_api_route(
        _path, _form(_method), response_model=Any, summary=_summary, name=f"audit_{_method}"
    )
