"""A claim in; what its consolidation works on, as the order of requests in SQL gives it, out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from pipeline.config import Learn
from pipeline.consolidate.consolidation import Inputs
from pipeline.consolidate.readings import Readings
from pipeline.consolidate.reservoir import Origin, origins
from pipeline.consolidate.strategies import STRATEGIES
from pipeline.detect.tasks import in_units
from pipeline.errors import ArtifactCorrupt, TrainingFailed
from pipeline.records import Claim, Request, Version
from pipeline.register.sql import SqlRegistry
from pipeline.register.tasks import HELD_OUT_SEGMENTS

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A claim with all it needs, resolved to artifacts: what the version will record."""

    parent: Version | None
    #: (task id, sha256 of the readings) to learn now.
    segments: tuple[tuple[int, str], ...]
    #: sha256 of the readings that the parent learned.
    ended: tuple[str, ...]
    #: sha256 of the newest reservoir of each partition, and the segments not replayed from each.
    reservoirs: tuple[str, ...]
    left_out: tuple[tuple[Origin, ...], ...]
    #: Task id -> windows of it to be replayed; those of segments that have no name are of none.
    replayed: dict[int, int]
    #: sha256 of all earlier segments, if the strategy replays from them.
    earlier: tuple[str, ...]
    #: task id -> sha256 of the readings whose held-out part measures it.
    held_out: dict[int, tuple[str, ...]]
    #: Number of the task that the version may not have learned, if a person asked for that.
    without: int | None
    seed: int
    #: Number of the ledger's last entry when all of this was looked up: what was known then follows
    #: from the entries up to it.
    as_of: int | None = None


def name(registry: SqlRegistry, claim: Claim, *, ask: bool) -> None:
    """Name the tasks of the claim's segments; their readings say which, if nothing did before.
    Labels have no part in it.

    ask: a new task waits until a person says what it is.
    """
    for number, request in _in_order(claim):
        if "segment" in request.inputs and registry.task_of(number) is None:
            readings = Readings.from_bytes(registry.get(request.inputs["segment"]))
            sensors = readings.values[:, : _sensors(registry, request.stream_id)]
            registry.assign(claim, number, in_units(sensors), ask=ask)


def check_labels(registry: SqlRegistry, claim: Claim, work: Work, *, labelled: bool) -> None:
    """Whether readings were kept with labels if, and only if, they are to be learned from.

    Raises
    ------
    TrainingFailed
        `stream.label` was another when they were taken.
    """
    sensors = _sensors(registry, claim.request.stream_id)
    for _, sha in work.segments:
        width = Readings.from_bytes(registry.get(sha)).values.shape[1]
        if width != sensors + labelled:
            kept = "without labels" if labelled else "with labels"
            raise TrainingFailed(
                f"the readings were kept {kept}: set stream.label as the stream has it"
            )


def resolve(registry: SqlRegistry, claim: Claim, learn: Learn) -> Work:
    """Find the artifacts to work on, none of them of a task that is not to be learned.

    A version without a task goes on from the newest that never learned it, or begins anew, and
    learns what is kept of every other. All is looked up as of one moment.
    """
    as_of, work = registry.at_once(lambda then: _resolve(then, claim, learn))
    return replace(work, as_of=as_of)


def _resolve(registry: SqlRegistry, claim: Claim, learn: Learn) -> Work:
    stream, without = claim.request.stream_id, claim.request.without_task
    tasks = registry.tasks(stream)
    refused = {task.id for task in tasks if task.kind != "normal" or task.number == without}
    newest = max([claim.id, *(number for number, _ in claim.folded)])
    held_out = _held_out(registry, stream, newest, refused)
    segments = _segments(registry, claim)
    if not segments:  # by hand or by the clock: go over what every task showed last
        kept = 1 if without is None else HELD_OUT_SEGMENTS
        segments = tuple((task, sha) for task, shas in held_out.items() for sha in shas[:kept])
    parent, keeps = _parent(registry, stream, without), STRATEGIES[learn.strategy].keeps
    reservoirs = registry.latest_reservoirs(stream, newest) if keeps == "reservoir" else {}
    left_out, replayed = _replay(registry, stream, reservoirs, refused)
    earlier = registry.earlier(stream, newest) if keeps in ("latest", "everything") else []
    now = {sha for _, sha in segments}
    old = dict.fromkeys(sha for _, sha in earlier if sha not in now)
    gone = {each.segment for each in registry.segments(stream) if each.task in refused}
    ended = registry.learned(parent.id) if parent else []
    return Work(
        parent=parent,
        segments=segments,
        ended=_whole(registry, (sha for sha in ended if sha not in gone)),
        reservoirs=tuple(sha for _, sha in sorted(reservoirs.items())),
        left_out=left_out,
        replayed=replayed,
        earlier=_whole(registry, (sha for sha in old if sha not in gone)),
        held_out=held_out,
        without=without,
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
        left_out=work.left_out,
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
    for number, request in _in_order(claim):
        task = registry.task_of(number)
        if task is not None:
            place = (request.partition, request.series, request.segment)
            newest.pop(place, None)
            newest[place] = (task, request.inputs["segment"])
    return tuple(dict.fromkeys(newest.values()))  # two segments may be the same bytes


def _parent(registry: SqlRegistry, stream_id: int, without: int | None) -> Version | None:
    if without is None:
        return registry.champion(stream_id)
    return registry.unaware(stream_id, without)


def _replay(
    registry: SqlRegistry, stream_id: int, reservoirs: Mapping[int, str], refused: Collection[int]
) -> tuple[tuple[tuple[Origin, ...], ...], dict[int, int]]:
    """The segments not replayed from each reservoir, and each task's windows that are.

    As soon as a task is refused, windows that nobody can tell from it are left out too: those of
    segments without a name.
    """
    named = registry.places(stream_id)
    left_out, replayed = [], Counter[int]()
    for partition, sha in sorted(reservoirs.items()):
        held = origins(registry.get(sha))
        tasks = {origin: named.get((partition, *origin)) for origin in held}
        gone = {o for o, task in tasks.items() if task in refused or (refused and task is None)}
        left_out.append(tuple(sorted(gone)))
        for origin, task in tasks.items():
            if task is not None and origin not in gone:
                replayed[task] += held[origin]
    return tuple(left_out), dict(sorted(replayed.items()))


def _held_out(
    registry: SqlRegistry, stream_id: int, upto: int, refused: Collection[int]
) -> dict[int, tuple[str, ...]]:
    """Task id -> sha256 of its newest segments that are whole; a damaged one is left out."""
    found = {}
    for task, shas in sorted(registry.held_out(stream_id, upto, HELD_OUT_SEGMENTS).items()):
        if task in refused:
            continue
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


def _sensors(registry: SqlRegistry, stream_id: int) -> int:
    """Sensors in a reading of the stream: its columns but for labels."""
    return next(len(each.channels) for each in registry.streams() if each.id == stream_id)


def _in_order(claim: Claim) -> list[tuple[int, Request]]:
    """The claim's requests by number."""
    numbered = {claim.id: claim.request} | dict(claim.folded)
    return sorted(numbered.items())


def _seed(seed: int, request_id: int) -> int:
    digest = hashlib.sha256(f"{seed}/{request_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
