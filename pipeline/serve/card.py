"""Everything one must know of a version: why, on what and how it was made, how it did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from pipeline.serve.answers import iso, sentence
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


def reason(request: Any, channels: Sequence[str]) -> Reason:
    """Of a request with the boundary that it came from, as `queries.reasons` has it."""
    return Reason(
        request=request.request,
        trigger=request.reason,
        actor=request.actor,
        note=request.note,
        requested_at=str(iso(request.created)),
        boundary=sentence(request, channels) if request.boundary_row is not None else None,
    )


def learned(part: Mapping[str, Any]) -> Learned:
    """Of a part of what `data` answers."""
    return Learned(**{name: part[name] for name in Learned.__struct_fields__})


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
