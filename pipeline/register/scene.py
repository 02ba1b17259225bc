"""Where an act happens, and by whom: what every one of them needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from pipeline.errors import PipelineError
from pipeline.register import ledger, streams
from pipeline.register.orders import Act


@dataclass(frozen=True, slots=True)
class Scene:
    """A transaction under the ledger's lock, the stream, the act and its time."""

    conn: Connection
    #: Id of the stream; None: all of them.
    of: int | None
    act: Act
    #: Microseconds since 1970 UTC.
    at: int

    @property
    def stream_id(self) -> int:
        """PipelineError if the act is one to all streams."""
        if self.of is None:
            raise PipelineError("this is done to one stream: say to which")
        return self.of

    @property
    def stream(self) -> streams.Stream:
        """As it is now."""
        return streams.of(self.conn, self.stream_id)

    @property
    def more(self) -> dict[str, Any]:
        """For the ledger."""
        return {"request_id": self.act.request_id}

    def note(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Write an entry of the ledger that only says what the act was."""
        entry = {**facts, "reason": self.act.reason, **self.more}
        ledger.append(self.conn, kind, entry, at=self.at, actor=self.act.actor, stream_id=self.of)
