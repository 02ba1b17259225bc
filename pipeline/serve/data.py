"""What a version was made from: each artifact by its hash, and where in the log it is from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from msgspec.json import decode
from sqlalchemy import Connection, Row, Select, bindparam, select

from pipeline.consolidate.readings import Readings
from pipeline.errors import ArtifactCorrupt
from pipeline.register import artifacts
from pipeline.register import tables as t
from pipeline.register.among import among
from pipeline.serve import queries
from pipeline.serve.answers import Answer, iso

#: Lists of hashes among a version's inputs.
LISTS = ("ended", "earlier")
#: Where an artifact is from that no request brought: as `_from` has it.
UNKNOWN = (None, "segment", *(None,) * 8)


def made_from(conn: Connection, stream: str, versions: Sequence[Row[Any]]) -> list[Answer]:
    """The answer to `data` for each; versions: as `queries.numbered` has them, told as MADE."""
    inputs = [decode(version.inputs) for version in versions]
    used = [list(_used(each)) for each in inputs]
    tasks = {task for one in used for _, task, _ in one if task is not None}
    tasks |= {int(task) for each in inputs for task in each.get("replayed", ())}
    numbers = queries.task_numbers(conn, tasks)
    shas = {sha for one in used for _, _, sha in one}
    shas |= {sha for each in inputs for sha in each.get("reservoirs", ())}
    origins = _origins(conn, versions[0].stream_id, shas)
    found = []
    for version, each, one in zip(versions, inputs, used, strict=True):
        parts: dict[str, list[Answer]] = {use: [] for use in ("learned", "held_out", *LISTS)}
        for use, task, sha in one:
            number = None if task is None else numbers.get(task)
            parts[use].append(_part(conn, sha, number, origins.get(sha)))
        kept = list(_reservoirs(each, origins))
        found.append(_told(stream, version, each, parts | {"reservoirs": kept}, numbers))
    return found


def _told(
    stream: str,
    version: Row[Any],
    inputs: Mapping[str, Any],
    parts: dict[str, list[Answer]],
    numbers: Mapping[int, int],
) -> Answer:
    replayed = inputs.get("replayed", {})
    return {
        "stream": stream,
        "topic": stream,
        "version": version.number,
        "parent": version.parent,
        "partitions": _ranges(parts["learned"]),
        "readings": _readings(parts["learned"]),
        **parts,
        "replayed": {f"task {numbers[int(task)]}": count for task, count in replayed.items()},
        "weights_sha256": version.sha256,
        "ewc_sha256": version.ewc_sha256,
        "settings_sha256": inputs.get("settings"),
        "seed": version.seed,
    }


def learned(
    conn: Connection, stream_id: int, segments: Iterable[tuple[int, str]]
) -> Iterator[Answer]:
    """What (task id, sha256 of readings) stand for."""
    pairs = list(segments)
    numbers = queries.task_numbers(conn, {task for task, _ in pairs})
    origins = _origins(conn, stream_id, [sha for _, sha in pairs])
    for task, sha in pairs:
        yield _part(conn, sha, numbers.get(task), origins.get(sha))


def _reservoirs(inputs: Mapping[str, Any], origins: Mapping[str, Row[Any]]) -> Iterator[Answer]:
    """Each with its partition, and what of it was left out."""
    shas, left_out = inputs.get("reservoirs", ()), inputs.get("left_out", ())
    for sha, gone in zip_longest(shas, left_out):
        partition = origins[sha].partition if sha in origins else None
        yield {"partition": partition, "sha256": sha, "left_out": gone or []}


def _used(inputs: Mapping[str, Any]) -> Iterator[tuple[str, int | None, str]]:
    """(use, task id, sha256) of every artifact of a segment's readings among a version's inputs."""
    for task, sha in inputs.get("segments", ()):
        yield "learned", int(task), sha
    for task, shas in inputs.get("held_out", {}).items():
        for sha in shas:
            yield "held_out", int(task), sha
    for use in LISTS:
        for sha in inputs.get(use, ()):
            yield use, None, sha


def _origins(conn: Connection, stream_id: int, shas: Iterable[str]) -> dict[str, Row[Any]]:
    """sha256 -> the first request that brought it, and the boundary that its segment began with.

    The first, so that a later request with the same bytes changes no answer.
    """
    rows = conn.execute(_ORIGINS, {"stream": stream_id, "shas": [*shas]}).all()
    return {row.sha256: row for row in reversed(rows)}


def _part(conn: Connection, sha: str, task: int | None, origin: Row[Any] | None) -> Answer:
    known: Any = origin or UNKNOWN
    _, role, readings, first, last, until, partition, series, segment, since = known
    extent: Answer = {}
    if readings is not None:
        extent = {"readings": readings, "first_offset": first, "last_offset": last}
    elif role == "segment":
        extent = _looked_up(conn, sha)
    return {
        "task": task,
        "partition": partition,
        "series": series,
        "segment": segment,
        **extent,
        "since": iso(since),
        "until": iso(until),
        "sha256": sha,
    }


def _looked_up(conn: Connection, sha: str) -> Answer:
    """Where nobody noted it: from the readings themselves; None if they are damaged or gone."""
    try:
        offsets = Readings.from_bytes(artifacts.get(conn, sha)).offsets
    except ArtifactCorrupt:
        return dict.fromkeys(("readings", "first_offset", "last_offset"))
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (None, None)
    return {"readings": len(offsets), "first_offset": first, "last_offset": last}


def _ranges(parts: Sequence[Answer]) -> list[Answer]:
    """The range of offsets that was learned from each partition, both ends included."""
    found: dict[int, list[Answer]] = {}
    for part in parts:
        if part["partition"] is not None and part["first_offset"] is not None:
            found.setdefault(part["partition"], []).append(part)
    return [
        {
            "partition": partition,
            "first_offset": min(part["first_offset"] for part in mine),
            "last_offset": max(part["last_offset"] for part in mine),
        }
        for partition, mine in sorted(found.items())
    ]


def _readings(parts: Sequence[Answer]) -> dict[str, int]:
    """Readings that were learned of each task."""
    counted = Counter[int]()
    for part in parts:
        counted[part["task"]] += part["readings"] or 0
    return {f"task {task}": count for task, count in sorted(counted.items())}


def _from() -> Select[Any]:
    """What brought some artifacts, the first request first."""
    i, r, b = t.request_inputs.c, t.requests.c, t.boundaries.c
    same = (b.stream_id == r.stream_id) & (b.partition == r.partition)
    extent = (i.sha256, i.role, i.readings, i.first_offset, i.last_offset, i.until)
    return (
        select(*extent, r.partition, r.series, r.segment, b.boundary_time)
        .join(t.requests, r.id == i.request_id)
        .outerjoin(t.boundaries, same & (b.series == r.series) & (b.segment == r.segment))
        .where(r.stream_id == bindparam("stream"))
        .where(among(i.sha256, "shas"))
        .order_by(i.request_id)
    )


def _made() -> Select[Any]:
    v = t.versions.c
    columns = (v.stream_id, v.number, v.inputs, v.sha256, v.ewc_sha256, v.seed)
    return queries.NUMBERED.with_only_columns(
        *columns, queries.parents.c.number.label("parent"), maintain_column_froms=True
    )


_ORIGINS = _from()
#: What is to be known of a version for the answer.
MADE = _made()
