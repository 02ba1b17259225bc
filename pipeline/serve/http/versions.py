"""Versions a page at a time, one by one, and their weights as they are kept: safetensors."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from pipeline.serve.http.headers import etag, knows
from pipeline.serve.http.house import Asked, Named
from pipeline.serve.http.paging import Page, Turn, paged
from pipeline.serve.http.replies import Number, Sound, answer

router = APIRouter(prefix="/streams/{name}/versions", tags=["versions"])

#: Bytes by their hash never change.
FOR_EVER = "private, max-age=31536000, immutable"
BINARY = "application/octet-stream"
WEIGHTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {BINARY: {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get("", response_model=Page)
def versions(
    house: Asked,
    known: Named,
    turn: Annotated[Turn, Depends()],
    status: Annotated[Sound | None, Query(max_length=32)] = None,
) -> Response:
    """Every version: parent, reason, the gate's sentence, and what became of it."""
    only = {} if status is None else {"status": status}
    return paged(partial(house.listing.page, "versions", known.id, only=only), turn)


@router.get("/{number}", response_model=dict[str, Any])
def version(house: Asked, known: Named, number: Number) -> Response:
    """One version."""
    return answer(house.listing.one("versions", known.id, number))


@router.get("/{number}/weights", response_class=Response, responses=WEIGHTS)
def weights(house: Asked, known: Named, number: Number, request: Request) -> Response:
    """The weights as safetensors, verified against their hash, which is the ETag."""
    sha256 = house.listing.weights_of(known.id, number)
    headers = {"ETag": etag(sha256), "Cache-Control": FOR_EVER}
    if knows(request.scope, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    file = f"version-{number}.safetensors"
    headers["Content-Disposition"] = f'attachment; filename="{file}"'
    return Response(house.registry.get(sha256), headers=headers, media_type=BINARY)
