"""Is it there (healthz), can it answer (readyz), and how does everything stand (metrics)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from pipeline.errors import PipelineError
from pipeline.register.standing import standing
from pipeline.serve.http.house import Asked
from pipeline.serve.http.problems import Problem
from pipeline.serve.http.replies import answer
from pipeline.serve.http.security import READER
from pipeline.telemetry import EXPOSITION, Shown, exposition

router = APIRouter(tags=["health"])

_STREAM = ("stream",)
_PARTITION = ("stream", "partition")
#: Every gauge of /metrics, behind `tidemark_`: of what SQL knows, so of all processes together.
#: A stream process tells its own at run.metrics_port.
GAUGES = {
    "stream_next_offset": Shown("Offset that a partition's checkpoint goes on from", _PARTITION),
    "checkpoint_age_seconds": Shown("Since a partition's last checkpoint", _PARTITION),
    "stream_boundaries": Shown("Task boundaries marked", _STREAM),
    "stream_tasks": Shown("Known regimes, by kind", ("stream", "kind")),
    "stream_requests": Shown(
        "Consolidations asked for, by reason and status", ("stream", "reason", "status")
    ),
    "stream_versions": Shown("Versions, by fate", ("stream", "status")),
    "champion_version": Shown("Number of the live version; none before the first", _STREAM),
    "champion_timestamp_seconds": Shown("When it went live, in seconds since 1970 UTC", _STREAM),
    "roll_backs": Shown("Promotions that were taken back", _STREAM),
    "dead_letters_decided": Shown("Dead letters that somebody decided on", ("stream", "status")),
    "records_lost": Shown("Records that Kafka no longer had", _STREAM),
    "consolidation_seconds": Shown("Time that the newest version took to train", _STREAM),
    "ledger_entries": Shown("Entries of the ledger"),
    "verify_failures": Shown("Times that the ledger's own verification failed"),
    "schedule_ok": Shown("Whether a schedule's last run went well", ("schedule", "kind")),
    "lease_remaining_seconds": Shown("Until a lease ends, by its holder", ("lease", "owner")),
}


@router.get("/healthz", response_model=dict[str, Any])
async def healthz() -> Response:
    """The process answers; it looks at nothing else."""
    return answer({"status": "ok"})


@router.get("/readyz", response_model=dict[str, Any])
def readyz(house: Asked) -> Response:
    """The database answers too, and its schema is the one that is known here."""
    try:
        house.registry.check_schema()
    except PipelineError:
        raise Problem(503, "the database is away, or of another schema: see the log") from None
    return answer({"status": "ready"})


@router.get("/metrics", response_class=Response, dependencies=READER)
def metrics(house: Asked) -> Response:
    """Everything that SQL knows, in Prometheus' text format."""
    samples = standing(house.registry.engine, clock=house.registry.clock)
    return Response(exposition(GAUGES, samples), headers={"Content-Type": EXPOSITION})


@router.get(
    "/v1/standing",
    response_model=list[dict[str, Any]],
    dependencies=READER,
)
def standing_(house: Asked) -> Response:
    """The same figures as JSON: metric, labels, value."""
    samples = standing(house.registry.engine, clock=house.registry.clock)
    return answer(
        [
            {
                "metric": sample.metric,
                "labels": dict(zip(GAUGES[sample.metric].labels, sample.labels, strict=True)),
                "value": sample.value,
            }
            for sample in samples
        ]
    )
