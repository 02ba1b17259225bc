"""Windows in, forecasts and scores out, by the champion or any other version that is kept."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from pipeline.errors import PipelineError
from pipeline.records import FloatArray
from pipeline.serve.http.house import Asked, House
from pipeline.serve.http.problems import Problem
from pipeline.serve.http.replies import StreamName, answer

router = APIRouter(tags=["predict"])

#: A reading of d sensors; null: the sensor said nothing.
Reading = list[float | None]
#: One prediction at a time: torch has its threads, and SQL's readers theirs.
_one = CapacityLimiter(1)


class Windows(Struct, forbid_unknown_fields=True):
    """N windows of W readings each, and the N readings that came after them, if they are known."""

    windows: Annotated[list[list[Reading]], Meta(min_length=1)]
    readings: list[Reading] | None = None
    #: The champion, if none is named.
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


(_schema,), _parts = msgspec.json.schema_components(
    [Windows], ref_template="#/components/schemas/{name}"
)
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _parts["Windows"]}},
    }
}


@router.post("/streams/{name}/predict", response_model=dict[str, Any], openapi_extra=BODY)
async def predict(house: Asked, name: StreamName, request: Request) -> Response:
    """Forecast the reading after each window, in the sensors' units; score what came, if told.

    A forecaster needs windows alone. Every other kind answers of the reading itself, and needs it.
    Scores are as the stream publishes them: high is odd, and 1 is usual. What was not observed, or
    has no score, is null.
    """
    body = await request.body()
    told = await to_thread.run_sync(_predict, house, name, body, limiter=_one)
    return answer(told)


def _predict(house: House, name: str, body: bytes) -> dict[str, Any]:
    try:
        asked = msgspec.json.decode(body, type=Windows)
    except msgspec.MsgspecError as exc:
        raise Problem(422, f"body: {exc}") from None
    if len(asked.windows) > (most := house.settings.serve.max_windows):
        raise Problem(413, f"windows: up to {most} at once (serve.max_windows)")
    stream = house.stream(name)
    number, sha256 = _version(house, stream.id, asked.version)
    scorer = house.scorers.of(sha256)
    design = scorer.weights.design
    shape = (len(asked.windows), design.window, design.channels)
    if asked.readings is None and (design.classes or design.kind in ("autoencoder", "regressor")):
        raise Problem(422, f"readings: a {design.kind} answers of them")
    labelled = bool(design.classes) and design.target == design.channels - 1
    contexts = _array("windows", asked.windows, shape, labelled)
    after = asked.readings if asked.readings is not None else [[None] * shape[2]] * shape[0]
    readings = _array("readings", after, (shape[0], shape[2]), labelled)
    said = scorer.predict(contexts, readings)
    scores = scorer.score(contexts, readings) if asked.readings is not None else None
    return {
        "stream": name,
        "version": number,
        "sha256": sha256,
        "model": design.kind,
        "channels": list(stream.channels),
        "classes": list(design.classes),
        "forecasts": said.tolist(),
        "scores": None if scores is None else scores.tolist(),
    }


def _version(house: House, stream_id: int, number: int | None) -> tuple[int, str]:
    if number is not None:
        return number, house.listing.weights_of(stream_id, number)
    champion = house.registry.champion(stream_id)
    if champion is None:
        raise PipelineError("no version is live yet")
    return champion.number, champion.sha256


def _array(what: str, rows: Any, shape: tuple[int, ...], labelled: bool) -> FloatArray:
    """Nested lists as (N, ..., d); labelled: the last column, of labels, need not be given."""
    try:
        with np.errstate(over="ignore"):
            array = np.array(rows, dtype=np.float64).astype(np.float32)
    except ValueError:  # of different lengths
        array = np.empty(0, dtype=np.float32)
    if labelled and array.shape == (*shape[:-1], shape[-1] - 1):
        array = np.concatenate([array, np.full((*shape[:-1], 1), np.nan, np.float32)], axis=-1)
    if array.shape != shape:
        raise Problem(422, f"{what}: {' x '.join(map(str, shape))} numbers are needed")
    array[~np.isfinite(array)] = np.nan
    return array
