"""How the telling goes, for people: one answer a rule and stream; and a message to try one out."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pipeline.config import Settings
from pipeline.errors import PipelineError
from pipeline.register.engine import connect, now_us, reading
from pipeline.register.migrate import check_schema
from pipeline.register.notifications import NotificationBook, Owed
from pipeline.run.notifier import Rule, asked, published
from pipeline.run.receivers import receiver
from pipeline.serve.answers import iso
from pipeline.serve.events import Event, happened

#: More events than these are not counted.
COUNTED = 10_000


def standing(settings: Settings) -> list[dict[str, Any]]:
    """Of each rule and stream: what it was told last, how many events it is behind, and why."""
    check_schema(settings.database)
    rules = {rule.name: asked(rule) for rule in settings.notify}
    if settings.stream.publish_events:
        rule = published(settings.stream.topic)
        rules[rule.name] = rule
    engine = connect(settings.database)
    try:
        return list(_standing(NotificationBook(engine), rules))
    finally:
        engine.dispose()


def _standing(book: NotificationBook, rules: dict[str, Rule]) -> Iterator[dict[str, Any]]:
    known, looked = book.all(), book.looked()
    for name in sorted({*rules, *looked}):
        of_rule = [owed for owed in known if owed.rule == name]
        nothing: list[Owed | None] = [None]
        for owed in of_rule or nothing:
            yield _answer(book, name, rules.get(name), owed)


def _answer(
    book: NotificationBook, name: str, rule: Rule | None, owed: Owed | None
) -> dict[str, Any]:
    behind = _behind(book, rule, owed) if rule is not None and owed is not None else 0
    return {
        "rule": name,
        "in_settings": rule is not None,
        "stream": (owed.stream or None) if owed else None,
        "behind": behind,
        "told": owed.told if owed else None,
        "told_at": iso(owed.told_at) if owed else None,
        "attempts": owed.attempts if owed else 0,
        "next_attempt": iso(owed.not_before) if owed and owed.first is not None else None,
        "error": owed.error if owed else None,
    }


def _behind(book: NotificationBook, rule: Rule, owed: Owed) -> int:
    """Events that are still to be told, COUNTED at most."""
    if owed.first is None:
        return 0
    head = book.head()
    with reading(book.engine) as conn:
        left = happened(
            conn,
            rule.kinds,
            after=owed.first - 1,
            until=head,
            stream=owed.stream,
            wanted=rule.streams,
            severity=rule.severity,
        )
        return sum(1 for _ in islice(left, COUNTED))


def try_out(settings: Settings, name: str) -> str:
    """Send a message that says that it is a test; its id.

    Raises
    ------
    PipelineError
        There is no such rule, its secret is not there, or its receiver did not take it.
    """
    rule = next((each for each in settings.notify if each.name == name), None)
    if rule is None:
        known = ", ".join(each.name for each in settings.notify) or "none yet"
        raise PipelineError(f"no [[notify]] {name}; known: {known}")
    event = Event(
        id=f"test-{secrets.token_hex(8)}",
        entry=0,
        kind="test",
        severity="info",
        stream=None,
        time=now_us(),
        text=f"This is a test of {name}.",
        facts={},
    )
    to = receiver(rule)
    try:
        to.send([event])
    finally:
        to.close()
    return event.id
