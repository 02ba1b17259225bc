"""Everything one must know of a version: why, on what and how it was made, how it did."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from pipeline.detect.explain import explain
from pipeline.records import Boundary, Change
from pipeline.serve.answers import iso
from pipeline.telemetry import printable


class Part(Struct, frozen=True, kw_only=True):
    """A part of the card."""


class Reason(Part, frozen=True, kw_only=True):
    """A request that the version answers: the first, and those it took along."""

    request: int
    trigger: Annotated[str, Meta(description="bootstrap, boundary, refine, schedule or manual")]
    actor: str
    note: str
    requested_at: str
    boundary: Annotated[str | None, Meta(description="What happened, in a sentence")]


class Learned(Part, frozen=True, kw_only=True):
    """Readings that it was trained on."""

    task: int
    partition: int | None
    series: str | None
    segment: int | None
    readings: Annotated[int | None, Meta(description="None: the artifact is damaged")]
    first_offset: int | None
    last_offset: int | None
    sha256: str


class Measured(Part, frozen=True, kw_only=True):
    """Its row of R for one task, beside its parent's."""

    task: int
    skill: Annotated[float, Meta(description="1 - MSE / variance on the held-out windows")]
    parent_skill: float | None
    low: Annotated[float | None, Meta(description="Interval of the change; None: too few windows")]
    high: float | None
    windows: int
    score: Annotated[float | None, Meta(description="Mean score of the held-out readings")]
    spread: Annotated[float | None, Meta(description="Their standard deviation")]


class Live(Part, frozen=True, kw_only=True):
    """A time in which it was champion."""

    since: str
    until: Annotated[str | None, Meta(description="None: it still is")]
    by: str
    because: str


class Left(Part, frozen=True, kw_only=True):
    """A roll-back from it."""

    at: str
    by: str
    because: str
    to: int


class Card(Part, frozen=True, kw_only=True):
    """A version."""

    stream: str
    version: int
    status: str
    parent: int | None
    made_at: str
    sha256: Annotated[str, Meta(description="Of the weights")]
    ewc_sha256: str | None
    reasons: tuple[Reason, ...]
    learned: tuple[Learned, ...]
    inputs: Annotated[dict[str, Any], Meta(description="Hashes of all that it was made from")]
    strategy: str
    settings: dict[str, Any]
    seed: int
    code_version: str
    skills: tuple[Measured, ...]
    metrics: dict[str, float]
    decision: str
    figures: Annotated[dict[str, Any], Meta(description="What the gate looked at, by task id")]
    live: tuple[Live, ...]
    rolled_back: tuple[Left, ...]


def reason(request: Any, boundary: Any, channels: Sequence[str]) -> Reason:
    """Of a request's row, and that of the boundary that it came from."""
    return Reason(
        request=request.id,
        trigger=request.reason,
        actor=request.actor,
        note=request.note,
        requested_at=str(iso(request.created)),
        boundary=_sentence(boundary, channels) if boundary else None,
    )


def measured(row: Any, figures: Mapping[str, Any]) -> Measured:
    """Of a row of R, and the figures of the gate."""
    change = figures.get("changes", {}).get(str(row.task_id), {})
    return Measured(
        task=row.number,
        skill=row.skill,
        parent_skill=row.parent_skill,
        low=change.get("low"),
        high=change.get("high"),
        windows=row.windows,
        score=row.score_mean,
        spread=row.score_spread,
    )


def live(row: Any) -> Live:
    """Of a promotion."""
    return Live(
        since=str(iso(row.live_from)), until=iso(row.live_until), by=row.actor, because=row.reason
    )


def _sentence(row: Any, channels: Sequence[str]) -> str:
    names = [name for name in Boundary.__dataclass_fields__ if name not in ("sensors", "detectors")]
    boundary = Boundary(
        **{name: getattr(row, name) for name in names},
        detectors=tuple(json.loads(row.detectors)),
        sensors=tuple(Change(**change) for change in json.loads(row.sensors)),
    )
    found = f"{explain(boundary, channels)} {row.signal} {row.statistic:.2f} > {row.threshold:.2f}"
    if row.task is None:
        return found
    return f"{found}; task {row.task}{' again' if row.recurrence else ', new'}"


# To read --------------------------------------------------------------------------------------


def page(card: Card) -> str:
    """The card on one page of plain text; what strangers wrote in it steers no terminal."""
    return "\n".join(printable(line) for line in _lines(card)) + "\n"


def _lines(card: Card) -> Iterable[str]:
    parent = f"from version {card.parent}" if card.parent else "the first of its line"
    yield f"Version {card.version} of {card.stream}: {card.status}, {parent}, made {card.made_at}"
    yield f"  weights {card.sha256}"
    yield ""
    yield "Why"
    for each in card.reasons:
        note = f": {each.note}" if each.note else ""
        yield f"  {each.trigger}, by {each.actor} at {each.requested_at}{note}"
        if each.boundary:
            yield f"    {each.boundary}"
    yield ""
    yield "On what"
    for part in card.learned:
        where = f"series {part.series}, segment {part.segment}" if part.series else "gone over"
        count = "damaged" if part.readings is None else f"{part.readings:,} readings"
        offsets = f", offsets {part.first_offset} to {part.last_offset}" if part.readings else ""
        yield f"  task {part.task}: {where}: {count}{offsets}, {part.sha256[:12]}"
    yield ""
    yield "How"
    yield f"  {card.strategy}, seed {card.seed}, tidemark {card.code_version}"
    for section, values in card.settings.items():
        yield f"  {section}: " + ", ".join(f"{name} {value}" for name, value in values.items())
    yield ""
    yield "How good: skill (1 - MSE / variance) on held-out windows; scores of the same readings"
    yield from _table(card.skills)
    width = max(map(len, card.metrics), default=0)
    for name, value in card.metrics.items():
        yield f"  {name:<{width}}  {value:,.4g}"
    yield ""
    yield "Decision"
    yield f"  {card.decision}"
    for span in card.live:
        yield f"  live from {span.since} to {span.until or 'now'}, by {span.by}: {span.because}"
    if not card.live:
        yield "  never live"
    for left in card.rolled_back:
        yield f"  left at {left.at} for version {left.to}, by {left.by}: {left.because}"


def _table(skills: Sequence[Measured]) -> Iterable[str]:
    names = ("task", "skill", "parent", "change", "interval", "windows", "score")
    rows = [names, *(_cells(row) for row in skills)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}"


def _cells(row: Measured) -> tuple[str, ...]:
    parent = row.parent_skill
    known = row.low is not None and row.high is not None
    return (
        str(row.task),
        f"{row.skill:.3f}",
        "" if parent is None else f"{parent:.3f}",
        "" if parent is None else f"{row.skill - parent:+.3f}",
        f"{row.low:+.3f} to {row.high:+.3f}" if known else "",
        str(row.windows),
        "" if row.score is None or row.spread is None else f"{row.score:.2f} +/- {row.spread:.2f}",
    )
