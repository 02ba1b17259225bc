"""A ledger in; what the same code decides otherwise, told the same in the same order, out.

The ledger is the recorded order of arrival. It is said again to an empty database, entry by entry,
at the times that it names: what partitions found; what people, clocks and trainers asked for; which
attempts ended for a reason outside of us. What follows from that is decided anew by the product's
own code (names, folding, inputs, whether to train, weights, gate, promotions, roll-backs), and has
to make the same entries, and in the end the same rows.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import dropwhile, islice, takewhile
from typing import Any

from sqlalchemy import Engine, Row, Table, insert, select, text, update

from pipeline.config import Settings
from pipeline.consolidate.readings import Readings
from pipeline.detect.tasks import in_units
from pipeline.records import Claim, Request
from pipeline.register import ledger
from pipeline.register import tables as t
from pipeline.register.engine import writing
from pipeline.register.naming import name
from pipeline.register.sql import SqlRegistry
from pipeline.run import work as works
from pipeline.run.trainer import Trainer
from pipeline.run.work import Work
from tests.chaos.compare import unlike
from tests.chaos.undisturbed import PrintsOf

Facts = dict[str, Any]

#: Longer than any run, in seconds: whose lease was over, the ledger says.
LEASE_S = 1e6
#: What is compared at the end, by what, and what is left out: numbers that are the database's own,
#: until when a lease was, and how many readings there were when a request came.
TABLES: tuple[tuple[Table, tuple[str, ...], tuple[str, ...]], ...] = (
    (t.tasks, ("number",), ()),
    (t.task_prints, ("task_id", "partition", "series"), ()),
    (t.segments, ("partition", "series", "segment"), ("id",)),
    (t.requests, ("id",), ("lease_until", "readings")),
    (t.versions, ("number",), ()),
    (t.promotions, ("live_from", "version_id"), ("id",)),
    (t.evaluations, ("version_id", "task_id"), ()),
)
#: Kinds of entries that say what was decided, not what came.
DECIDED = (
    "task", "task_named", "request_claimed", "request_expired", "request_done", "version",
    "promotion", "rollback",
)  # fmt: skip
NAMING = ("task", "task_named")
REQUEST = (
    "stream_id", "reason", "actor", "note", "partition", "series", "segment", "inputs", "due",
    "without_task",
)  # fmt: skip


class Replay:
    """Says a database's ledger again to an empty one of the same kind.

    Parameters
    ----------
    prints
        The fingerprints that partitions named their segments by: a function of each one's log.
    settings
        Of the trainers.
    """

    def __init__(
        self, recorded: SqlRegistry, empty: SqlRegistry, prints: PrintsOf, settings: Settings
    ) -> None:
        self.recorded, self.empty, self.prints = recorded, empty, prints
        self.settings = settings
        self.trainer = Trainer(settings, empty, owner="replay")
        self.entries = _rows(recorded.engine, t.ledger)
        #: Entry -> the requests whose inputs were looked up after it.
        self.looks = _looks(self.entries)
        self.claims: dict[int, Claim] = {}
        self.works: dict[int, tuple[Claim, Work]] = {}
        self.current: Claim | None = None
        #: Entries that were decided anew, by kind.
        self.decided: dict[str, int] = defaultdict(int)

    def run(self) -> Iterator[str]:
        """What was decided otherwise; ends at the first entry after which nothing follows."""
        self._copy_readings()
        done = 0
        while done < len(self.entries):
            row = self.entries[done]
            self.empty.clock = lambda at=row.at: at
            made = self._say(row, done)
            if isinstance(made, str):
                yield f"entry {row.id} ({row.kind}): {made}"
                return
            for before, after in zip(self.entries[done : done + len(made)], made, strict=True):
                if (said := _said(before)) != _said(after):
                    yield f"entry {before.id} was {said}, and is {_said(after)}"
                if before.kind in DECIDED:
                    self.decided[before.kind] += 1
            done += len(made)
        for table, key, left_out in TABLES:
            ours, theirs = (_keyed(r.engine, table, key, left_out) for r in self._both())
            yield from (f"{table.name} {line}" for line in unlike(ours, theirs))

    def _both(self) -> tuple[SqlRegistry, SqlRegistry]:
        return self.recorded, self.empty

    def _say(self, row: Row[Any], done: int) -> list[Row[Any]] | str:
        """The entries that saying one again made; or why it could not be said."""
        facts = json.loads(row.entry)
        try:
            for request in self.looks.pop(done, ()):
                self._look(request)
            getattr(self, f"_{row.kind}", self._came)(row, facts)
        except Exception as exc:
            return f"{type(exc).__name__}: {exc}"
        made = _rows(self.empty.engine, t.ledger, after=done)
        kinds = [each.kind for each in self.entries[done : done + len(made)]]
        if not made or kinds != [each.kind for each in made]:
            return f"what followed was {kinds}, and now {[each.kind for each in made]}"
        return made

    # What arrives --------------------------------------------------------------------------------

    def _came(self, row: Row[Any], facts: Facts) -> None:
        """What a partition found or a broker told: it is compared elsewhere."""
        with writing(self.empty.engine) as conn:
            ledger.append(
                conn, row.kind, facts, at=row.at, actor=row.actor, stream_id=row.stream_id
            )

    def _stream(self, _: Row[Any], facts: Facts) -> None:
        self.empty.open_stream(facts["name"], json.loads(facts["channels"]))

    def _channels(self, row: Row[Any], facts: Facts) -> None:
        name = next(s.name for s in self.empty.streams() if s.id == row.stream_id)
        self.empty.open_stream(name, json.loads(facts["channels"]))

    def _request(self, _: Row[Any], facts: Facts) -> None:
        self._next_id("requests", facts["request"])
        self.empty.submit(Request(**{name: facts[name] for name in REQUEST}))

    def _request_released(self, _: Row[Any], facts: Facts) -> None:
        self.empty.release(self.claims[facts["request"]], facts["reason"])

    def _request_failed(self, _: Row[Any], facts: Facts) -> None:
        self.empty.fail(self.claims[facts["request"]], facts["reason"], retry=facts["retry"])

    # What is decided -----------------------------------------------------------------------------

    def _request_expired(self, row: Row[Any], facts: Facts) -> None:
        """The lease is over, and who found that out claims what is the oldest then."""
        after = dropwhile(lambda e: e.kind == "request_expired", self._from(row))
        claimed = next(after, None)
        with writing(self.empty.engine) as conn:
            this = t.requests.c.id == facts["request"]
            conn.execute(update(t.requests).where(this).values(lease_until=row.at - 1))
        if claimed is not None and claimed.kind == "request_claimed" and claimed.at == row.at:
            self._request_claimed(claimed, json.loads(claimed.entry))

    def _request_claimed(self, _: Row[Any], facts: Facts) -> None:
        claim = self.empty.claim(facts["owner"], LEASE_S, self.settings.run.max_attempts)
        if claim is not None:
            self.claims[claim.id] = self.current = claim

    def _task_named(self, row: Row[Any], _: Facts) -> None:
        """All that one transaction named: its new tasks come before the names."""
        ours = takewhile(lambda e: (e.kind in NAMING, e.at) == (True, row.at), self._from(row))
        named = [json.loads(entry.entry) for entry in ours if entry.kind == "task_named"]
        known = {task.id for task in self.empty.tasks(row.stream_id)}
        if new := {facts["task_id"] for facts in named} - known:
            self._next_id("tasks", min(new))
        if not named[0]["rows"]:
            self._name_by_readings(row.id)
            return
        prints = [
            self.prints[f["partition"], f["series"], f["segment"], f["rows"], f["final"]]
            for f in named
        ]
        with writing(self.empty.engine) as conn:
            list(name(conn, row.stream_id, named[0]["partition"], prints, at=row.at))

    _task = _task_named

    def _name_by_readings(self, number: int) -> None:
        """The trainer names what nothing else has named: the claim's requests in their order."""
        claim = self.current
        assert claim is not None
        for request, asked in works._in_order(claim):
            if "segment" in asked.inputs and self.empty.task_of(request) is None:
                readings = Readings.from_bytes(self.empty.get(asked.inputs["segment"]))
                self.empty.assign(claim, request, in_units(readings.values))
                if _rows(self.empty.engine, t.ledger, after=number - 1):
                    return

    def _look(self, request: int) -> None:
        """The inputs of a request's consolidation, as things stand now."""
        claim = self.claims[request]
        works.name(self.empty, claim, ask=False)
        admitted = self.empty.admit(claim)
        assert admitted is not None
        self.works[request] = admitted, works.resolve(self.empty, admitted, self.settings.learn)

    def _version(self, _: Row[Any], facts: Facts) -> None:
        self._next_id("versions", facts["version"])
        self._end(facts["request_id"])

    def _request_done(self, _: Row[Any], facts: Facts) -> None:
        self._end(facts["request"])

    def _end(self, request: int) -> None:
        """Train, or not, gate and register."""
        self.trainer._decide_on(*self.works[request], lambda _: None)

    def _rollback(self, row: Row[Any], facts: Facts) -> None:
        """Who wants it and why came from outside; where it leads is decided."""
        champion = self.empty.champion(row.stream_id)
        self.empty.roll_back(row.stream_id, leave=champion, actor=row.actor, reason=facts["reason"])

    def _from(self, row: Row[Any]) -> Iterator[Row[Any]]:
        """This entry and those after it."""
        return islice(self.entries, row.id - 1, None)

    # Numbers and bytes ---------------------------------------------------------------------------

    def _next_id(self, table: str, number: int) -> None:
        """A row that is made next has the number that it had: aborted transactions leave holes."""
        if self.empty.engine.dialect.name == "postgresql":
            with writing(self.empty.engine) as conn:
                sequence = f"pg_get_serial_sequence('{table}', 'id')"
                conn.execute(text(f"SELECT setval({sequence}, {number}, false)"))

    def _copy_readings(self) -> None:
        """What partitions brought; weights are made anew."""
        brought = t.artifacts.c.kind.not_in(("weights", "ewc"))
        with self.recorded.engine.connect() as conn, writing(self.empty.engine) as to:
            for row in conn.execute(select(t.artifacts).where(brought)).mappings():
                to.execute(insert(t.artifacts).values(**row))


def _looks(entries: list[Row[Any]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for row in entries:
        facts = json.loads(row.entry)
        if row.kind == "request_done" and facts["as_of"] is not None:
            found[facts["as_of"]].append(facts["request"])
        elif row.kind == "version":
            found[json.loads(facts["inputs"])["as_of"]].append(facts["request_id"])
    return found


def _rows(engine: Engine, table: Table, after: int = 0) -> list[Row[Any]]:
    with engine.connect() as conn:
        rows = select(table).where(table.c.id > after).order_by(table.c.id)
        return list(conn.execute(rows).all())


def _said(row: Row[Any]) -> tuple[Any, ...]:
    """An entry but for its hashes, and for how many seconds a training took."""
    facts = json.loads(row.entry)
    facts.get("metrics", {}).pop("seconds", None)
    return row.id, row.stream_id, row.at, row.kind, row.actor, ledger.canonical(facts)


def _keyed(
    engine: Engine, table: Table, key: tuple[str, ...], left_out: tuple[str, ...]
) -> dict[tuple[Any, ...], Any]:
    with engine.connect() as conn:
        return {
            tuple(row[name] for name in key): {k: v for k, v in row.items() if k not in left_out}
            for row in conn.execute(select(table)).mappings()
        }
