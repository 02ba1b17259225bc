"""What a verification finds, in one form whatever was looked at."""

from __future__ import annotations

from typing import Any

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it was written."""

    #: ledger, a table, artifacts, an anchor or a file.
    where: str
    #: edited | deleted | inserted | swapped | unsigned
    what: str
    detail: str
    #: Number of the ledger's entry, its kind, and its time in microseconds since 1970 UTC.
    entry: int | None = None
    kind: str | None = None
    at: Any = None
