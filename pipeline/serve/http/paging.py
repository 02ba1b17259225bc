"""A collection, a page at a time: cursors out and in."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel
from starlette.responses import Response

from pipeline.serve.http.problems import Problem
from pipeline.serve.http.replies import answer

#: Items of a page, unless it says how many, and at most.
USUAL, MOST = 100, 1000


class Page(BaseModel):
    """Some of a collection; `next` is the cursor of the page behind it, null behind the last."""

    items: list[dict[str, Any]]
    next: str | None


def paged(fetch: Callable[..., list[dict[str, Any]]], turn: Turn) -> Response:
    """The page that `fetch(after=, limit=, newest_first=)` has."""
    items = fetch(after=turn.after, limit=turn.limit + 1, newest_first=turn.newest_first)
    shown = items[: turn.limit]
    more = len(items) > len(shown)
    return answer({"items": shown, "next": _cursor(shown[-1]["id"]) if more else None})


class Turn:
    """Which page of a collection is wanted."""

    def __init__(
        self,
        cursor: Annotated[
            str | None, Query(max_length=64, description="`next` of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST, description="Items, at most.")] = USUAL,
        newest_first: Annotated[bool, Query(description="From the newest one back.")] = False,
    ) -> None:
        self.after = _after(cursor)
        self.limit = limit
        self.newest_first = newest_first


def _cursor(number: int) -> str:
    return base64.urlsafe_b64encode(f"after:{number}".encode()).decode().rstrip("=")


def _after(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    found = re.fullmatch(r"after:(\d{1,18})", text)
    if found is None:
        raise Problem(422, "cursor: none that a page gave")
    return int(found[1])
