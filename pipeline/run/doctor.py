"""Is everything there that a start needs? Each answer says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config import Settings, load, source
from pipeline.errors import PipelineError, SettingsError


def examine(config: Path | None) -> list[dict[str, Any]]:
    """Every check as `{name, ok, message}`; those that need the settings end with them."""
    try:
        settings = load(config)
        _read(settings)
    except SettingsError as exc:
        return [{"name": "settings", "ok": False, "message": str(exc)}]
    checks = [("settings", True, source(config)), *_precision(settings)]
    checks += [*_database(settings), *_broker(settings)]
    return [{"name": name, "ok": ok, "message": message} for name, ok, message in checks]


def _read(settings: Settings) -> None:
    """Settings that only their own stage can judge."""
    from pipeline.detect.detectors import check
    from pipeline.model.kinds import check as check_model
    from pipeline.register.due import Timing

    for each in settings.schedule:
        Timing(each)
    check(settings.detect.detectors, settings.detect.error_channel)
    check_model(settings.score, len(settings.stream.channels), settings.stream.label)


def _precision(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    """A warning is no failure: it works all the same."""
    from pipeline.consolidate.precision import advice

    if (slower := advice(settings.learn.precision)) is not None:
        yield "precision", True, slower


def _database(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    from pipeline.register.migrate import current_and_head
    from pipeline.register.sql import journal_mode

    try:
        current, head = current_and_head(settings.database)
    except PipelineError as exc:
        yield "database", False, str(exc)
        return
    yield "database", True, "reachable"
    at_head = current == head
    advice = f"at {current or 'nothing'}, head is {head}: run `tidemark migrate`"
    yield "schema", at_head, f"at head ({head})" if at_head else advice
    if at_head:
        yield from _streams(settings)
    mode = journal_mode(settings.database)
    if mode is not None:
        yield (
            "journal",
            mode == "wal",
            "write-ahead log" if mode == "wal" else f"{mode}, not wal: run `tidemark migrate`",
        )


def _streams(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    """What waits for a person or by a rule: it is no failure."""
    from pipeline.register.sql import SqlRegistry
    from pipeline.serve.answers import iso

    registry = SqlRegistry(settings.database)
    try:
        for stream in registry.streams():
            if (pause := stream.pause) is not None:
                said = f"paused since {iso(pause.since)} by {pause.actor}: {pause.reason}"
                yield f"stream {stream.name}", True, f"{said}; `tidemark resume` ends it"
            if waiting := registry.waiting(stream.id):
                numbers = ", ".join(str(row.version) for row, _ in waiting)
                said = f"versions that wait for `tidemark approve` or `refuse`: {numbers}"
                yield f"stream {stream.name}", True, said
            if held := registry.held(stream.id):
                said = f"{len(held)} requests wait by a rule: {held[0][2]}"
                yield f"stream {stream.name}", True, f"{said}; `tidemark retrain` takes them along"
    finally:
        registry.close()


def _broker(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    from pipeline.ingest.kafka_client import check

    stream = settings.stream
    yield from check(settings.kafka, stream.topic, stream.result_topics)
