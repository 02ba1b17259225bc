"""What the routes share: the registry, the questions, the tokens, and the stream that is meant."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import Depends, Request

from pipeline.config import Settings
from pipeline.errors import PipelineError
from pipeline.register.listing import Listing
from pipeline.register.sql import SqlRegistry, Stream
from pipeline.register.tokens import TokenBook
from pipeline.serve.http.replies import StreamName
from pipeline.serve.http.scorers import Scorers
from pipeline.serve.lineage import Lineage


class House:
    """One database, from every side that is asked."""

    def __init__(self, settings: Settings, registry: SqlRegistry, stop: threading.Event) -> None:
        self.settings = settings
        self.registry = registry
        self.stop = stop
        #: Who waits for events; one at a time verifies.
        self.listeners = 0
        self.verifying = threading.Lock()
        self.scorers = Scorers(registry, settings)
        self.lineage = Lineage(settings.database)
        self.listing = Listing(registry.engine)
        self.tokens = TokenBook(registry.engine, clock=registry.clock)

    def close(self) -> None:
        """Give back what is not the registry's."""
        self.lineage.close()

    def stream(self, name: str) -> Stream:
        """The stream of that name; PipelineError without it."""
        found = self.registry.stream(name)
        if found is None:
            raise PipelineError(f"no stream {name}")
        return found


def _house(request: Request) -> House:
    found: House = request.app.state.house
    return found


Asked = Annotated[House, Depends(_house)]


def _stream(name: StreamName, house: Asked) -> Stream:
    return house.stream(name)


#: The stream that a path names.
Named = Annotated[Stream, Depends(_stream)]
