"""Failures out as application/problem+json (RFC 9457): one line, and never where it happened."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pipeline.errors import (
    ArtifactCorrupt,
    ArtifactPruned,
    Away,
    PipelineError,
    RegistryError,
    SettingsError,
    VersionConflict,
)
from pipeline.serve.http.replies import encode

log = structlog.get_logger()

#: Error -> status, the first that fits.
STATUS: tuple[tuple[type[PipelineError], int], ...] = (
    (Away, 503),
    (ArtifactPruned, 410),
    (ArtifactCorrupt, 500),
    (VersionConflict, 409),
    (RegistryError, 409),
    (SettingsError, 422),
    (PipelineError, 404),
)
#: What the OpenAPI document says of every failure.
SCHEMA = {
    "description": "Problem",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "errors": {"type": "array", "items": {"type": "object"}},
                },
            }
        }
    },
}


class Problem(HTTPException):
    """What is answered instead."""

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.more = more

    def response(self) -> Response:
        """As it goes out."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": self.detail,
        }
        return Response(
            encode(body | self.more),
            self.status_code,
            self.headers,
            media_type="application/problem+json",
        )


def install(app: FastAPI) -> None:
    """Answer every known failure of a route so; what is unknown is for headers.py."""

    @app.exception_handler(HTTPException)
    async def problem(_: Request, exc: HTTPException) -> Response:
        if not isinstance(exc, Problem):
            exc = Problem(exc.status_code, str(exc.detail), exc.headers)
        return exc.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, exc: RequestValidationError) -> Response:
        errors = [
            {"where": ".".join(map(str, error["loc"])), "what": error["msg"]}
            for error in exc.errors()
        ]
        first = errors[0]
        detail = f"{first['where']}: {first['what']}"
        return Problem(422, detail, errors=errors).response()

    @app.exception_handler(PipelineError)
    async def failure(_: Request, exc: PipelineError) -> Response:
        return of(exc).response()


def of(exc: PipelineError) -> Problem:
    """The problem that an error of ours is; what a database says stays in the log."""
    status = next(status for kind, status in STATUS if isinstance(exc, kind))
    if status >= 500:
        log.error("http_failed", error=str(exc))
        away = status == 503
        detail = "the database gives no answer now" if away else "what is kept is damaged"
        return Problem(status, detail, {"Retry-After": "5"} if away else None)
    return Problem(status, str(exc).partition("\n")[0])
