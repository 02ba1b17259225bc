"""A claim in; what its consolidation works on, as the order of requests in SQL gives it, out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from pipeline.config import Learn
from pipeline.consolidate.consolidation import Inputs
from pipeline.consolidate.readings import Readings
from pipeline.consolidate.strategies import STRATEGIES
from pipeline.detect.tasks import in_units
from pipeline.errors import ArtifactCorrupt
from pipeline.records import Claim, Request, Version
from pipeline.register.sql import SqlRegistry

log = structlog.get_logger()

#: Segments behind each task's held-out readings, the newest.
HELD_OUT_SEGMENTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A claim with all it needs, resolved to artifacts: what the version will record."""

    parent: Version | None
    #: (task id, sha256 of the readings) to learn now.
    segments: tuple[tuple[int, str], ...]
    #: sha256 of the readings that the parent learned.
    ended: tuple[str, ...]
    #: sha256 of the newest reservoir of each partition.
    reservoirs: tuple[str, ...]
    #: sha256 of all earlier segments, if the strategy replays from them.
    earlier: tuple[str, ...]
    #: task id -> sha256 of the readings whose held-out part measures it.
    held_out: dict[int, tuple[str, ...]]
    seed: int


def resolve(registry: SqlRegistry, claim: Claim, learn: Learn) -> Work:
    """Name the tasks of the claim's segments, and find the artifacts to work on."""
    stream = claim.request.stream_id
    segments = _segments(registry, claim)
    newest = max([claim.id, *(number for number, _ in claim.folded)])
    held_out = _held_out(registry, stream, newest)
    if not segments:  # by hand or by the clock: go over what every task showed last
        segments = tuple((task, shas[0]) for task, shas in held_out.items())
    parent, keeps = registry.champion(stream), STRATEGIES[learn.strategy].keeps
    reservoirs = registry.latest_reservoirs(stream, newest) if keeps == "reservoir" else {}
    earlier = registry.earlier(stream, newest) if keeps in ("latest", "everything") else []
    now = {sha for _, sha in segments}
    return Work(
        parent=parent,
        segments=segments,
        ended=_whole(registry, registry.learned(parent.id)) if parent else (),
        reservoirs=tuple(sha for _, sha in sorted(reservoirs.items())),
        earlier=_whole(registry, dict.fromkeys(sha for _, sha in earlier if sha not in now)),
        held_out=held_out,
        seed=_seed(learn.seed, claim.id),
    )


def inputs(registry: SqlRegistry, work: Work) -> Inputs:
    """The bytes behind the hashes; ArtifactCorrupt if they are not what those say."""
    get, parent = registry.get, work.parent
    return Inputs(
        parent=get(parent.sha256) if parent else None,
        ewc=get(parent.ewc_sha256) if parent and parent.ewc_sha256 else None,
        segments=tuple((task, get(sha)) for task, sha in work.segments),
        ended=tuple(map(get, work.ended)),
        reservoirs=tuple(map(get, work.reservoirs)),
        earlier=tuple(map(get, work.earlier)),
        held_out={task: tuple(map(get, shas)) for task, shas in work.held_out.items()},
        seed=work.seed,
    )


def contents(
    registry: SqlRegistry, segments: Sequence[tuple[int, str]]
) -> dict[int, tuple[bytes, ...]]:
    """Task id -> the readings of its segments."""
    found: dict[int, tuple[bytes, ...]] = {}
    for task, sha in segments:
        found[task] = (*found.get(task, ()), registry.get(sha))
    return found


def _segments(registry: SqlRegistry, claim: Claim) -> tuple[tuple[int, str], ...]:
    """(task id, sha256) of the claim's segments, each once, with its newest readings."""
    newest: dict[tuple[object, ...], tuple[int, str]] = {}
    for number, request in sorted([(claim.id, claim.request), *claim.folded], key=_number):
        if "segment" in request.inputs:
            place = (request.partition, request.series, request.segment)
            newest.pop(place, None)
            newest[place] = (_task(registry, claim, number, request), request.inputs["segment"])
    return tuple(dict.fromkeys(newest.values()))  # two segments may be the same bytes


def _task(registry: SqlRegistry, claim: Claim, number: int, request: Request) -> int:
    """The id of the task of a request's segment; its readings say which, if it is not named yet."""
    if (known := registry.task_of(number)) is not None:
        return known
    readings = Readings.from_bytes(registry.get(request.inputs["segment"]))
    return registry.assign(claim, number, in_units(readings.values))


def _held_out(registry: SqlRegistry, stream_id: int, upto: int) -> dict[int, tuple[str, ...]]:
    """Task id -> sha256 of its newest segments that are whole; a damaged one is left out."""
    found = {}
    for task, shas in sorted(registry.held_out(stream_id, upto, HELD_OUT_SEGMENTS).items()):
        if whole := _whole(registry, shas):
            found[task] = whole
    return found


def _whole(registry: SqlRegistry, shas: Iterable[str]) -> tuple[str, ...]:
    """Those whose readings are what they were."""
    return tuple(sha for sha in shas if _is_whole(registry, sha))


def _is_whole(registry: SqlRegistry, sha: str) -> bool:
    try:
        Readings.from_bytes(registry.get(sha))
    except ArtifactCorrupt as exc:
        log.warning("readings_skipped", sha256=sha, reason=str(exc))
        return False
    return True


def _number(numbered: tuple[int, Request]) -> int:
    return numbered[0]


def _seed(seed: int, request_id: int) -> int:
    digest = hashlib.sha256(f"{seed}/{request_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
