"""SQLAlchemy metadata; alembic reads it, nothing else creates a table.

Times are integers, microseconds since 1970 UTC. JSON is canonical text: sorted keys, no spaces.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: 64 bits on PostgreSQL; on SQLite INTEGER, which is 64 bits too and the only one to count itself.
BigKey = BigInteger().with_variant(Integer, "sqlite")

streams = Table(
    "streams",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("channels", Text, nullable=False),  # JSON list; [] until the first reading
    Column("created", BigInteger, nullable=False),
    Column("topic_id", String(36)),  # Kafka's own; NULL where the broker tells none
    Column("paused", BigInteger),  # since when nothing is trained; NULL: it is not
    Column("paused_by", Text),
    Column("paused_because", Text),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("stream_id", ForeignKey("streams.id"), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("epoch", BigInteger, nullable=False),  # + 1 with every owner, 0: none; fences writes
    Column("owner", String(255), nullable=False),
    Column("next_offset", BigInteger),  # NULL until the first checkpoint of a partition added later
    Column("state", LargeBinary),  # JSON: how the pieces are to be read
    Column("sha256", String(64)),
    Column("updated", BigInteger, nullable=False),
    Column("readings", BigInteger, nullable=False, server_default=text("0")),  # taken in so far
)

#: A partition's state: one row a series, the chunks of what only grows, the reservoir.
checkpoint_pieces = Table(
    "checkpoint_pieces",
    metadata,
    Column("stream_id", ForeignKey("streams.id"), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("crc32", BigInteger, nullable=False),
)

boundaries = Table(
    "boundaries",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("series", Text, nullable=False),
    Column("segment", Integer, nullable=False),  # the one that begins here
    Column("boundary_row", BigInteger, nullable=False),
    Column("detected_row", BigInteger, nullable=False),
    Column("boundary_offset", BigInteger, nullable=False),
    Column("detected_offset", BigInteger, nullable=False),
    Column("boundary_time", BigInteger, nullable=False),
    Column("detected_time", BigInteger, nullable=False),
    Column("end_row", BigInteger),  # NULL while the transition goes on
    Column("end_offset", BigInteger),
    Column("end_time", BigInteger),
    Column("signal", String(16), nullable=False),
    Column("statistic", Float, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("detectors", Text, nullable=False),  # JSON list of names
    Column("sensors", Text, nullable=False),  # JSON list of records.Change
    Column("recorded", BigInteger, nullable=False),
    UniqueConstraint("stream_id", "partition", "series", "segment"),
)

sensor_events = Table(
    "sensor_events",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("series", Text, nullable=False),
    Column("channel", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("row", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("recorded", BigInteger, nullable=False),
    UniqueConstraint("stream_id", "partition", "series", "channel", "row"),
    CheckConstraint(
        "kind IN ('sensor_silent', 'sensor_frozen', 'sensor_back')", name="known_event"
    ),
)

#: Records that Kafka no longer had when they were to be read: half-open.
gaps = Table(
    "gaps",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("went_on", String(8), nullable=False),  # earliest | latest, of what was left
    Column("recorded", BigInteger, nullable=False),
    UniqueConstraint("stream_id", "partition", "first_offset"),
    CheckConstraint("end_offset > first_offset", name="forward"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("number", Integer, nullable=False),  # 1, 2, ... within the stream
    # asked -> normal | fault | ignore, and from each of these to any other
    Column("kind", String(6), nullable=False),
    Column("fingerprint", Text, nullable=False),  # JSON: of its first readings, in their units
    Column("created", BigInteger, nullable=False),
    Column("name", String(100)),  # NULL until a person gives one
    UniqueConstraint("stream_id", "number"),
    CheckConstraint("kind IN ('normal', 'fault', 'ignore', 'asked')", name="known_kind"),
)

#: A task as each series has shown it: its final segments, merged.
task_prints = Table(
    "task_prints",
    metadata,
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("series", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),  # JSON, as detect/tasks.py makes it
)

#: What each segment was named, by the most that was seen of it so far.
segments = Table(
    "segments",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("series", Text, nullable=False),
    Column("segment", Integer, nullable=False),
    Column("task_id", ForeignKey("tasks.id"), nullable=False),
    Column("recurrence", Boolean, nullable=False),  # false: the task was made for it
    Column("distance", Float),  # to the nearest other task, in borders; NULL: there was none
    Column("rows", BigInteger, nullable=False),  # readings behind it; 0: a request's readings
    Column("final", Boolean, nullable=False),
    Column("named", BigInteger, nullable=False),
    UniqueConstraint("stream_id", "partition", "series", "segment"),
)
Index("ix_segments_task_id", segments.c.task_id)

artifacts = Table(
    "artifacts",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("pruned", BigInteger),  # when the content went; NULL: it is there
    Column("pruned_by", Text),
)

requests = Table(
    "requests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("reason", String(9), nullable=False),
    # pending -> claimed -> done | failed; claimed -> pending (given back, or the lease ended);
    # pending -> folded (another request takes it along) -> pending (if that one fails)
    Column("status", String(7), nullable=False),
    Column("actor", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("partition", Integer),
    Column("series", Text),
    Column("segment", Integer),
    Column("inputs", Text, nullable=False),  # JSON: role -> sha256
    Column("due", BigInteger),
    Column("task_id", ForeignKey("tasks.id")),
    Column("owner", String(255)),
    Column("lease_until", BigInteger),
    Column("fence", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("not_before", BigInteger),  # the pause after a failed attempt
    Column("folded_into", ForeignKey("requests.id")),
    Column("created", BigInteger, nullable=False),
    Column("finished", BigInteger),
    Column("outcome", Text),
    Column("without_task", Integer),  # number of the task that the version may not know
    Column("held", Text),  # the rule that held it back when it was looked at last
    Column(
        "readings", BigInteger, nullable=False, server_default=text("0")
    ),  # of the stream by then
    CheckConstraint(
        "status IN ('pending', 'claimed', 'done', 'failed', 'folded')", name="known_status"
    ),
    CheckConstraint(
        "reason IN ('bootstrap', 'boundary', 'refine', 'schedule', 'manual', 'evaluate', "
        "'metric', 'readings')",
        name="known_reason",
    ),
)
Index(
    "uq_requests_once_a_segment",
    requests.c.stream_id,
    requests.c.partition,
    requests.c.series,
    requests.c.segment,
    requests.c.reason,
    unique=True,
    postgresql_where=requests.c.partition.is_not(None),
    sqlite_where=requests.c.partition.is_not(None),
)
Index(
    "uq_requests_once_a_due_time",
    requests.c.stream_id,
    requests.c.reason,
    requests.c.due,
    unique=True,
    postgresql_where=requests.c.due.is_not(None),
    sqlite_where=requests.c.due.is_not(None),
)
#: One live claim a stream: two trainers never train one stream at once.
is_claimed = requests.c.status == "claimed"
Index(
    "uq_requests_one_claim",
    requests.c.stream_id,
    unique=True,
    postgresql_where=is_claimed,
    sqlite_where=is_claimed,
)
Index("ix_requests_status_id", requests.c.status, requests.c.id)
Index("ix_requests_task_id_id", requests.c.task_id, requests.c.id)
Index("ix_requests_folded_into", requests.c.folded_into)

#: The artifacts of `requests.inputs`, to be found by their hashes, and where their readings lie.
request_inputs = Table(
    "request_inputs",
    metadata,
    Column("request_id", ForeignKey("requests.id"), primary_key=True),
    Column("role", String(16), primary_key=True),  # segment | reservoir
    Column("sha256", String(64), nullable=False),
    Column("readings", Integer),  # NULL, as the rest: a reservoir, or nobody said
    Column("first_offset", BigInteger),
    Column("last_offset", BigInteger),
    Column("until", BigInteger),  # event time of the reading with which they were enough
)
Index("ix_request_inputs_sha256", request_inputs.c.sha256)

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("number", Integer, nullable=False),  # 1, 2, ... within the stream
    Column("parent_id", ForeignKey("versions.id")),  # NULL for a bootstrap
    Column("request_id", ForeignKey("requests.id"), nullable=False),
    Column("sha256", ForeignKey("artifacts.sha256"), nullable=False),  # weights
    Column("ewc_sha256", ForeignKey("artifacts.sha256")),
    # candidate -> champion -> retired | rolled_back -> champion; candidate -> rejected | waiting;
    # waiting -> champion | refused; by a person also rejected | refused -> champion
    Column("status", String(11), nullable=False),
    Column("decision", Text, nullable=False),  # the gate's sentence
    Column("figures", Text, nullable=False),  # JSON: what the gate looked at
    Column("strategy", String(32), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("inputs", Text, nullable=False),  # JSON: hashes of everything it was made from
    Column("settings", Text, nullable=False),  # JSON
    Column("code_version", String(32), nullable=False),
    Column("created", BigInteger, nullable=False),
    # when the gate or a person said no; it stays, whatever a person does with the version then
    Column("rejected", BigInteger),
    UniqueConstraint("stream_id", "number"),
    CheckConstraint(
        "status IN ('candidate', 'champion', 'retired', 'rejected', 'rolled_back', "
        "'waiting', 'refused')",
        name="known_status",
    ),
)
is_champion = versions.c.status == "champion"
Index(
    "uq_versions_one_champion",
    versions.c.stream_id,
    unique=True,
    postgresql_where=is_champion,
    sqlite_where=is_champion,
)
Index("ix_versions_request_id", versions.c.request_id)
Index("ix_versions_parent_id", versions.c.parent_id)
Index(
    "ix_versions_stream_id_status_created_number",
    versions.c.stream_id,
    versions.c.status,
    versions.c.created,
    versions.c.number,
)

Index(
    "ix_versions_stream_id_rejected_number",
    versions.c.stream_id,
    versions.c.rejected,
    versions.c.number,
)

#: Who was live when: half-open, [live_from, live_until); NULL: still.
promotions = Table(
    "promotions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("version_id", ForeignKey("versions.id"), nullable=False),
    Column("live_from", BigInteger, nullable=False),
    Column("live_until", BigInteger),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    CheckConstraint("live_until IS NULL OR live_until >= live_from", name="forward"),
)
is_live = promotions.c.live_until.is_(None)
Index(
    "uq_promotions_one_live",
    promotions.c.stream_id,
    unique=True,
    postgresql_where=is_live,
    sqlite_where=is_live,
)
Index("ix_promotions_stream_id_live_from", promotions.c.stream_id, promotions.c.live_from)
Index("ix_promotions_version_id", promotions.c.version_id)

metrics = Table(
    "metrics",
    metadata,
    Column("version_id", ForeignKey("versions.id"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("value", Float, nullable=False),
)

#: Rows of the error matrix R: a version's skill on each task's held-out readings.
evaluations = Table(
    "evaluations",
    metadata,
    Column("version_id", ForeignKey("versions.id"), primary_key=True),
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("skill", Float, nullable=False),
    Column("parent_skill", Float),
    Column("windows", Integer, nullable=False),
    Column("score_mean", Float),  # of its scores of those readings, and their spread
    Column("score_spread", Float),
)

#: What a champion's skill on each task was later: by the clock, on what was held out by then.
measurements = Table(
    "measurements",
    metadata,
    Column("request_id", ForeignKey("requests.id"), primary_key=True),
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("version_id", ForeignKey("versions.id"), nullable=False),
    Column("skill", Float, nullable=False),
    Column("windows", Integer, nullable=False),
    Column("measured", BigInteger, nullable=False),
)
Index("ix_measurements_version_id_measured", measurements.c.version_id, measurements.c.measured)

#: Which version scored which offsets: half-open, [first_offset, end_offset), without overlap.
scored = Table(
    "scored",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("version_id", ForeignKey("versions.id"), nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
    UniqueConstraint("stream_id", "partition", "first_offset"),
    CheckConstraint("end_offset > first_offset", name="forward"),
)

#: The series whose readings are summarised, in the order of their appearance in their partition.
timelines = Table(
    "timelines",
    metadata,
    Column("stream_id", ForeignKey("streams.id"), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("slot", Integer, primary_key=True),  # 0, 1, ... within the partition
    Column("series", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),  # readings summarised so far
    UniqueConstraint("stream_id", "partition", "series"),
)

#: Their readings in buckets: 64 * 4^level consecutive ones each; on level 0 the last may be open.
timeline_buckets = Table(
    "timeline_buckets",
    metadata,
    Column("stream_id", ForeignKey("streams.id"), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("level", Integer, primary_key=True),
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),
    Column("rows", BigInteger, nullable=False),
    Column("first_time", BigInteger, nullable=False),
    Column("last_time", BigInteger, nullable=False),
    Column("first_offset", BigInteger, nullable=False),
    Column("last_offset", BigInteger, nullable=False),
    # float32 (4, d + 1), little-endian: lowest, highest, mean, count of each sensor and the score
    Column("content", LargeBinary, nullable=False),
    sqlite_with_rowid=False,  # in the order of the key, in which they are read
)
is_finest = timeline_buckets.c.level == 0
Index(
    "ix_timeline_buckets_first_time",
    timeline_buckets.c.stream_id,
    timeline_buckets.c.partition,
    timeline_buckets.c.slot,
    timeline_buckets.c.first_time,
    postgresql_where=is_finest,
    sqlite_where=is_finest,
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", BigKey, primary_key=True, autoincrement=False),  # 1, 2, ... without a hole
    Column("stream_id", ForeignKey("streams.id")),
    Column("at", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("actor", Text, nullable=False),
    Column("entry", Text, nullable=False),  # canonical JSON
    Column("previous", String(64), nullable=False),  # hash of the entry before
    Column("hash", String(64), nullable=False, unique=True),
)
Index("ix_ledger_stream_id_kind_at", ledger.c.stream_id, ledger.c.kind, ledger.c.at)

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("until", BigInteger, nullable=False),
)

#: What became of dead letters; one without a row is open.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("stream_id", ForeignKey("streams.id"), primary_key=True),
    Column("partition", Integer, primary_key=True),  # of the bad record, as is its offset
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("sha256", String(64), primary_key=True),  # of key and value: a topic may be made anew
    # replaying -> replayed; dropped; from each of these back to replaying, if a person wants it
    Column("status", String(9), nullable=False),
    Column("searched_from", BigInteger),  # its replayed record lies here or later
    Column("replayed_offset", BigInteger),  # in the same partition
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided", BigInteger, nullable=False),
    CheckConstraint("status IN ('replaying', 'replayed', 'dropped')", name="known_status"),
)
Index(
    "ix_dead_letters_stream_id_partition_replayed_offset",
    dead_letters.c.stream_id,
    dead_letters.c.partition,
    dead_letters.c.replayed_offset,
)

#: Who may ask over HTTP. A token itself is told once and kept nowhere.
tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("role", String(8), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),  # of the whole token
    Column("actor", Text, nullable=False),  # who made it
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),  # NULL while it lets somebody in
    CheckConstraint("role IN ('reader', 'operator', 'approver')", name="known_role"),
)
#: A name acts in the ledger: one token of it at a time.
is_valid = tokens.c.revoked.is_(None)
Index(
    "uq_tokens_one_name",
    tokens.c.name,
    unique=True,
    postgresql_where=is_valid,
    sqlite_where=is_valid,
)

#: What people did, once each: the same request again gets the same answer.
acts = Table(
    "acts",
    metadata,
    Column("request_id", String(100), primary_key=True),
    Column("stream_id", ForeignKey("streams.id")),  # NULL: of all streams
    Column("asked", Text, nullable=False),  # JSON: stream, order, actor, reason
    Column("answer", Text, nullable=False),  # JSON, acts.Done
    Column("at", BigInteger, nullable=False),
)

#: Limits agreed beforehand; the highest number of a stream holds.
envelopes = Table(
    "envelopes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("stream_id", ForeignKey("streams.id"), nullable=False),
    Column("number", Integer, nullable=False),  # 1, 2, ... within the stream
    Column("limits", Text, nullable=False),  # JSON, envelope.Limits
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("stream_id", "number"),
)

#: Against which envelope a version was held, when it first might have become champion.
judgements = Table(
    "judgements",
    metadata,
    Column("version_id", ForeignKey("versions.id"), primary_key=True),
    Column("envelope_id", ForeignKey("envelopes.id"), nullable=False),
    Column("instead_of", ForeignKey("versions.id")),  # champion that it is to replace; NULL: none
    Column("outside", Text, nullable=False),  # JSON list of envelope.Passed; [] is inside
    Column("judged", BigInteger, nullable=False),
)

#: How far each [[notify]] rule has looked through the ledger.
notify_rules = Table(
    "notify_rules",
    metadata,
    Column("rule", Text, primary_key=True),
    Column("looked", BigInteger, nullable=False),  # every entry up to this one, for what it wants
    Column("since", BigInteger, nullable=False),
)

#: What a rule has still to tell of a stream, and how the last attempt went.
notifications = Table(
    "notifications",
    metadata,
    Column("rule", ForeignKey("notify_rules.rule"), primary_key=True),
    Column("stream", Text, primary_key=True),  # its name; empty: of no stream
    Column("first", BigInteger),  # entry to go on with; NULL: everything is told
    Column("last", BigInteger),  # of the message under way, if it tells of several
    Column("attempts", Integer, nullable=False),  # that failed since the last that did not
    Column("not_before", BigInteger),
    Column("error", Text),  # NULL: the last attempt did not fail
    Column("told", BigInteger),  # last entry that was told
    Column("told_at", BigInteger),
)

#: What happens by the clock, as a scheduler found it in its settings last.
schedules = Table(
    "schedules",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("definition", Text, nullable=False),  # JSON, config.Schedule
    Column("since", BigInteger, nullable=False),  # due times before it are nobody's
    Column("gone", BigInteger),  # when it was no longer in the settings; NULL: it is
    Column("paused", BigInteger),  # since when; NULL: it is not
    Column("paused_by", Text),
    Column("paused_because", Text),
)

#: What was done by the clock, or for a person who would not wait for it.
schedule_runs = Table(
    "schedule_runs",
    metadata,
    Column("schedule", String(64), primary_key=True),
    Column("due", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(8), nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    # asked -> begun (started, owner) -> over (finished, ok, outcome); begun again by another owner
    Column("started", BigInteger),
    Column("owner", String(255)),
    Column("finished", BigInteger),
    Column("ok", Boolean),
    Column("outcome", Text),
    Column("request_id", ForeignKey("requests.id")),
)
is_unfinished = schedule_runs.c.finished.is_(None)
Index(
    "ix_schedule_runs_unfinished",
    schedule_runs.c.due,
    postgresql_where=is_unfinished,
    sqlite_where=is_unfinished,
)
