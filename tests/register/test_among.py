"""Rows found by values that come as one parameter, against reading them all."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, event, insert, select

from pipeline.config import Database
from pipeline.register.among import among
from pipeline.register.engine import connect, writing

ROWS = [{"id": number, "hash": f"{number:064x}"} for number in range(1, 9)]
#: More values than a statement may have parameters, on either database.
MANY = 300_000
things = Table("things", MetaData(), Column("id", Integer), Column("hash", String(64)))
BY_NUMBER = select(things.c.id).where(among(things.c.id, "which")).order_by(things.c.id)
BY_HASH = select(things.c.id).where(among(things.c.hash, "which")).order_by(things.c.id)


@pytest.mark.parametrize("wanted", [[], [3], [9], [2, 7, 7, 9], range(2, MANY)])
def test_rows_are_those_of_the_values_by_one_statement(
    at_head: Database, wanted: list[int]
) -> None:
    """None, one, one that is not there, one twice, and any number of them."""
    engine, texts = connect(at_head), set()
    event.listen(engine, "before_cursor_execute", lambda *args: texts.add(args[2]))
    expected = [row["id"] for row in ROWS if row["id"] in wanted]
    with writing(engine) as conn:
        things.create(conn)
        conn.execute(insert(things), ROWS)
        texts.clear()
        for which in ([1], list(wanted)):
            by_number = conn.execute(BY_NUMBER, {"which": which}).scalars().all()
            by_hash = conn.execute(BY_HASH, {"which": [f"{n:064x}" for n in which]}).scalars().all()
            assert by_number == by_hash
        assert by_number == expected
    engine.dispose()
    assert len(texts) == 2
