"""Times as people write them in, microseconds since 1970 UTC out."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from pipeline.errors import SettingsError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(text: str) -> int:
    """ISO 8601 with zone, or `now`, as microseconds since 1970 UTC.

    >>> parse_time("1970-01-01T01:00:00.000001+01:00")
    1

    Raises
    ------
    SettingsError
        It is no time, or has no zone.
    """
    if text == "now":
        return time.time_ns() // 1000
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{text!r} is not a time such as 2026-03-01T12:00:00+01:00") from None
    if at.utcoffset() is None:
        raise SettingsError(f"{text!r} has no zone: add Z or an offset such as +01:00")
    return (at - EPOCH) // timedelta(microseconds=1)
