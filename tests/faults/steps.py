"""Faults at numbered steps: count those of a clean run, then fail at number k, for every k.

    clean run ──► steps 1..n                for k in 1..n:   run ── fault at k ── restart ──► same

After SQLite's own tests of failing I/O (sqlite.org/testing.html, 3.2). A step is one moment before
or after something outside of us is asked: a statement, a commit, a poll, a flush, a decoding. The
faults are the libraries' own exceptions, raised where the library would raise them: in the driver's
cursor, so that SQLAlchemy wraps them and gives the connection up as it would; inside the Kafka
adapters' own translation. The product's code is the one that runs in production.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from kafka import errors as kafka
from sqlalchemy import Engine

Fault = Callable[[], BaseException]


class Killed(BaseException):
    """What a process that is no more does not catch either."""


@dataclass
class Steps:
    """Counts steps; at number `at`, and with `lasting` from there on, the fault is raised.

    Parameters
    ----------
    at
        Number of the step that fails, from 0 on; None: none does.
    faults
        What may happen at a step of each kind (the first word of its name).
    turn
        Which of those; the next step has the next one, so that a sweep uses all in turn.
    """

    at: int | None = None
    faults: dict[str, Sequence[Fault]] = field(default_factory=dict)
    turn: int = 0
    lasting: bool = False
    #: Names of the steps so far, as "kind: what, before" or "..., after".
    seen: list[str] = field(default_factory=list)
    #: What was raised first, in words: the exception itself would keep its frames' cursors open.
    raised: str = ""

    @contextmanager
    def around(self, kind: str, what: str) -> Iterator[None]:
        """Two steps: before the block, and after it when it is done."""
        self._step(kind, f"{what}, before")
        yield
        self._step(kind, f"{what}, after")

    def _step(self, kind: str, name: str) -> None:
        number = len(self.seen)
        self.seen.append(f"{kind}: {name}")
        if self.at is None or (number != self.at and not (self.lasting and number > self.at)):
            return
        choice = self.faults[kind]
        fault = choice[(number + self.turn) % len(choice)]()
        self.raised = self.raised or repr(fault)
        raise fault


def wrap(steps: Steps, kind: str, target: Any, *names: str) -> None:
    """Make each call of these methods of one object two steps."""

    def stepping(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with steps.around(kind, name):
                return act(*args, **kwargs)

        return call

    for name in names:
        setattr(target, name, stepping(name, getattr(target, name)))


def wrap_sql(steps: Steps, engine: Engine) -> None:
    """Make every statement and commit of an engine two steps, inside its driver's calls."""
    dialect: Any = engine.dialect

    def statement(name: str) -> None:
        act = getattr(dialect, name)

        def execute(cursor: Any, text: str, *args: Any, **kwargs: Any) -> Any:
            with steps.around("sql", " ".join(text.split())[:60]):
                return act(cursor, text, *args, **kwargs)

        setattr(dialect, name, execute)

    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        statement(name)
    commit = dialect.do_commit

    def do_commit(connection: Any) -> None:
        with steps.around("sql", "COMMIT"):
            commit(connection)

    dialect.do_commit = do_commit


# What can happen ---------------------------------------------------------------------------------


def sqlite(name: str, said: str) -> Fault:
    """An error of SQLite, with its code."""

    def make() -> BaseException:
        code = getattr(sqlite3, name)
        kind = sqlite3.DatabaseError if code == sqlite3.SQLITE_CORRUPT else sqlite3.OperationalError
        failure = kind(said)
        failure.sqlite_errorcode, failure.sqlite_errorname = code, name
        return failure

    return make


def no_memory() -> BaseException:
    return MemoryError("out of memory")


#: The ways in which a process ends, or all but ends.
ENDS: tuple[Fault, ...] = (no_memory, KeyboardInterrupt, lambda: SystemExit(1), Killed)
#: Those after which a transaction may succeed another time.
SQLITE_PASSING: tuple[Fault, ...] = (
    sqlite("SQLITE_BUSY", "database is locked"),
    sqlite("SQLITE_FULL", "database or disk is full"),
    sqlite("SQLITE_LOCKED", "database table is locked"),
)
SQLITE: tuple[Fault, ...] = (
    *SQLITE_PASSING,
    sqlite("SQLITE_IOERR", "disk I/O error"),
    sqlite("SQLITE_CORRUPT", "database disk image is malformed"),
    sqlite("SQLITE_READONLY", "attempt to write a readonly database"),
    *ENDS,
)
POSTGRESQL_PASSING: tuple[Fault, ...] = (
    lambda: psycopg.OperationalError("server closed the connection unexpectedly"),
    lambda: psycopg.errors.SerializationFailure("could not serialize access"),
    lambda: psycopg.errors.DeadlockDetected("deadlock detected"),
    lambda: psycopg.errors.AdminShutdown("terminating connection due to administrator command"),
    lambda: psycopg.errors.ReadOnlySqlTransaction("cannot execute in a read-only transaction"),
    lambda: psycopg.errors.DiskFull("could not extend file: No space left on device"),
)
POSTGRESQL: tuple[Fault, ...] = (
    *POSTGRESQL_PASSING,
    lambda: psycopg.errors.IoError("could not read block 0"),
    lambda: psycopg.errors.DataCorrupted("invalid page in block 0"),
    lambda: psycopg.InterfaceError("the connection is closed"),
    *ENDS,
)
KAFKA: tuple[Fault, ...] = (
    lambda: kafka.KafkaTimeoutError("no answer"),
    lambda: kafka.KafkaConnectionError("socket disconnected"),
    kafka.NotLeaderForPartitionError,
    kafka.CommitFailedError,
    kafka.TopicAuthorizationFailedError,
    kafka.MessageSizeTooLargeError,
    kafka.CorruptRecordError,
    lambda: ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
    *ENDS,
)
#: Of computing: decoding, detecting, scoring, training.
WORK: tuple[Fault, ...] = (
    *ENDS,
    lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"),  # torch's
    lambda: OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
)
