"""A TCP proxy on loopback in; connections that can all be cut at once, out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

#: Bytes that are passed on at once, at most.
CHUNK = 1 << 16

#: Where to pass a connection on to: host and port, or the path of a socket.
Target = tuple[str, int] | str


class Proxy:
    """Passes connections on to a target that may be away, and cuts them when told to.

    Parameters
    ----------
    target
        Where the server listens now; asked for each connection.
    port
        Where the proxy listens; 0: on any free port.
    """

    def __init__(self, target: Callable[[], Target], port: int = 0) -> None:
        self.target = target
        self.port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        self.port = listening.result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> int:
        """Reset every connection; how many ends there were."""
        return asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def hold(self) -> None:
        """From now on, pass nothing on, say nothing and take every connection: a black hole."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    async def _listen(self) -> int:
        self._flows.set()
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _cut(self) -> int:
        writers, self._writers = self._writers, set()
        for writer in writers:
            writer.transport.abort()
        return len(writers)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways, until either side ends."""
        mine = {writer}
        self._writers.add(writer)
        try:
            there, onwards = await self._connect()
            mine.add(onwards)
            if writer.transport.is_closing():  # cut meanwhile
                return
            self._writers.add(onwards)
            ways = [self._pump(reader, onwards), self._pump(there, writer)]
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._writers -= mine
            for each in mine:
                each.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self.target()
        if isinstance(target, str):
            return await asyncio.open_unix_connection(target)
        return await asyncio.open_connection(*target)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._flows.wait()
                writer.write(chunk)
                await writer.drain()
