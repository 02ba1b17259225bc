"""A history of any size in a database: nothing is trained, every table is as it would be.

Every second version is promoted on top of the last that was, the others are refused; each fiftieth
promotion is rolled back. Each version is of a boundary and has four tasks, six figures and 28
artifacts among its inputs; 64 sets of real weights take turns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save
from sqlalchemy import Connection, Engine, insert, text

from pipeline.register import ledger
from pipeline.register import tables as t

STREAM, CHANNELS = "plant", ["pressure", "flow"]
TASKS, PARTITIONS, SERIES, WEIGHTS = 4, 10, 100, 64
#: Between two versions, in microseconds, and the time of the first.
APART, BEGIN = 1_000_000, 1_700_000_000_000_000
#: Records in a range that one version scored.
RANGE = 100
ROWS = 2_000
FIGURES = ("loss_before", "loss_after", "seconds", "steps", "lambda", "forgetting")
SENSORS = (
    '[{"after":19.0,"before":10.0,"change":4.5,"channel":1,"kind":"level","other":null},'
    '{"after":0.2,"before":0.7,"change":-0.5,"channel":0,"kind":"correlation","other":1}]'
)
BOUNDARIES = f"""
    INSERT INTO boundaries (id, stream_id, "partition", series, segment, boundary_row, detected_row,
        boundary_offset, detected_offset, boundary_time, detected_time, signal, statistic,
        threshold, detectors, sensors, recorded)
    NUMBERS SELECT i + 1, 1, i % {PARTITIONS}, 'machine-' || ((i / {PARTITIONS}) % {SERIES}),
        i / {PARTITIONS * SERIES} + 1, i, i + 31, i, i + 31, {BEGIN} + i, {BEGIN} + i + 31, 'level',
        7.5, 5.25, '["ADWIN","PageHinkley"]', '{SENSORS}', {BEGIN} + i FROM n"""
SCORED = f"""
    INSERT INTO scored (id, stream_id, "partition", version_id, first_offset, end_offset)
    NUMBERS SELECT i + 1, 1, i / PER_PARTITION,
        1 + (i % PER_PARTITION) * VERSIONS / PER_PARTITION,
        (i % PER_PARTITION) * {RANGE}, (i % PER_PARTITION + 1) * {RANGE} FROM n"""
NUMBERS = {
    "sqlite": ("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last}) "),
    "postgresql": "WITH n(i) AS (SELECT generate_series(0::bigint, {last})) ",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is of what grows."""

    versions: int
    boundaries: int
    scored: int


def fill(engine: Engine, size: Size) -> None:
    """Fill a database at head; one transaction."""
    with engine.begin() as conn:
        if engine.dialect.name == "postgresql":
            conn.exec_driver_sql("SET LOCAL synchronous_commit = off")
        _ground(conn)
        for rows in _chunks(size):
            for table, some in rows.items():
                conn.execute(insert(t.metadata.tables[table]), some)
        _by_sql(conn, BOUNDARIES, size.boundaries)
        _by_sql(
            conn, SCORED, size.scored,
            per_partition=max(size.scored // PARTITIONS, 1), versions=size.versions,
        )  # fmt: skip
        names = " UNION ALL ".join(f"SELECT '{name}' AS name" for name in FIGURES)
        conn.exec_driver_sql(
            "INSERT INTO metrics (version_id, name, value) "
            f"SELECT v.id, f.name, 0.5 FROM versions v CROSS JOIN ({names}) f"
        )
        conn.exec_driver_sql(
            "INSERT INTO evaluations (version_id, task_id, skill, parent_skill, windows) "
            "SELECT v.id, k.id, 0.75, 0.5, 40 FROM versions v CROSS JOIN tasks k"
        )
    if engine.dialect.name == "postgresql":
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
            conn.execute(text("VACUUM ANALYZE"))


def time_of(version: int) -> int:
    """When a version was made, in microseconds."""
    return BEGIN + version * APART


def _by_sql(conn: Connection, query: str, count: int, **values: int) -> None:
    """Run a query over the numbers from 0 to `count`, its words in capitals replaced."""
    query = query.replace("NUMBERS", NUMBERS[conn.dialect.name].format(last=count - 1))
    for name, value in values.items():
        query = query.replace(name.upper(), str(value))
    if conn.dialect.name == "postgresql":  # whose driver takes % for its own
        query = query.replace("%", "%%")
    conn.exec_driver_sql(query)


def _ground(conn: Connection) -> None:
    """What the rest refers to."""
    row = {"id": 1, "name": STREAM, "channels": json.dumps(CHANNELS), "created": BEGIN}
    conn.execute(insert(t.streams).values(row))
    tasks = [
        {"id": n, "stream_id": 1, "number": n, "kind": "normal", "fingerprint": "[]", "created": 1}
        for n in range(1, TASKS + 1)
    ]
    conn.execute(insert(t.tasks), tasks)
    contents = [_weights(seed) for seed in range(WEIGHTS)]
    rows = [
        {"sha256": sha(c), "kind": "weights", "content": c, "size": len(c), "created": BEGIN}
        for c in contents
    ]
    conn.execute(insert(t.artifacts), rows)


def _weights(seed: int) -> bytes:
    """A network of 16 readings of 8 sensors through 64 hidden ones, as large as the default's."""
    rng = np.random.default_rng(seed)
    shapes = {"model.0.weight": (64, 128), "model.0.bias": (64,), "model.2.weight": (8, 64)}
    return save({name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()})


def sha(content: bytes) -> str:
    """Hash of bytes."""
    return hashlib.sha256(content).hexdigest()


def _readings(number: int) -> str:
    return sha(b"readings %d" % number)


def _chunks(size: Size) -> Iterator[Mapping[str, Sequence[dict[str, Any]]]]:
    """Rows of all that comes with versions, some versions at a time, parents before children."""
    weights, entry, champion = [sha(_weights(seed)) for seed in range(WEIGHTS)], 0, None
    spans: list[dict[str, Any]] = []
    for first in range(1, size.versions + 1, ROWS):
        rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("requests", "request_inputs", "versions", "promotions", "ledger")
        }
        for n in range(first, min(first + ROWS, size.versions + 1)):
            version = _version(n, champion, weights[n % WEIGHTS])
            rows["requests"].append(_request(n))
            rows["request_inputs"] += _request_inputs(n)
            rows["versions"].append(version)
            facts: list[tuple[str, int, dict[str, Any]]] = [("version", time_of(n), version)]
            if version["status"] != "rejected":
                spans, acts = _promoted(spans, n, champion)
                facts += acts
                champion = spans[-1]["version_id"]
            for kind, at, told in facts:
                entry += 1
                rows["ledger"].append(_entry(entry, kind, at, told))
        done = len(spans) if first + ROWS > size.versions else len(spans) - 1
        rows["promotions"], spans = spans[:done], spans[done:]
        if first + ROWS > size.versions:
            last = next(v for v in reversed(rows["versions"]) if v["id"] == champion)
            last["status"] = "champion"
        yield {name: some for name, some in rows.items() if some}


def _promoted(
    spans: list[dict[str, Any]], n: int, champion: int | None
) -> tuple[list[dict[str, Any]], list[tuple[str, int, dict[str, Any]]]]:
    """The times live with a version's, and the ledger's facts; each fiftieth is left again."""
    at = time_of(n)
    if spans:
        spans[-1]["live_until"] = at
    said = {"actor": "gate", "reason": "better", "stream_id": 1, "live_until": None}
    spans = [*spans, said | {"version_id": n, "live_from": at}]
    facts = [("promotion", at, {"version": n, "instead_of": champion, "reason": "better"})]
    if champion is not None and n % 100 == 1:
        left = at + APART // 2
        spans[-1]["live_until"] = left
        back = said | {"actor": "rollback", "reason": "mean score 4.1"}
        spans = [*spans, back | {"version_id": champion, "live_from": left}]
        facts.append(("rollback", left, {"version": n, "to": champion, "reason": back["reason"]}))
    return spans, facts


def _request(n: int) -> dict[str, Any]:
    place = {"partition": n % PARTITIONS, "series": f"machine-{(n // PARTITIONS) % SERIES}"}
    return place | {
        "id": n,
        "stream_id": 1,
        "reason": "boundary",
        "status": "done",
        "actor": "tidemark",
        "note": "",
        "segment": n // (PARTITIONS * SERIES) + 1,
        "inputs": json.dumps({"segment": _readings(n), "reservoir": sha(b"reservoir %d" % n)}),
        "task_id": n % TASKS + 1,
        "fence": 1,
        "attempts": 1,
        "created": time_of(n),
        "finished": time_of(n),
        "outcome": f"version {n}",
    }


def _request_inputs(n: int) -> list[dict[str, Any]]:
    empty = dict.fromkeys(("readings", "first_offset", "last_offset", "until"))
    extent = {"readings": 256, "first_offset": n, "last_offset": n + 255, "until": time_of(n)}
    return [
        {"request_id": n, "role": "segment", "sha256": _readings(n)} | extent,
        {"request_id": n, "role": "reservoir", "sha256": sha(b"reservoir %d" % n)} | empty,
    ]


def _version(n: int, champion: int | None, weights: str) -> dict[str, Any]:
    earlier = [max(n - k, 1) for k in range(1, 1 + 4 * TASKS)]
    inputs = {
        "segments": [[n % TASKS + 1, _readings(n)]],
        "held_out": {k + 1: [_readings(e) for e in earlier[k::TASKS]] for k in range(TASKS)},
        "ended": [_readings(max(n - 1, 1))],
        "reservoirs": [sha(b"reservoir %d" % max(n - k, 1)) for k in range(PARTITIONS)],
        "replayed": {k + 1: 500 for k in range(TASKS)},
    }
    effect = {"mean": 0.5, "low": 0.25, "high": 0.75, "windows": 40}
    tasks = range(1, TASKS + 1)
    figures = {
        "min_gain": 0.02,
        "max_forgetting": 0.05,
        "confidence": 0.95,
        "gain": effect,
        "skills": dict.fromkeys(tasks, 0.75),
        "changes": dict.fromkeys(tasks, effect),
    }
    return {
        "id": n,
        "stream_id": 1,
        "number": n,
        "parent_id": champion,
        "request_id": n,
        "sha256": weights,
        "ewc_sha256": weights,
        "status": "rejected" if n % 2 == 0 else "retired",
        "decision": "the new task got better by 0.500 (0.250 to 0.750 at 95%)",
        "figures": ledger.canonical(figures),
        "strategy": "ewc_replay",
        "seed": n,
        "inputs": ledger.canonical(inputs),
        "settings": ledger.canonical({"learn": {"epochs": 20, "lr": 0.006, "batch": 64 + n % 2}}),
        "code_version": "0.1.0",
        "created": time_of(n),
        "rejected": time_of(n) if n % 2 == 0 else None,
    }


def _entry(number: int, kind: str, at: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Its chain is not looked at here; the hash is only as long, and another for each."""
    return {
        "id": number,
        "stream_id": 1,
        "at": at,
        "kind": kind,
        "actor": "tidemark",
        "entry": ledger.canonical(facts),
        "previous": sha(b"entry %d" % (number - 1)),
        "hash": sha(b"entry %d" % number),
    }
