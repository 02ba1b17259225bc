"""The audit's questions as SQL views that any tool can read, the same on SQLite and PostgreSQL.

Streams, versions and tasks go by their names and numbers, not by the tables' keys. A time is
ISO 8601 text in UTC, which sorts; `..._us` beside it is the same in microseconds since 1970.
Intervals are half-open. What each column means is in the README.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect


class _Sqlite:
    """SQL as SQLite says it."""

    settings = "json_each(v.settings) c CROSS JOIN json_each(c.value) k"
    setting = "c.value -> k.fullkey"
    #: (task, hash) pairs of `segments`; (task, list of hashes) of `held_out`.
    pairs = "json_each(v.inputs, '$.segments') e"
    task, hash = "json_extract(e.value, '$[0]')", "json_extract(e.value, '$[1]')"
    nested = "json_each(v.inputs, '$.held_out') o CROSS JOIN json_each(o.value) e"

    @staticmethod
    def time(column: str) -> str:
        """ISO 8601; the calendar's functions know whole seconds, and floor those before 1970."""
        rest = f"(({column} % 1000000 + 1000000) % 1000000)"
        seconds = f"(({column} - {rest}) / 1000000)"
        return (
            f"strftime('%Y-%m-%dT%H:%M:%S', {seconds}, 'unixepoch') || "
            f"printf('.%06d+00:00', {rest})"
        )

    @staticmethod
    def each(role: str) -> str:
        """Items of a list, or keys and values of an object, among a version's inputs."""
        return f"json_each(v.inputs, '$.{role}') e"

    items = each

    @staticmethod
    def at(json: str, *path: str) -> str:
        """A value inside JSON."""
        return f"json_extract({json}, '$.{'.'.join(path)}')"


class _Postgresql:
    """SQL as PostgreSQL says it."""

    settings = "json_each(v.settings::json) c CROSS JOIN json_each(c.value) k"
    setting = "k.value::text"
    pairs = "json_array_elements(v.inputs::json -> 'segments') e"
    task, hash = "(e.value ->> 0)", "(e.value ->> 1)"
    nested = (
        "json_each(v.inputs::json -> 'held_out') o CROSS JOIN json_array_elements_text(o.value) e"
    )

    @staticmethod
    def time(column: str) -> str:
        """ISO 8601; seconds and the rest apart, since intervals are multiplied as floats."""
        moment = (
            f"timestamp 'epoch' + {column} / 1000000 * interval '1 second' "
            f"+ mod({column}, 1000000) * interval '1 microsecond'"
        )
        return f"to_char({moment}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || '+00:00'"

    @staticmethod
    def each(role: str) -> str:
        """Keys and values of an object among a version's inputs."""
        return f"json_each_text(v.inputs::json -> '{role}') e"

    @staticmethod
    def items(role: str) -> str:
        """Items of a list among a version's inputs."""
        return f"json_array_elements_text(v.inputs::json -> '{role}') e"

    @staticmethod
    def at(json: str, *path: str) -> str:
        """A value inside JSON."""
        return f"({json}::json #>> '{{{','.join(path)}}}')"


Dialect = type[_Sqlite] | type[_Postgresql]


def create_views(conn: Connection) -> None:
    """Make the views, in the dialect of the database."""
    for name, query in _queries(conn).items():
        conn.exec_driver_sql(f"CREATE VIEW {name} AS {query}")


def drop_views(conn: Connection) -> None:
    """Take the views away: as long as one reads a table, that cannot be rebuilt."""
    for name in sorted(_queries(conn).keys() & set(inspect(conn).get_view_names())):
        conn.exec_driver_sql(f"DROP VIEW {name}")


def _queries(conn: Connection) -> dict[str, str]:
    d: Dialect = _Postgresql if conn.dialect.name == "postgresql" else _Sqlite
    return {
        "audit_live": _live(d),
        "audit_why": _why(d),
        "audit_data": _data(d),
        "audit_metrics": _metrics(d),
        "audit_decided": _decided(d),
        "audit_rejected": _rejected(d),
        "audit_scored": _SCORED,
        "audit_lineage": _lineage(d),
        "audit_settings": _settings(d),
    }


def _live(d: Dialect) -> str:
    return f"""
        SELECT s.name AS stream, v.number AS version, v.sha256,
            {d.time("p.live_from")} AS live_from, {d.time("p.live_until")} AS live_until,
            p.live_from AS live_from_us, p.live_until AS live_until_us, p.actor, p.reason
        FROM promotions p
        JOIN versions v ON v.id = p.version_id
        JOIN streams s ON s.id = p.stream_id"""


def _why(d: Dialect) -> str:
    return f"""
        SELECT s.name AS stream, v.number AS version, r.id AS request, r.reason AS trained_because,
            r.actor, r.note, {d.time("r.created")} AS requested_at, {d.time("r.due")} AS due,
            r."partition", r.series, r.segment, b.boundary_offset, b.detected_offset,
            {d.time("b.boundary_time")} AS boundary_at, {d.time("b.detected_time")} AS detected_at,
            b.signal, b.statistic, b.threshold, b.detectors, b.sensors,
            t.number AS task, t.kind AS task_kind, t.name AS task_name
        FROM versions v
        JOIN streams s ON s.id = v.stream_id
        JOIN requests r ON r.id = v.request_id OR r.folded_into = v.request_id
        LEFT JOIN boundaries b ON b.stream_id = r.stream_id AND b."partition" = r."partition"
            AND b.series = r.series AND b.segment = r.segment
        LEFT JOIN tasks t ON t.id = r.task_id"""


def _data(d: Dialect) -> str:
    """One query a use, since no database looks through a list of alternatives for an index."""
    task = "CAST({} AS INTEGER)"
    uses = [
        ("learned", task.format(d.task), "NULL", d.hash, d.pairs),
        ("held_out", task.format("o.key"), "NULL", "e.value", d.nested),
        *((use, "NULL", "NULL", "e.value", d.items(use)) for use in ("ended", "earlier")),
        ("reservoir", "NULL", "NULL", "e.value", d.items("reservoirs")),
        ("replayed", task.format("e.key"), "CAST(e.value AS INTEGER)", "NULL", d.each("replayed")),
    ]
    return " UNION ALL ".join(_used(d, *use) for use in uses)


def _used(d: Dialect, use: str, task: str, windows: str, sha256: str, source: str) -> str:
    """What a version was made from in one way, and the first request that brought it."""
    first = (
        "(SELECT MIN(x.request_id) FROM request_inputs x JOIN requests q ON q.id = x.request_id "
        f"WHERE x.sha256 = {sha256} AND q.stream_id = v.stream_id)"
    )
    return f"""
        SELECT s.name AS stream, v.number AS version, '{use}' AS used_as, t.number AS task,
            r."partition", r.series, r.segment, i.readings, i.first_offset, i.last_offset,
            {d.time("b.boundary_time")} AS since, {d.time("i.until")} AS until,
            CAST({windows} AS INTEGER) AS windows, CAST({sha256} AS VARCHAR(64)) AS sha256
        FROM versions v
        JOIN streams s ON s.id = v.stream_id
        CROSS JOIN {source}
        LEFT JOIN tasks t ON t.id = {task}
        LEFT JOIN request_inputs i ON i.request_id = {first} AND i.sha256 = {sha256}
        LEFT JOIN requests r ON r.id = i.request_id
        LEFT JOIN boundaries b ON b.stream_id = r.stream_id AND b."partition" = r."partition"
            AND b.series = r.series AND b.segment = r.segment AND i.role = 'segment'"""


def _metrics(d: Dialect) -> str:
    made = "v.created"
    figures = (
        ("m.name", "NULL", "m.value", "metrics", made),
        ("'skill'", "t.number", "m.skill", "evaluations", made),
        ("'parent_skill'", "t.number", "m.parent_skill", "evaluations", made),
        ("'skill_again'", "t.number", "m.skill", "measurements", "m.measured"),
    )
    return " UNION ALL ".join(
        f"""
        SELECT s.name AS stream, v.number AS version, {name} AS name,
            CAST({task} AS INTEGER) AS task, {value} AS value,
            {d.time(measured)} AS measured_at
        FROM versions v
        JOIN streams s ON s.id = v.stream_id
        JOIN {rows} m ON m.version_id = v.id
        {"" if task == "NULL" else "JOIN tasks t ON t.id = m.task_id"}
        WHERE {value} IS NOT NULL"""
        for name, task, value, rows, measured in figures
    )


def _decided(d: Dialect) -> str:
    def figure(*path: str) -> str:
        return f"CAST({d.at('v.figures', *path)} AS DOUBLE PRECISION)"

    none = ", NULL" * 7
    gate = "v.figures, CAST(NULL AS INTEGER) AS back_to, e.number AS envelope, j.outside"
    return f"""
        SELECT s.name AS stream, v.number AS version,
            CASE WHEN v.rejected IS NOT NULL AND r.id IS NULL THEN 'rejected'
                WHEN w.id IS NOT NULL THEN 'waiting' ELSE 'promoted' END AS decision,
            {d.time("v.created")} AS decided_at, v.created AS decided_at_us, 'gate' AS actor,
            v.decision AS reason, {figure("min_gain")} AS min_gain,
            {figure("max_forgetting")} AS max_forgetting, {figure("confidence")} AS confidence,
            {figure("gain", "mean")} AS gain, {figure("gain", "low")} AS gain_low,
            {figure("gain", "high")} AS gain_high, {gate}
        FROM versions v
        JOIN streams s ON s.id = v.stream_id
        LEFT JOIN judgements j ON j.version_id = v.id
        LEFT JOIN envelopes e ON e.id = j.envelope_id
        {_told(d, "w", "waiting", "v.created")}
        {_told(d, "r", "refused", "v.rejected")}
        UNION ALL
        SELECT s.name, v.number, 'refused', {d.time("l.at")}, l.at, l.actor,
            {d.at("l.entry", "reason")}{none}, NULL, NULL, NULL
        FROM versions v
        JOIN streams s ON s.id = v.stream_id
        {_told(d, "l", "refused", "v.rejected", join="JOIN")}
        UNION ALL
        SELECT s.name, v.number,
            CASE {d.at("l.entry", "was")} WHEN 'waiting' THEN 'approved' ELSE 'promoted' END,
            {d.time("l.at")}, l.at, l.actor, {d.at("l.entry", "reason")}{none}, NULL, NULL, NULL
        FROM versions v
        JOIN streams s ON s.id = v.stream_id
        JOIN promotions p ON p.version_id = v.id
        {_told(d, "l", "promotion", "p.live_from", join="JOIN")}
        WHERE l.actor <> 'gate'
        UNION ALL
        SELECT s.name, v.number, 'rolled_back', {d.time("l.at")}, l.at, l.actor,
            {d.at("l.entry", "reason")}{none}, back.number, NULL, NULL
        FROM ledger l
        JOIN streams s ON s.id = l.stream_id
        JOIN versions v ON v.id = CAST({d.at("l.entry", "version")} AS INTEGER)
        JOIN versions back ON back.id = CAST({d.at("l.entry", "to")} AS INTEGER)
        WHERE l.kind = 'rollback'"""


def _told(d: Dialect, name: str, kind: str, at: str, *, join: str = "LEFT JOIN") -> str:
    """The ledger's entry of a kind about a version, by its time."""
    return (
        f"{join} ledger {name} ON {name}.stream_id = v.stream_id AND {name}.kind = '{kind}' "
        f"AND {name}.at = {at} AND CAST({d.at(f'{name}.entry', 'version')} AS INTEGER) = v.id"
    )


def _rejected(d: Dialect) -> str:
    return f"""
        SELECT s.name AS stream, v.number AS version, parent.number AS parent,
            q.reason AS trained_because, q.actor, {d.time("v.rejected")} AS rejected_at,
            v.rejected AS rejected_at_us, COALESCE(r.actor, 'gate') AS rejected_by,
            COALESCE({d.at("r.entry", "reason")}, v.decision) AS reason, v.figures, v.sha256
        FROM versions v
        JOIN streams s ON s.id = v.stream_id
        JOIN requests q ON q.id = v.request_id
        LEFT JOIN versions parent ON parent.id = v.parent_id
        {_told(d, "r", "refused", "v.rejected")}
        WHERE v.rejected IS NOT NULL"""


_SCORED = """
        SELECT s.name AS stream, c."partition", c.first_offset, c.end_offset, v.number AS version,
            v.sha256
        FROM scored c
        JOIN versions v ON v.id = c.version_id
        JOIN streams s ON s.id = c.stream_id"""


def _lineage(d: Dialect) -> str:
    return f"""
        SELECT s.name AS stream, v.number AS version, parent.number AS parent,
            r.reason AS trained_because, v.status, v.decision, {d.time("v.created")} AS made_at,
            v.created AS made_at_us, v.strategy, v.seed, v.code_version, v.sha256
        FROM versions v
        JOIN streams s ON s.id = v.stream_id
        JOIN requests r ON r.id = v.request_id
        LEFT JOIN versions parent ON parent.id = v.parent_id"""


def _settings(d: Dialect) -> str:
    return f"""
        SELECT s.name AS stream, v.number AS version, c.key AS section, k.key AS name,
            {d.setting} AS value
        FROM versions v
        JOIN streams s ON s.id = v.stream_id
        CROSS JOIN {d.settings}"""
