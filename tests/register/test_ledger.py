"""The ledger: nothing is changed or taken away, and if it is, the chain says where."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError

from pipeline.config import Database
from pipeline.errors import RegistryError
from pipeline.register import ledger, tables
from pipeline.register.chain import BATCH, Entry, sound, stored
from pipeline.register.damage import diagnose
from pipeline.register.engine import connect, reading, writing
from pipeline.register.migrate import upgrade
from pipeline.register.triggers import create_triggers, drop_triggers
from tests.register.making import change, column, race

ENTRIES = 6


@pytest.fixture
def engine(at_head: Database) -> Iterator[Engine]:
    """A ledger of six entries."""
    engine = connect(at_head)
    for number in range(1, ENTRIES + 1):
        with writing(engine) as conn:
            ledger.append(conn, "tested", {"number": number}, at=number, actor="ada")
    yield engine
    engine.dispose()


def broken(engine: Engine) -> list[tuple[int, str]]:
    """(entry, what was done to it) of all that is found."""
    with engine.connect() as conn:
        if sound(conn):
            return []
        return [(damage.id, damage.what) for damage in diagnose(stored(conn))]


def test_the_hash_is_the_documented_one(engine: Engine) -> None:
    """An auditor without this code can verify the chain: sha256, a newline, canonical JSON."""
    previous = "0" * 64
    with engine.connect() as conn:
        rows = conn.execute(select(tables.ledger).order_by(tables.ledger.c.id)).all()
    for number, row in enumerate(rows, 1):
        facts = {
            "id": number,
            "stream_id": None,
            "at": number,
            "kind": "tested",
            "actor": "ada",
            "entry": json.dumps({"number": number}, separators=(",", ":")),
        }
        line = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        assert row.previous == previous
        assert row.hash == hashlib.sha256(f"{previous}\n{line}".encode()).hexdigest()
        previous = row.hash
    assert len(rows) == ENTRIES


def test_an_untouched_chain_holds(engine: Engine) -> None:
    """No false alarm, from the first entry to the last."""
    assert broken(engine) == []


def test_canonical_text_depends_on_the_value_only() -> None:
    """Equal facts must have equal hashes, in whatever order a dict was filled."""
    one = {"b": [1, 2.5, None], "a": {"y": "é", "x": True}}
    other = {"a": {"x": True, "y": "é"}, "b": [1, 2.5, None]}
    assert ledger.canonical(one) == ledger.canonical(other)
    assert ledger.canonical(one) == '{"a":{"x":true,"y":"é"},"b":[1,2.5,null]}'
    assert ledger.canonical({2: 0.5, 1: 0.25}) == '{"1":0.25,"2":0.5}'


def test_a_figure_that_is_not_finite_is_kept_as_what_it_was() -> None:
    """JSON has no word for it, and null would not say which: the ledger must."""
    figures = {"a": math.nan, "b": [math.inf, (-math.inf, 0.5)], 3: {"c": math.nan}}
    assert ledger.canonical(figures) == '{"3":{"c":"nan"},"a":"nan","b":["inf",["-inf",0.5]]}'


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE ledger SET entry = '{}' WHERE id = 3",
        "UPDATE ledger SET at = at",
        "DELETE FROM ledger WHERE id = 6",
        "DELETE FROM ledger",
    ],
)
def test_the_database_refuses_to_change_an_entry(engine: Engine, attack: str) -> None:
    """Append-only is held by triggers, not by the good manners of this program."""
    with pytest.raises(DBAPIError, match="ledger is append-only"):
        change(engine, attack)
    assert len(column(engine, "SELECT id FROM ledger")) == ENTRIES
    assert broken(engine) == []


def test_each_database_refuses_its_own_ways_round(engine: Engine) -> None:
    """SQLite's REPLACE deletes without a DELETE trigger; PostgreSQL truncates and upserts."""
    forged = (
        "ledger SELECT {}, stream_id, at, kind, 'eve', entry, previous, {} FROM ledger WHERE id = 3"
    )
    upsert = "INSERT INTO " + forged.format(3, "'x'") + " ON CONFLICT (id) DO UPDATE SET at = 0"
    attacks = {
        "sqlite": [
            "INSERT OR REPLACE INTO " + forged.format(3, "'x'"),
            "REPLACE INTO " + forged.format(99, "hash"),
            "UPDATE OR REPLACE ledger SET id = 3 WHERE id = 4",
            upsert,
        ],
        "postgresql": ["TRUNCATE ledger", upsert],
    }
    for attack in attacks[engine.dialect.name]:
        with pytest.raises(DBAPIError, match="ledger is append-only"):
            change(engine, attack)
    assert column(engine, "SELECT id FROM ledger ORDER BY id") == list(range(1, ENTRIES + 1))
    assert broken(engine) == []


SWAP = "UPDATE ledger SET entry = CASE id WHEN 2 THEN '{\"number\":5}' ELSE '{\"number\":2}' END"


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ("UPDATE ledger SET entry = '{\"number\":0}' WHERE id = 3", [(3, "edited")]),
        ("UPDATE ledger SET at = at + 1 WHERE id = 1", [(1, "edited")]),
        ("UPDATE ledger SET kind = 'other' WHERE id = 6", [(6, "edited")]),
        ("UPDATE ledger SET actor = 'eve' WHERE id = 4", [(4, "edited")]),
        ("UPDATE ledger SET hash = previous WHERE id = 1", [(1, "edited")]),
        ("UPDATE ledger SET previous = hash WHERE id = 5", [(5, "edited")]),
        ("UPDATE ledger SET id = 9 WHERE id = 6", [(9, "edited")]),
        ("DELETE FROM ledger WHERE id = 1", [(1, "deleted")]),
        ("DELETE FROM ledger WHERE id = 3", [(3, "deleted")]),
        ("DELETE FROM ledger WHERE id IN (2, 3)", [(2, "deleted")]),
        (f"{SWAP} WHERE id IN (2, 5)", [(2, "edited"), (5, "edited")]),
        (f"{SWAP}, at = 7 - at WHERE id IN (2, 5)", [(2, "swapped"), (5, "swapped")]),
        (
            "UPDATE ledger SET id = 99 WHERE id = 2; UPDATE ledger SET id = 2 WHERE id = 4;"
            "UPDATE ledger SET id = 4 WHERE id = 99",
            [(2, "swapped"), (4, "swapped")],
        ),
        (
            "DELETE FROM ledger WHERE id = 3; UPDATE ledger SET id = 3 WHERE id = 4;"
            "UPDATE ledger SET id = 4 WHERE id = 5; UPDATE ledger SET id = 5 WHERE id = 6",
            [(3, "deleted")],
        ),
        (
            "UPDATE ledger SET id = 7 WHERE id = 6; UPDATE ledger SET id = 6 WHERE id = 5;"
            "INSERT INTO ledger SELECT 5, stream_id, at, kind, 'eve', entry, previous, 'x' "
            "FROM ledger WHERE id = 3",
            [(5, "inserted")],
        ),
    ],
)
def test_what_was_done_to_which_entry_is_told(
    engine: Engine, attack: str, named: list[tuple[int, str]]
) -> None:
    """Who can drop the triggers can edit, but not so that `audit verify` does not say where."""
    with engine.begin() as conn:
        drop_triggers(conn)
        for each in attack.split(";"):
            conn.exec_driver_sql(each)
        create_triggers(conn)
    assert broken(engine) == named


def test_an_edit_with_its_hash_made_anew_is_told_by_the_next_entry(engine: Engine) -> None:
    """Forging one entry's hash as well leaves the next without a predecessor."""
    with engine.begin() as conn:
        drop_triggers(conn)
        row = conn.execute(select(tables.ledger).where(tables.ledger.c.id == 3)).mappings().one()
        names = ("id", "stream_id", "at", "kind", "actor", "entry")
        forged = {name: row[name] for name in names} | {"actor": "eve"}
        line = ledger.canonical(forged)
        hash_ = hashlib.sha256(f"{row['previous']}\n{line}".encode()).hexdigest()
        conn.execute(
            tables.ledger.update()
            .where(tables.ledger.c.id == 3)
            .values(actor=forged["actor"], hash=hash_)
        )
    assert broken(engine) == [(3, "edited")]


def test_an_entry_of_a_transaction_that_fails_leaves_no_hole(engine: Engine) -> None:
    """Numbers come from the entries, not from a sequence: a rollback uses none up."""
    with suppress(ZeroDivisionError), writing(engine) as conn:
        ledger.append(conn, "tested", {}, at=7)
        raise ZeroDivisionError
    with writing(engine) as conn:
        ledger.append(conn, "tested", {}, at=8)
    assert column(engine, "SELECT id FROM ledger ORDER BY id") == list(range(1, ENTRIES + 2))
    assert broken(engine) == []


def test_no_entry_is_passed_over_whatever_its_number(engine: Engine) -> None:
    """They are read some at a time: those of the next page, and those below 1 and at the end of the
    numbers that a database has, where only a forger puts them."""
    count = BATCH + 1
    least, most = -(2**63), 2**63 - 1
    with engine.begin() as conn:
        ledger.append(conn, "tested", *({} for _ in range(count - ENTRIES)), at=7)
    forged = "INSERT INTO ledger SELECT {0}, stream_id, at, kind, actor, entry, '{0}', '{0}' "
    for number in (least, most):
        change(engine, forged.format(number) + "FROM ledger WHERE id = 3")
    with engine.connect() as conn:
        read = [entry[Entry._fields.index("id")] for rows in stored(conn) for entry in rows]
    assert read == [least, *range(1, count + 1), most]


def test_a_row_that_the_driver_cannot_read_is_a_refusal_in_one_line(tmp_path: Path) -> None:
    """SQLite finds out row by row, when the statement has begun: no traceback of the driver's."""
    database = Database(url=f"sqlite:///{tmp_path}/spoilt.db")
    upgrade(database)
    engine = connect(database)
    with writing(engine) as conn:
        ledger.append(conn, "tested", {}, at=7)
        drop_triggers(conn)
        conn.exec_driver_sql("UPDATE ledger SET entry = CAST(x'ff' AS TEXT)")
    with pytest.raises(RegistryError, match="UTF-8") as refused, reading(engine) as conn:
        sound(conn)
    engine.dispose()
    assert "\n" not in str(refused.value)


def test_appenders_queue_up(engine: Engine) -> None:
    """Two processes that append in the same moment make one chain, not a fork."""
    each = 10

    def append() -> None:
        for number in range(each):
            with writing(engine) as conn:
                ledger.append(conn, "tested", {"number": number}, at=number)

    assert race(append, append, append) == [None] * 3
    assert len(column(engine, "SELECT id FROM ledger")) == ENTRIES + 3 * each
    assert broken(engine) == []
