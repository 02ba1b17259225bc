"""What a chart of a series is drawn from, and which series have one."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Query
from starlette.responses import Response

from pipeline.register.engine import reading
from pipeline.serve import timeline as timelines
from pipeline.serve.http.house import Asked, Named
from pipeline.serve.http.replies import Moment, Sound, answer
from pipeline.serve.timeline import LEAST, POINTS

router = APIRouter(prefix="/streams/{name}", tags=["time line"])

#: Points of one answer.
MOST = 5000
Time = Annotated[Moment | None, Query(description="Event time: ISO 8601 with zone, or now.")]


@router.get("/series", response_model=list[dict[str, Any]])
def series(house: Asked, known: Named) -> Response:
    """The series that have a time line, and the readings in each."""
    with reading(house.registry.engine) as conn:
        return answer(timelines.drawn(conn, known.name))


@router.get("/timeline", response_model=dict[str, Any])
def timeline(
    house: Asked,
    known: Named,
    series: Annotated[Sound, Query(max_length=1000)],
    partition: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    since: Time = None,
    until: Time = None,
    points: Annotated[int, Query(ge=LEAST, le=MOST, description="At most.")] = POINTS,
) -> Response:
    """Sensors, score, boundaries, regimes and reigns of a series between two event times."""
    between = cast("tuple[int | None, int | None]", (since, until))  # Moment makes them numbers
    with reading(house.registry.engine) as conn:
        found = timelines.timeline(conn, known.name, partition, series, *between, points)
    return answer(found)
