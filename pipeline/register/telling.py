"""How each table follows from the ledger: what an entry of each kind says of which row.

Streams and their pauses, boundaries with their ends, sensor events, gaps, regimes, what segments
were named, requests and how they ended, versions with status, inputs, settings, figures and R's
row, promotions and roll-backs, envelopes and how versions were held against them, what people did,
tokens, and decisions on dead letters. What happens by the clock: telling_clock.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.register.ledger import canonical

Key = tuple[Any, ...]
Values = dict[str, Any]
Row = Mapping[str, Any]
#: A table's name -> its rows in order of their keys.
Rows = Callable[[str], Iterable[Row]]
#: What an entry says: the row's key, and values of some of its columns; None: it is gone.
Said = Iterator[tuple[Key, Values | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one table follows from the ledger."""

    table: str
    key: tuple[str, ...]
    kinds: tuple[str, ...]
    #: (entry, what it says as JSON) -> the rows that it tells of.
    said: Callable[[Row, Values], Said]
    #: A row as the ledger would tell it; None: it says nothing of a row in that state.
    shown: Callable[[Row], Values | None] = dict
    #: Rows may be there that the ledger tells nothing of, or gone.
    loose: bool = False
    #: Whether a row may be there that the ledger tells nothing of yet.
    untold: Callable[[Row], bool] = lambda _: False


def _stream(entry: Row, facts: Values) -> Said:
    match entry["kind"]:
        case "stream":
            told = {"topic_id": None, **dict.fromkeys(PAUSE)} | facts
        case "paused":
            told = dict(zip(PAUSE, (entry["at"], entry["actor"], facts["reason"]), strict=True))
        case "resumed":
            told = dict.fromkeys(PAUSE)
        case _:
            told = facts
    yield (entry["stream_id"],), told


def _boundary(entry: Row, facts: Values) -> Said:
    ends = {"end_row": None, "end_offset": None, "end_time": None}
    if entry["kind"] == "transition_over":
        yield _place(facts), {name: facts[name] for name in ends}
    else:
        yield _place(facts), facts | ends | {"recorded": entry["at"]}


def _place(facts: Values) -> Key:
    return facts["stream_id"], facts["partition"], facts["series"], facts["segment"]


def _event(entry: Row, facts: Values) -> Said:
    key = tuple(facts[name] for name in ("stream_id", "partition", "series", "channel", "row"))
    yield key, facts | {"recorded": entry["at"]}


def _gap(entry: Row, facts: Values) -> Said:
    key = facts["stream_id"], facts["partition"], facts["first_offset"]
    yield key, facts | {"recorded": entry["at"]}


def _task(entry: Row, facts: Values) -> Said:
    if entry["kind"] == "task_marked":
        yield (entry["stream_id"], facts["task"]), facts["after"]
    else:
        yield (entry["stream_id"], facts["number"]), facts | {"name": None}


def _segment(entry: Row, facts: Values) -> Said:
    said = {k: v for k, v in facts.items() if k not in ("kind", "changed")}
    yield _place(facts), said | {"named": entry["at"]}


def _request(entry: Row, facts: Values) -> Said:
    at = entry["at"]
    match entry["kind"]:
        case "request":
            made = {k: v for k, v in facts.items() if k not in ("request", "request_id")}
            made |= {"inputs": canonical(facts["inputs"]), "created": at}
            yield (facts["request"],), made | {"over": None, "finished": None}
        case "request_failed":
            if not facts.get("retry", False):
                yield (facts["request"],), {"over": "failed", "finished": at}
        case kind:
            number = facts["request_id" if kind == "version" else "request"]
            for each in (number, *facts.get("folded", ())):
                yield (each,), {"over": "done", "finished": at}


def _request_shown(row: Row) -> Values:
    over = row["status"] if row["status"] in ("done", "failed") else None
    return dict(row) | {"over": over}


def _version(entry: Row, facts: Values) -> Said:
    match entry["kind"]:
        case "version":
            others = ("version", "folded", "metrics", "skills", "evaluations")
            yield (facts["version"],), {k: v for k, v in facts.items() if k not in others}
        case "waiting":
            yield (facts["version"],), {"status": "waiting"}
        case "refused":
            yield (facts["version"],), {"status": "refused", "rejected": entry["at"]}
        case "promotion":
            yield (facts["version"],), {"status": "champion"}
            if facts["instead_of"] is not None:
                yield (facts["instead_of"],), {"status": "retired"}
        case _:
            yield (facts["version"],), {"status": "rolled_back"}
            yield (facts["to"],), {"status": "champion"}


def _metric(_: Row, facts: Values) -> Said:
    for name, value in facts["metrics"].items():
        if not isinstance(value, str):  # not finite: it has no row
            yield (facts["version"], name), {"value": value}


def _evaluation(_: Row, facts: Values) -> Said:
    for row in facts["evaluations"]:
        yield (facts["version"], row["task_id"]), row


def _promotions() -> Callable[[Row, Values], Said]:
    turns: Counter[int] = Counter()

    def said(entry: Row, facts: Values) -> Said:
        stream, at = entry["stream_id"], entry["at"]
        if turns[stream]:
            yield (stream, turns[stream]), {"live_until": at}
        turns[stream] += 1
        yield (
            (stream, turns[stream]),
            {
                "version_id": facts["to"] if entry["kind"] == "rollback" else facts["version"],
                "live_from": at,
                "live_until": None,
                "actor": entry["actor"],
                "reason": facts["reason"],
            },
        )

    return said


def _letter(entry: Row, facts: Values) -> Said:
    status = entry["kind"].removeprefix("dead_letters_")
    for partition, offset, *replayed in facts["letters"]:
        told = {"replayed_offset": replayed[0]} if replayed else {}
        yield (entry["stream_id"], partition, offset), {"status": status} | told


def _letter_shown(row: Row) -> Values | None:
    return None if row["status"] == "replaying" else dict(row)


def _envelope(entry: Row, facts: Values) -> Said:
    told = {"limits": canonical(facts["limits"]), "reason": facts["reason"]}
    told |= {"actor": entry["actor"], "created": entry["at"]}
    yield (entry["stream_id"], facts["envelope"]), told


def _judgement(entry: Row, facts: Values) -> Said:
    if "envelope" not in facts:
        return
    told = {"envelope": facts["envelope"], "said": facts["outside"]}
    if entry["kind"] == "waiting":
        told |= {"instead_of": facts["instead_of"], "judged": entry["at"]}
    yield (facts["version"],), told


def _judgement_shown(rows: Rows) -> Callable[[Row], Values]:
    numbers = {row["id"]: row["number"] for row in rows("envelopes")}

    def shown(row: Row) -> Values:
        said = [each["said"] for each in json.loads(row["outside"])]
        return dict(row) | {"envelope": numbers.get(row["envelope_id"]), "said": said}

    return shown


def _act(entry: Row, facts: Values) -> Said:
    if "request_id" in facts:
        reason = facts["note" if entry["kind"] == "request" else "reason"]
        told = {"stream_id": entry["stream_id"], "actor": entry["actor"], "reason": reason}
        yield (facts["request_id"],), told


def _act_shown(row: Row) -> Values | None:
    """What changed nothing has no entry."""
    asked = json.loads(row["asked"])
    if not json.loads(row["answer"])["changed"]:
        return None
    return dict(row) | {"actor": asked["actor"], "reason": asked["reason"]}


def _token(entry: Row, facts: Values) -> Said:
    if entry["kind"] == "token_revoked":
        yield (facts["token"],), {"revoked": entry["at"]}
    else:
        told = {"name": facts["name"], "role": facts["role"], "revoked": None}
        yield (facts["token"],), told | {"actor": entry["actor"], "created": entry["at"]}


def hashes_of(entry: Row) -> list[str]:
    """sha256 of what an entry says was pruned; none if it makes no sense."""
    try:
        return [str(each) for each in json.loads(entry["entry"])["hashes"]]
    except (ValueError, KeyError, TypeError):
        return []


#: Columns of a stream that is paused.
PAUSE = ("paused", "paused_by", "paused_because")
#: Kinds that acts come to.
ACTS = (
    *("promotion", "rollback", "refused", "request", "paused", "resumed", "task_marked"),
    *("schedule_paused", "schedule_resumed", "schedule_ordered", "token_added", "token_revoked"),
)
#: What tells a segment.
SEGMENT = ("stream_id", "partition", "series", "segment")
CHANNEL = ("stream_id", "partition", "series", "channel", "row")
LETTER = ("stream_id", "partition", "offset")


def rules(rows: Rows) -> Iterator[Rule]:
    """All of them; a rule may count while it is used."""
    kept = ("stream", "channels", "topic", "paused", "resumed")
    yield Rule(table="streams", key=("id",), kinds=kept, said=_stream)
    yield Rule(
        table="boundaries", key=SEGMENT, kinds=("boundary", "transition_over"), said=_boundary
    )
    yield Rule(table="sensor_events", key=CHANNEL, kinds=("sensor_event",), said=_event)
    gap = ("stream_id", "partition", "first_offset")
    yield Rule(table="gaps", key=gap, kinds=("records_lost",), said=_gap)
    task = ("stream_id", "number")
    yield Rule(table="tasks", key=task, kinds=("task", "task_marked"), said=_task)
    yield Rule(table="segments", key=SEGMENT, kinds=("task_named",), said=_segment)
    ended = ("request", "request_failed", "request_done", "version", "measured")
    yield Rule(table="requests", key=("id",), kinds=ended, said=_request, shown=_request_shown)
    fates = ("version", "waiting", "refused", "promotion", "rollback")
    yield Rule(table="versions", key=("id",), kinds=fates, said=_version)
    yield Rule(table="metrics", key=("version_id", "name"), kinds=("version",), said=_metric)
    measured = ("version_id", "task_id")
    yield Rule(table="evaluations", key=measured, kinds=("version",), said=_evaluation)
    turn = ("stream_id", "turn")
    yield Rule(table="promotions", key=turn, kinds=fates[3:], said=_promotions())
    yield Rule(
        table="dead_letters",
        key=LETTER,
        kinds=("dead_letters_replayed", "dead_letters_dropped"),
        said=_letter,
        shown=_letter_shown,
        loose=True,
    )
    limits = ("stream_id", "number")
    yield Rule(table="envelopes", key=limits, kinds=("envelope",), said=_envelope)
    yield Rule(
        table="judgements",
        key=("version_id",),
        kinds=("waiting", "promotion"),
        said=_judgement,
        shown=_judgement_shown(rows),
    )
    acts = (*ACTS, "envelope", "pruned")
    yield Rule(table="acts", key=("request_id",), kinds=acts, said=_act, shown=_act_shown)
    tokens = ("token_added", "token_revoked")
    yield Rule(table="tokens", key=("id",), kinds=tokens, said=_token)
