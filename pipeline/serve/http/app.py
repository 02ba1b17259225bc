"""Settings and a registry in, the application out: routers, wrappers, the page if it is there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import structlog
from anyio import to_thread
from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles

import pipeline
from pipeline.config import Settings
from pipeline.errors import PipelineError
from pipeline.register.sql import SqlRegistry
from pipeline.serve.http import (
    acts,
    events,
    health,
    nowhere,
    predict,
    problems,
    questions,
    steering,
    things,
    timeline,
    versions,
)
from pipeline.serve.http.headers import Headers
from pipeline.serve.http.house import House
from pipeline.serve.http.limits import Failures
from pipeline.serve.http.security import READER, Gate

log = structlog.get_logger()

#: The page, if it was installed.
PAGE = Path(__file__).parents[1] / "page"
#: Where the OpenAPI document is.
OPENAPI = "/v1/openapi.json"
#: How often the ledger may be told of failures, in seconds.
BEAT_S = 1.0


def create(
    settings: Settings,
    registry: SqlRegistry,
    *,
    stop: threading.Event | None = None,
    page: Path = PAGE,
) -> FastAPI:
    """The application over a registry, which stays the caller's; stop: those who wait go."""
    house = House(settings, registry, stop or threading.Event())
    failures = Failures(house.tokens.note_failures)
    app = FastAPI(
        title="tidemark",
        summary="Streams, versions, boundaries, and a history that answers why",
        version=pipeline.__version__,
        openapi_url=OPENAPI,
        docs_url=None,  # their scripts come from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_telling(house, failures),
        responses={"default": problems.SCHEMA},
    )
    app.state.house = house
    problems.install(app)
    app.include_router(health.router)
    app.include_router(_v1())
    nowhere.install(app, "/v1")
    if page.is_dir():
        app.mount("/", StaticFiles(directory=page, html=True), name="page")
    app.add_middleware(Gate, serve=settings.serve, tokens=house.tokens, failures=failures)
    app.add_middleware(Headers)
    return app


def _v1() -> APIRouter:
    """Everything that has a version in its path; a reader may see it, if not more is needed."""
    v1 = APIRouter(prefix="/v1", dependencies=READER)
    for part in (things, versions, timeline, questions, events, predict, acts, steering):
        v1.include_router(part.router)
    return v1


def _telling(
    house: House, failures: Failures
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The application's life: failures are told while it lasts, and at its end."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_tell(failures))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            with suppress(PipelineError):
                await to_thread.run_sync(lambda: failures.tell(now=True))
            house.close()

    return life


async def _tell(failures: Failures) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        try:
            await to_thread.run_sync(failures.tell)
        except PipelineError as exc:
            log.warning("login_failures_not_kept", error=str(exc))
