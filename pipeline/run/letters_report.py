"""Dead letters as data, and as tables that are safe to look at."""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.run.letters import STATES, Letter
from pipeline.serve.answers import iso
from pipeline.telemetry import printable

#: Characters of a key or value in a table.
SHORT = 60


def survey(letters: Iterable[Letter], newest: int) -> dict[str, Any]:
    """How many of each kind, by what became of them, and the newest ones."""
    counts: dict[str, Counter[str]] = {}
    last: deque[Letter] = deque(maxlen=newest)
    for letter in letters:
        counts.setdefault(letter.kind, Counter())[letter.state] += 1
        last.append(letter)
    return {
        "count": sum(each.total() for each in counts.values()),
        "kinds": {
            kind: {state: counts[kind][state] for state in STATES} for kind in sorted(counts)
        },
        "newest": [facts(letter) for letter in last],
    }


def facts(letter: Letter, longest: int = SHORT) -> dict[str, Any]:
    """One letter; of key and value the beginning."""
    return {
        "partition": letter.place.partition,
        "offset": letter.place.offset,
        "kind": letter.kind,
        "reason": letter.reason,
        "state": letter.state,
        "at": iso(letter.time),
        "replayed_offset": letter.replayed_offset,
        "key": shown(letter.key, longest),
        "value": shown(letter.value, longest),
        "bytes": letter.cut_from or len(letter.value or b""),
    }


def whole(letter: Letter, longest: int) -> dict[str, Any]:
    """One letter with all that there is of its key and value, which no JSON string could hold."""
    return facts(letter, longest) | {
        "key_base64": _base64(letter.key),
        "value_base64": _base64(letter.value),
        "cut_from_bytes": letter.cut_from,
    }


def shown(content: bytes | None, longest: int) -> str | None:
    """Bytes as one line of text: what is no UTF-8 or would steer a terminal is escaped, and cut."""
    if content is None:
        return None
    text = printable(content[: 4 * longest].decode(errors="backslashreplace"))
    is_all = len(text) <= longest and len(content) <= 4 * longest
    return text if is_all else f"{text[:longest]}..."


def print_survey(found: Mapping[str, Any]) -> None:
    """Two tables: the kinds, and the newest letters."""
    kinds = [[kind, *(str(n) for n in by.values())] for kind, by in found["kinds"].items()]
    _print("Dead letters by kind", ("kind", *STATES), kinds)
    columns = ("at", "partition", "offset", "kind", "state", "reason", "value")
    rows = [[str(letter[column]) for column in columns] for letter in found["newest"]]
    _print(f"The newest {len(rows)} of {found['count']:,}", columns, rows)


def print_letter(letter: Letter, longest: int) -> None:
    """Everything about one letter, a line each."""
    _print("Dead letter", ("what", "is"), [[k, str(v)] for k, v in facts(letter, longest).items()])


def _print(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
