"""A seed and a number of blows in, what was done, what was compared and what differs, out."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from pipeline.config import Database
from pipeline.errors import DatabaseAway, PipelineError
from pipeline.register import tables as t
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from tests.chaos import again, compare, published, replay, undisturbed
from tests.chaos.cast import TOPIC, Cast
from tests.chaos.compare import Findings, count
from tests.chaos.killer import Feeder, Killer, left_badly
from tests.chaos.log import SERIES
from tests.chaos.plan import plan
from tests.databases import new_database

#: After the last blow the log has to be read and all requests done within, in seconds.
END_S = 900.0

Say = Callable[[str], None]


class Laps:
    """What took how long, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 1)
        self._last = now


def run(
    directory: Path,
    kills: int,
    seed: int,
    say: Say,
    series: int = SERIES,
    *,
    exactly_once: bool = False,
) -> dict[str, Any]:
    """Deal the blows, let everything end, compare."""
    clock = Laps()
    findings = Findings()
    with Cast(directory, seed, exactly_once=exactly_once) as cast:
        registry = SqlRegistry(cast.database)
        feeder = Feeder(cast.broker.address, seed, series)
        killer = Killer(cast, feeder, lambda: _reached(registry), lambda: _roll_back(registry), say)
        blows = plan(seed, kills)
        clock.lap("servers")
        feeder.start()
        cast.start()
        killer.run(blows)
        clock.lap("blows")
        log = _end(cast, killer, registry, findings, say)
        clock.lap("end")
        say(f"all has ended; the undisturbed run over {log.length} records")
        calm = undisturbed.Listening(_sqlite(directory, "undisturbed"))
        undisturbed.follow(cast.settings("undisturbed", calm.database), calm, log.length, END_S)
        clock.lap("undisturbed")
        _compare(cast, registry, calm, log, findings, say)
        registry.close()
        calm.close()
        clock.lap("comparison")
    return {
        "kills": kills,
        "seed": seed,
        "exactly_once": exactly_once,
        "order": [str(blow) for blow in blows],
        "done": dict(sorted(killer.done.items())),
        "asked": dict(sorted(killer.asked.items())),
        "log": dict(log.holds),
        "blows_without_progress": killer.idle,
        "starts": {name: member.starts for name, member in cast.members.items()},
        "records": log.length,
        "seconds": clock.seconds,
        "compared": dict(findings.compared),
        "differences": findings.differences,
        "logs": str(directory),
    }


def _reached(registry: SqlRegistry) -> int | None:
    """Sum of the next offsets; None while the database is away."""
    try:
        with registry.engine.connect() as conn:
            return conn.execute(select(func.sum(t.checkpoints.c.next_offset))).scalar()
    except DBAPIError:
        return None


def _roll_back(registry: SqlRegistry) -> str:
    """A person wants the champion before; what came of it."""
    try:
        stream = registry.stream(TOPIC)
        if stream is None:
            return "roll back: no stream yet"
        registry.roll_back(stream.id, actor="ada", reason="chaos")
    except DatabaseAway:
        return "roll back: the database was away"
    except PipelineError:
        return "roll back: there was nothing to go back to"
    return "roll back: done"


def _end(
    cast: Cast, killer: Killer, registry: SqlRegistry, findings: Findings, say: Say
) -> published.Log:
    """Everybody wakes, the log is read to its end, what was asked is done, all leave."""
    cast.settle()
    for member in cast.members.values():
        member.resume()
    killer.finish()
    log = published.Log(cast.broker.address)
    say(f"waiting for the end of {log.length} records")
    killer.wait_until(lambda: _reached(registry) == log.length, END_S)
    stop = [name for name in cast.members if name.startswith("schedule")]
    left = _leave(cast, stop)
    killer.wait_until(lambda: _is_over(registry, log.length), END_S)
    reached, open_ = registry.progress()
    if (reached, open_) != (log.length, 0):
        findings.differences.append(
            f"the end did not come: {reached} of {log.length} records, {open_} requests open"
        )
    left += _leave(cast, [name for name in cast.members if name not in stop])
    starts = sum(member.starts for member in cast.members.values())
    findings.look("starts of processes, none ended by itself", starts, iter(killer.ended))
    findings.look("processes that left well when told to", len(cast.members), iter(left))
    return log


def _is_over(registry: SqlRegistry, length: int) -> bool:
    return registry.progress() == (length, 0)


def _leave(cast: Cast, names: list[str]) -> list[str]:
    """SIGTERM to these; who did not leave well."""
    there = [cast.members[name] for name in names if cast.members[name].process is not None]
    for member in there:
        member.terminate()
    return [bad for member in there for bad in left_badly(member)]


def _sqlite(directory: Path, name: str) -> Database:
    database = Database(url=f"sqlite:///{directory / name}.db")
    upgrade(database)
    return database


def _compare(
    cast: Cast,
    registry: SqlRegistry,
    calm: undisturbed.Listening,
    log: published.Log,
    findings: Findings,
    say: Say,
) -> None:
    engine, address, look = registry.engine, cast.broker.address, findings.look
    ours, theirs = compare.own_state(engine), compare.own_state(calm.engine)
    for what in ours:
        look(what, len(theirs[what]), compare.unlike(ours[what], theirs[what]))
    look("scored ranges", count(engine, t.scored), compare.scored(engine, log.ends))
    look("requests done once", count(engine, t.requests), compare.requests_once(engine))
    look("due times", len(compare.due(engine)), compare.due_once(engine))
    look("live intervals", count(engine, t.promotions), compare.promotions(engine))
    look("ledger entries", count(engine, t.ledger), compare.chain(engine))
    look("dead letters", len(log.bad), published.dead_letters(address, log))
    look("scores", log.length - len(log.bad), published.scores(address, engine, log))
    if cast.exactly_once:
        look("scores once", log.length - len(log.bad), published.twice(address))
    look("told", count(engine, t.boundaries), published.boundaries(address, engine))
    say(f"deciding again what was decided, and making {count(engine, t.versions)} versions again")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as beside:
        made = beside.submit(again.made_again_in, registry.database)
        _replay(cast, registry, calm, findings)
        look("versions made again", count(engine, t.versions), iter(made.result()))


def _replay(
    cast: Cast, registry: SqlRegistry, calm: undisturbed.Listening, findings: Findings
) -> None:
    """What was decided across partitions, once more in an empty database."""
    empty = SqlRegistry(new_database(cast.postgres.url))
    upgrade(empty.database)
    again_ = replay.Replay(registry, empty, calm.prints, cast.settings_of_members)
    differences = list(again_.run())
    findings.look("entries decided again", sum(again_.decided.values()), iter(differences))
    for kind, number in sorted(again_.decided.items()):
        findings.compared[f"entries decided again: {kind}"] += number
    empty.close()
