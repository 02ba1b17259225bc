"""No question reads a whole table: each statement's plan, on both databases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg.sql import Literal
from sqlalchemy import Engine, event, text

from pipeline.config import Database
from pipeline.register.engine import connect
from pipeline.register.sql import SqlRegistry
from pipeline.serve.audit import Audit
from tests.register.making import Clock, asked, claimed, opened, promoted, register, rejected

Asked = list[tuple[str, Any]]
#: Tables that grow with the history, and their names inside queries.
BIG = (
    *("versions", "requests", "request_inputs", "promotions", "boundaries", "segments", "scored"),
    *("ledger", "metrics", "evaluations", "artifacts", "measurements"),
)
ALIASES = ("others", "parents", "parent", "back", "v", "r", "i", "p", "b", "c", "l", "m", "x", "q")
QUESTIONS: dict[str, Callable[[Audit], Any]] = {
    "live_at": lambda audit: audit.live_at("plant", 10**9),
    "why": lambda audit: audit.why("plant", 3),
    "data": lambda audit: audit.data("plant", 3),
    "metrics_at": lambda audit: audit.metrics_at("plant", 10**9),
    "decided": lambda audit: audit.decided("plant", 3),
    "rejected": lambda audit: audit.rejected("plant"),
    "rejected, a range": lambda audit: audit.rejected("plant", 0, 10**10, after=2),
    "scored": lambda audit: audit.scored("plant", 0, 15),
    "diff": lambda audit: audit.diff("plant", 1, 3),
    "lineage": lambda audit: audit.lineage("plant", 3),
}
#: Statements that a question comes to, each of them a way to the server and back: the version, in
#: `live_at` and `scored` with all there is, then what belongs to it. Readings of which nobody noted
#: the extent, as here, are looked up.
STATEMENTS = {
    "live_at": 1,
    "why": 3,  # reasons; roll-backs
    "data": 4,  # tasks; origins; readings
    "metrics_at": 3,  # figures; what was measured again
    "decided": 4,  # tasks; times live; ledger
    "rejected": 2,  # persons' words
    "rejected, a range": 3,  # where the page before ended
    "scored": 1,
    "diff": 7,  # figures; tasks; origins; readings of both; weights of both
    "lineage": 2,
}
ONE = "stream = 'plant' AND version = 2"
VIEWS = {
    "audit_live": "stream = 'plant' AND live_from_us <= 9 AND live_until_us > 9",
    **dict.fromkeys(("audit_why", "audit_data", "audit_metrics", "audit_lineage"), ONE),
    **dict.fromkeys(("audit_settings", "audit_rejected"), ONE),
    "audit_decided": "stream = 'plant' AND version = 2 AND decision <> 'rolled_back'",
    "audit_scored": "stream = 'plant' AND \"partition\" = 0 AND first_offset <= 9",
}


@pytest.fixture
def audit(at_head: Database) -> Iterator[Audit]:
    """Three versions, one of them refused, and what was scored with the first."""
    with opened(at_head, Clock()) as registry:
        stream = registry.open_stream("plant", ["pressure", "flow"])
        for segment, decision in enumerate((promoted(), rejected(), promoted())):
            registry.submit(asked(stream, segment))
            parent = registry.champion(stream.id)
            claim = claimed(registry)
            inputs = {"segments": [(1, f"segment-{segment}")]}
            register(registry, claim, decision, parent=parent, inputs=inputs)
        _score(registry, stream.id)
    audit = Audit(at_head)
    yield audit
    audit.close()


def _score(registry: SqlRegistry, stream_id: int) -> None:
    with registry.engine.begin() as conn:
        conn.execute(
            text(
                'INSERT INTO scored (stream_id, "partition", version_id, first_offset, end_offset)'
                " VALUES (:stream, 0, 1, 10, 20)"
            ),
            {"stream": stream_id},
        )


def asked_of(audit: Audit, question: Callable[[Audit], Any]) -> Asked:
    """The statements that a question comes to, with their parameters."""
    found: Asked = []

    @event.listens_for(audit.engine, "before_cursor_execute")
    def on_execute(*args: Any) -> None:
        found.append((args[2], args[3]))

    question(audit)
    event.remove(audit.engine, "before_cursor_execute", on_execute)
    return [each for each in found if each[0].lstrip().startswith(("SELECT", "WITH"))]


def plan(engine: Engine, statement: str, parameters: Any) -> list[str]:
    """What the database would do; PostgreSQL reads a whole table only where it must, and has one
    plan for all values.
    """
    with engine.connect() as conn:
        if engine.dialect.name == "postgresql":
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
            conn.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
            values = []
            for number, (name, value) in enumerate(dict(parameters).items(), 1):
                statement = statement.replace(f"%({name})s", f"${number}")
                values.append(Literal(value).as_string())
            conn.exec_driver_sql(f"PREPARE asked AS {statement}")
            given = f"({', '.join(values)})" if values else ""
            rows = conn.exec_driver_sql(f"EXPLAIN EXECUTE asked{given}").all()
            conn.exec_driver_sql("DEALLOCATE asked")
            return [row[0] for row in rows]
        rows = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return [row[-1] for row in rows]


def whole_tables(lines: list[str]) -> list[str]:
    """Lines of a plan that read a table from its beginning to its end."""
    names = "|".join((*BIG, *ALIASES))
    whole = re.compile(rf"Seq Scan on ({'|'.join(BIG)})\b|^SCAN ({names})(?! VIRTUAL)\b")
    return [line for line in lines if whole.search(line)]


def test_a_whole_table_is_seen(audit: Audit) -> None:
    """The check can fail: no index helps to find a decision by its words."""
    statement = "SELECT * FROM versions WHERE decision = 'x'"
    assert whole_tables(plan(audit.engine, statement, ()))


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_reads_no_whole_table(audit: Audit, question: str) -> None:
    """As quick with a hundred thousand versions as with three."""
    statements = asked_of(audit, QUESTIONS[question])
    assert statements
    for statement, parameters in statements:
        assert whole_tables(plan(audit.engine, statement, parameters)) == [], statement


def test_one_plan_serves_all_values(audit: Audit) -> None:
    """PostgreSQL would plan most questions at each call, in more time than they take."""
    if audit.engine.dialect.name == "postgresql":
        with audit.engine.connect() as conn:
            assert conn.exec_driver_sql("SHOW plan_cache_mode").scalar() == "force_generic_plan"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_takes_no_more_statements_than_it_needs(audit: Audit, question: str) -> None:
    """One for each kind of row, whatever the number of versions, tasks and artifacts."""
    assert len(asked_of(audit, QUESTIONS[question])) <= STATEMENTS[question]


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_reads_no_whole_table(at_head: Database, name: str) -> None:
    """What is asked of one version, or one moment, reaches the tables below the view."""
    engine = connect(at_head)
    found = plan(engine, f"SELECT * FROM {name} WHERE {VIEWS[name]}", ())  # noqa: S608
    engine.dispose()
    assert found
    assert whole_tables(found) == []
