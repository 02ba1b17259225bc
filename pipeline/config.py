"""Settings in, one frozen object out: a TOML file, overridden by the environment, read once.

Every key has a unit, a default and a line of help; `tidemark config` prints them, the README's
table is made of them, and what is unknown, of the wrong type or out of range stops the start.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from pipeline.errors import SettingsError
from pipeline.records import EVENTS

#: Before a section's and a key's name: TIDEMARK_KAFKA_BOOTSTRAP_SERVERS.
PREFIX = "TIDEMARK_"
#: Names the TOML file itself.
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
#: Behind a setting's variable: that of a file with the value, as secrets are mounted.
IN_FILE = "_FILE"
#: What must not be seen, by section and key.
SECRETS = (("kafka", "sasl_password"), ("kafka", "ssl_password"))

#: No setting is larger: it still fits Kafka's and SQL's integers, and infinity is out.
LARGEST = 2**31 - 1
#: As milliseconds it still fits SQLite's integer.
LONGEST_BUSY_S = LARGEST // 1000

#: The first brokers that fence a transaction by the membership of whoever sends it (KIP-447).
TRANSACTIONS_SINCE = (2, 5)
_WRITE_SCHEDULE = (
    'write [[schedule]] with name = "retrain", cron = "30 2 * * *" and timezone = "UTC"'
)
#: What was a variable once, and what to do now.
_GONE = {
    f"{PREFIX}SCHEDULE_{name}": f"is no setting any more: {_WRITE_SCHEDULE} into the file"
    for name in ("RETRAIN_CRON", "TIMEZONE")
}

#: Characters of what signs a webhook's messages, at least.
SHORTEST_SECRET = 16

Count = Annotated[int, Meta(ge=1, le=LARGEST)]
Positive = Annotated[float, Meta(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Meta(ge=0, le=LARGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]


def _check_zone(name: str) -> None:
    """Raise ValueError unless there is such a time zone."""
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise ValueError(f"timezone: there is no {name!r}") from None


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the TOML file."""


class Kafka(Section, frozen=True, kw_only=True):
    """The broker, and how records are fetched."""

    bootstrap_servers: Annotated[
        str,
        Meta(
            pattern=r"^[^\s,]+:\d+(\s*,\s*[^\s,]+:\d+)*$",
            description="Brokers, as host:port, separated by commas",
        ),
    ] = "127.0.0.1:9092"
    group_id: Annotated[str, Meta(min_length=1, description="Consumer group of the stream")] = (
        "tidemark"
    )
    api_version: Annotated[
        str,
        Meta(
            pattern=r"^(\d+\.\d+(\.\d+)?)?$",
            description="Protocol to speak, such as 2.3; empty: ask the broker",
        ),
    ] = ""
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
        Meta(description="How to talk to the broker"),
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[
        str, Meta(description="SASL mechanism, such as SCRAM-SHA-512; empty: none")
    ] = ""
    sasl_username: Annotated[str, Meta(description="SASL user name")] = ""
    sasl_password: Annotated[
        str, Meta(description="SASL password; better given by the environment")
    ] = ""
    ssl_cafile: Annotated[str, Meta(description="File of trusted certificates (PEM)")] = ""
    ssl_certfile: Annotated[
        str, Meta(description="File of our own certificate (PEM), if the broker wants one")
    ] = ""
    ssl_keyfile: Annotated[str, Meta(description="File of its private key (PEM)")] = ""
    ssl_password: Annotated[
        str, Meta(description="Password of the private key; better given by the environment")
    ] = ""
    ssl_check_hostname: Annotated[
        bool, Meta(description="The broker's certificate has to name its host")
    ] = True
    max_poll_records: Annotated[Count, Meta(description="Records taken by one poll, at most")] = (
        5000
    )
    max_message_bytes: Annotated[
        Count, Meta(description="A larger record is a dead letter, in bytes")
    ] = 1_000_000
    session_timeout_ms: Annotated[
        int,
        Meta(ge=1000, le=LARGEST, description="A silent process loses its partitions after, in ms"),
    ] = 45_000
    group_instance_id: Annotated[
        str,
        Meta(description="Name of this process that outlives a restart, its own; empty: none"),
    ] = ""
    assignment: Annotated[
        Literal["range", "cooperative-sticky"],
        Meta(description="How the group shares partitions out; the same for all of its members"),
    ] = "range"
    max_poll_interval_ms: Annotated[
        Count, Meta(description="Longest time between two polls, in ms")
    ] = 300_000
    auto_offset_reset: Annotated[
        Literal["earliest", "latest"],
        Meta(description="Where a new stream starts; a partition added later: at its beginning"),
    ] = "earliest"
    out_of_range: Annotated[
        Literal["fail", "earliest", "latest"],
        Meta(description="Records are lost to retention: end, or go on with what there is"),
    ] = "fail"
    isolation_level: Annotated[
        Literal["read_committed", "read_uncommitted"],
        Meta(description="Whether readings of a transaction wait for its commit"),
    ] = "read_committed"
    fetch_max_bytes: Annotated[
        Count,
        Meta(description="Fetched from one broker at once, at most, in bytes as they lie there"),
    ] = 16 * 2**20
    max_partition_fetch_bytes: Annotated[
        Count, Meta(description="Fetched of one partition at once, at most, in bytes")
    ] = 2**20
    compression: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"],
        Meta(description="Codec of what tidemark publishes"),
    ] = "lz4"
    exactly_once: Annotated[
        bool,
        Meta(description="Publish results in Kafka transactions, each once; needs Kafka 2.5"),
    ] = False

    def __post_init__(self) -> None:
        if self.exactly_once and self.isolation_level != "read_committed":
            raise ValueError("exactly_once needs isolation_level = read_committed")
        if self.exactly_once and self.api_version and self.protocol < TRANSACTIONS_SINCE:
            raise ValueError(f"exactly_once needs Kafka 2.5, and api_version is {self.api_version}")

    @property
    def protocol(self) -> tuple[int, ...]:
        """api_version as numbers; none if it is empty."""
        return tuple(int(part) for part in self.api_version.split(".") if part)


class Stream(Section, frozen=True, kw_only=True):
    """The topic, and how a message becomes readings."""

    topic: Annotated[str, Meta(min_length=1, description="Topic with the sensor readings")] = (
        "readings"
    )
    series: Annotated[
        str,
        Meta(
            pattern=r"^(key|topic|field:(?!(time|values)$).+)$",
            description="What names a series: key, topic (one series) or field:NAME",
        ),
    ] = "key"
    label: Annotated[
        str,
        Meta(
            pattern=r"^(?!(time|values)$).*$",
            description="Field with a reading's label, for a classifier; empty: none",
        ),
    ] = ""
    channels: Annotated[
        tuple[str, ...],
        Meta(description="Names of the sensors, in order; empty: as the first reading has them"),
    ] = ()
    time_unit: Annotated[
        Literal["s", "ms", "us"], Meta(description="Unit of times given as numbers since 1970")
    ] = "s"
    max_channels: Annotated[
        Count, Meta(description="A first reading with more is a dead letter")
    ] = 256
    max_series: Annotated[
        Count, Meta(description="Readings of further series in a partition are dead letters")
    ] = 10_000
    max_future_s: Annotated[
        Positive,
        Meta(description="A time that its record's own is behind by more is bad, in seconds"),
    ] = 86_400.0
    publish_scores: Annotated[
        bool, Meta(description="Publish scores to TOPIC.scores (boundaries always go out)")
    ] = True
    publish_events: Annotated[
        bool, Meta(description="Publish every event to TOPIC.events; `tidemark notify` does")
    ] = True

    def __post_init__(self) -> None:
        if (n := len(self.channels)) > self.max_channels:
            raise ValueError(
                f"channels has {n} names, more than max_channels ({self.max_channels})"
            )
        if self.label and self.series == f"field:{self.label}":
            raise ValueError(f"label: the field {self.label} names the series")

    @property
    def result_topics(self) -> tuple[str, ...]:
        """Where scores, boundaries, events and dead letters go."""
        scores = ("scores",) if self.publish_scores else ()
        return tuple(f"{self.topic}.{kind}" for kind in (*scores, "boundaries", "events", "dead"))


class Database(Section, frozen=True, kw_only=True):
    """Where everything is kept."""

    url: Annotated[
        str,
        Meta(min_length=1, description="SQLAlchemy URL, sqlite:///FILE or postgresql://..."),
    ] = "sqlite:///tidemark.db"
    busy_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=LONGEST_BUSY_S,
            description="Longest wait for another writer (SQLite), in seconds",
        ),
    ] = 30.0


class Score(Section, frozen=True, kw_only=True):
    """The model that scores each reading."""

    model: Annotated[
        str,
        Meta(
            pattern=r"^(forecaster|autoencoder|regressor|classifier|[\w.]+:\w+)$",
            description="Forecaster, autoencoder, regressor, classifier; or your MODULE:FACTORY",
        ),
    ] = "forecaster"
    form: Annotated[
        Literal["mlp", "gru", "tcn"],
        Meta(description="Its network: perceptron, gated recurrent or dilated convolutions"),
    ] = "mlp"
    target: Annotated[
        int,
        Meta(
            ge=-1,
            le=LARGEST,
            description="Channel, from 0, that a regressor or classifier tells; -1: none",
        ),
    ] = -1
    classes: Annotated[
        tuple[str, ...],
        Meta(description="A classifier's classes: its labels, or 0, 1, ... in its target channel"),
    ] = ()
    window: Annotated[Count, Meta(description="Readings that it looks back on")] = 16
    hidden: Annotated[Count, Meta(description="Width of its hidden layers; tcn: half of it")] = 64
    threads: Annotated[Count, Meta(description="Threads of torch in one process")] = 1

    @property
    def factory(self) -> str:
        """The user's "module:factory", if the model is one."""
        return self.model if ":" in self.model else ""


class Detect(Section, frozen=True, kw_only=True):
    """How boundaries are found, for each series by itself."""

    detectors: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="river detectors whose alarms open a watch"),
    ] = ("ADWIN", "PageHinkley")
    error_channel: Annotated[
        int,
        Meta(
            ge=-1,
            le=LARGEST,
            description="Channel, from 0, that is 1 where a prediction was wrong; -1: none",
        ),
    ] = -1
    profile: Annotated[
        Literal["default", "light"],
        Meta(
            description="How rich it is; light: levels and joint residual, in under half the state"
        ),
    ] = "default"
    warm_up: Annotated[
        int, Meta(ge=60, le=LARGEST, description="Readings behind the robust scale of a series")
    ] = 300
    fit_after: Annotated[
        int,
        Meta(ge=100, le=LARGEST, description="Readings behind the VAR(1) forecaster of a series"),
    ] = 1000
    watch: Annotated[
        Count, Meta(description="Readings after a river alarm in which a test may confirm")
    ] = 480
    settle_after: Annotated[
        int,
        Meta(
            ge=0,
            le=LARGEST,
            description="Readings without a crossing after which a transition is over",
        ),
    ] = 900
    false_boundaries_per_million: Annotated[
        Positive, Meta(description="Boundaries in a million readings where nothing changes")
    ] = 10.0


class Learn(Section, frozen=True, kw_only=True):
    """What a consolidation does."""

    adapt_after: Annotated[
        int, Meta(ge=64, le=LARGEST, description="Readings of a new segment before it is learned")
    ] = 256
    refine_after: Annotated[
        int,
        Meta(ge=0, le=LARGEST, description="Readings of a segment before it is refined; 0: never"),
    ] = 2000
    segment_capacity: Annotated[
        int, Meta(ge=64, le=LARGEST, description="Readings kept of an open segment, from its start")
    ] = 2000
    held_out: Annotated[
        float, Meta(gt=0, lt=0.6, description="Share of a segment kept apart for measuring")
    ] = 0.25
    reservoir_capacity: Annotated[
        Count, Meta(description="Windows kept for replay, for each partition")
    ] = 2000
    strategy: Annotated[
        Literal[
            "ewc_replay",
            "replay_only",
            "ewc_only",
            "fine_tune",
            "joint",
            "replay",
            "fifo",
            "ewc",
            "online_ewc",
            "der",
            "derpp",
        ],
        Meta(description="Method of consolidation"),
    ] = "ewc_replay"
    epochs: Annotated[Count, Meta(description="Passes over the new segment")] = 20
    batch: Annotated[Count, Meta(description="New windows in a step (and as many replayed)")] = 64
    lr: Annotated[
        Positive, Meta(description="Adam's largest learning rate; it rises, and falls to 0")
    ] = 6e-3
    ewc_lambda: Annotated[
        NotNegative | Literal["rule", "search"],
        Meta(description="Strength of EWC, 0: none; rule: the less is kept the more; or search"),
    ] = "rule"
    precision: Annotated[
        Literal["float32", "bfloat16"],
        Meta(description="Of a training's passes; bfloat16 is quick where the processor has it"),
    ] = "float32"
    gamma: Annotated[Share, Meta(description="Decay of the running Fisher at a boundary")] = 0.9
    fisher_rows: Annotated[Count, Meta(description="Windows behind the Fisher diagonal")] = 2000
    max_seconds: Annotated[
        Positive, Meta(description="A training that takes longer fails for good, in seconds")
    ] = 60.0
    max_steps: Annotated[
        int,
        Meta(ge=0, le=LARGEST, description="A training ends after so many steps; 0: by itself"),
    ] = 0
    new_tasks: Annotated[
        Literal["normal", "ask"],
        Meta(description="A new regime is learned, or waits for `tidemark task mark`"),
    ] = "normal"
    seed: Annotated[int, Meta(ge=0, le=LARGEST, description="Seed of everything random")] = 0


class Gate(Section, frozen=True, kw_only=True):
    """When a candidate becomes champion."""

    min_gain: Annotated[
        NotNegative, Meta(description="Least rise of the skill on the new task")
    ] = 0.02
    max_forgetting: Annotated[
        NotNegative, Meta(description="Largest fall of the skill on any old task")
    ] = 0.05
    confidence: Annotated[
        float, Meta(gt=0, lt=1, description="Of the intervals of gain and fall")
    ] = 0.95
    bootstrap: Annotated[
        int, Meta(ge=100, le=1_000_000, description="Draws behind an interval")
    ] = 1000
    rollback_after: Annotated[
        int,
        Meta(
            ge=0,
            le=LARGEST,
            description="Readings a champion scores too badly before it is rolled back; 0: never",
        ),
    ] = 500


class Retrain(Section, frozen=True, kw_only=True):
    """When a training is asked for, and when one may begin."""

    on_boundary: Annotated[
        bool, Meta(description="Boundaries are learned at once, or wait for another reason")
    ] = True
    on_metric_fall: Annotated[
        NotNegative,
        Meta(description="Live scores above those that the gate saw, as a share; 0: never"),
    ] = 0.0
    after_readings: Annotated[
        int,
        Meta(ge=0, le=LARGEST, description="Readings after which one is asked for; 0: never"),
    ] = 0
    at_most_every_s: Annotated[
        NotNegative, Meta(description="From one version to the next training, in seconds")
    ] = 0.0
    quiet_hours: Annotated[
        str,
        Meta(
            pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?\Z",
            description="No training begins then: HH:MM-HH:MM; empty: none",
        ),
    ] = ""
    timezone: Annotated[str, Meta(description="Time zone of quiet hours and of a day")] = "UTC"
    budget_per_day: Annotated[
        int, Meta(ge=0, le=LARGEST, description="Versions made on one day, at most; 0: any number")
    ] = 0

    def __post_init__(self) -> None:
        begin, _, end = self.quiet_hours.partition("-")
        if self.quiet_hours and begin == end:
            raise ValueError("quiet_hours: they begin and end at other times")
        _check_zone(self.timezone)


class Run(Section, frozen=True, kw_only=True):
    """The processes."""

    checkpoint_interval_s: Annotated[
        Positive, Meta(description="Time between two checkpoints, in seconds")
    ] = 10.0
    poll_timeout_s: Annotated[
        Positive, Meta(description="Longest wait for records in one poll, in seconds")
    ] = 0.5
    lease_s: Annotated[
        Positive, Meta(description="A silent trainer or scheduler is replaced after, in seconds")
    ] = 60.0
    max_attempts: Annotated[
        Count, Meta(description="A request that failed this often is given up")
    ] = 3
    restart_limit: Annotated[
        Count, Meta(description="Restarts of a crashed child before `run` gives up")
    ] = 5
    outage_limit_s: Annotated[
        NotNegative,
        Meta(description="A broker or database that is away is waited for, in seconds"),
    ] = 300.0
    timeline_series: Annotated[
        int,
        Meta(ge=0, description="Series of a partition summarised for charts, the first; 0: off"),
    ] = 100
    ready_file: Annotated[
        str,
        Meta(description="FILE.stream, .train, .schedule: there while it is ready; empty: none"),
    ] = ""
    metrics_port: Annotated[
        int, Meta(ge=0, le=65535, description="Prometheus metrics of the stream; 0: off")
    ] = 0
    metrics_host: Annotated[
        str, Meta(min_length=1, description="Where they answer, to anybody who reaches it")
    ] = "127.0.0.1"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="auto: console on a terminal, json elsewhere"),
    ] = "auto"


class Schedule(Section, frozen=True, kw_only=True):
    """What happens by the clock, a table each."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{1,64}\Z",
            description="Its own: letters, digits and _.-, at most 64",
        ),
    ]
    kind: Annotated[
        Literal["retrain", "evaluate", "verify", "prune", "anchor"],
        Meta(description="retrain, evaluate (measure the champion), verify, prune or anchor"),
    ] = "retrain"
    cron: Annotated[str, Meta(description="Crontab line at which it is due; or every_s")] = ""
    every_s: Annotated[
        float,
        Meta(ge=0, le=LARGEST, description="Or the time between two, from 1970 on, in seconds"),
    ] = 0.0
    timezone: Annotated[str, Meta(description="Time zone of the crontab line")] = "UTC"
    stream: Annotated[str, Meta(description="Whose champion; empty: that of stream.topic")] = ""
    jitter_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="It begins later by up to so much, in seconds"),
    ] = 0.0
    to: Annotated[str, Meta(description="Of an anchor: the FILE or kafka:TOPIC it goes to")] = ""
    key: Annotated[
        str, Meta(description="Of an anchor: file of the private key that signs it; empty: none")
    ] = ""

    def __post_init__(self) -> None:
        if bool(self.cron) == bool(self.every_s):
            raise ValueError(f"{self.name}: one of cron and every_s says when")
        if 0 < self.every_s < 1:
            raise ValueError(f"{self.name}: every_s is 1 at least, in seconds")
        if self.every_s and self.jitter_s >= self.every_s:
            raise ValueError(f"{self.name}: jitter_s is less than every_s")
        if self.stream and self.kind not in ("retrain", "evaluate"):
            raise ValueError(f"{self.name}: {self.kind} is of the whole database, not of a stream")
        if (self.kind == "anchor") != bool(self.to):
            raise ValueError(f"{self.name}: an anchor goes to a file or topic, and nothing else")
        if self.key and self.kind != "anchor":
            raise ValueError(f"{self.name}: a key signs anchors, and nothing else")
        _check_zone(self.timezone)


class Serve(Section, frozen=True, kw_only=True):
    """Answers over HTTP."""

    host: Annotated[
        str, Meta(min_length=1, description="Address to listen on; any but loopback needs tokens")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0: any free one")] = (
        8321
    )
    in_run: Annotated[bool, Meta(description="Whether `tidemark run` starts it too")] = False
    tokens: Annotated[
        Literal["auto", "always"],
        Meta(description="Who needs one; auto: nobody on loopback. Behind a proxy: always"),
    ] = "auto"
    tls_cert: Annotated[
        str, Meta(description="File of the server's certificate chain (PEM); empty: no TLS")
    ] = ""
    tls_key: Annotated[str, Meta(description="File of its private key (PEM)")] = ""
    requests_per_second: Annotated[
        Positive, Meta(description="Of one address, over ten seconds; more are refused")
    ] = 50.0
    request_timeout_s: Annotated[
        Positive, Meta(description="A request that takes longer to arrive is cut off, in seconds")
    ] = 10.0
    max_connections: Annotated[Count, Meta(description="More at once are refused")] = 200
    max_listeners: Annotated[Count, Meta(description="Of these, how many may wait for events")] = 50
    max_body_bytes: Annotated[Count, Meta(description="A larger body is refused, in bytes")] = (
        4_000_000
    )
    max_windows: Annotated[Count, Meta(description="Windows in one prediction")] = 10_000


class Audit(Section, frozen=True, kw_only=True):
    """What is kept for whoever asks later."""

    min_keep_days: Annotated[
        int, Meta(ge=1, le=36500, description="Nothing used more recently is pruned, in days")
    ] = 183


class Notify(Section, frozen=True, kw_only=True):
    """Who is told of what, a table each."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{1,40}\Z",
            description="Its own: letters, digits, _ and -, at most 40",
        ),
    ]
    url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s@]+)?\Z",
            description="Webhook, http or https; empty: the secret is what `apprise` reaches",
        ),
    ] = ""
    secret_file: Annotated[
        str, Meta(description="File of the secret that signs, or of apprise's URLs; or _variable")
    ] = ""
    secret_variable: Annotated[
        str,
        Meta(
            pattern=r"^((?!TIDEMARK_)[A-Za-z_][A-Za-z0-9_]*)?\Z",
            description="Environment variable of the same, by a name without TIDEMARK_",
        ),
    ] = ""
    kinds: Annotated[tuple[str, ...], Meta(description="Kinds of events; empty: all")] = ()
    streams: Annotated[
        tuple[str, ...], Meta(description="Streams, * stands for anything; empty: all")
    ] = ()
    severity: Annotated[Literal["info", "warning", "error"], Meta(description="Least severity")] = (
        "info"
    )
    at_most_every_s: Annotated[
        NotNegative,
        Meta(description="Between two messages of a stream; what comes meanwhile is one, in s"),
    ] = 0.0
    timeout_s: Annotated[
        Positive, Meta(description="A receiver that is silent for longer failed, in seconds")
    ] = 10.0
    give_up_after_s: Annotated[
        NotNegative, Meta(description="Events that are older are not sent any more; 0: all are")
    ] = 7 * 86_400.0

    def __post_init__(self) -> None:
        if bool(self.secret_file) == bool(self.secret_variable):
            raise ValueError(f"{self.name}: one of secret_file and secret_variable is needed")
        if unknown := [kind for kind in self.kinds if kind not in EVENTS]:
            raise ValueError(f"{self.name}: no kind {unknown[0]}; known: {', '.join(EVENTS)}")


class Settings(Section, frozen=True, kw_only=True):
    """Every knob."""

    kafka: Kafka = Kafka()
    stream: Stream = Stream()
    database: Database = Database()
    score: Score = Score()
    detect: Detect = Detect()
    learn: Learn = Learn()
    gate: Gate = Gate()
    retrain: Retrain = Retrain()
    run: Run = Run()
    serve: Serve = Serve()
    audit: Audit = Audit()
    schedule: tuple[Schedule, ...] = ()
    notify: tuple[Notify, ...] = ()

    def __post_init__(self) -> None:
        for table in ("schedule", "notify"):
            names = [each.name for each in getattr(self, table)]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{table}: two of them have the name {twice[0]}")


class Key(Struct, frozen=True, kw_only=True):
    """One setting as a person sees it."""

    section: str
    name: str
    #: None: it has to be given.
    default: Any
    help: str
    type: Any

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return f"{PREFIX}{self.section}_{self.name}".upper()


def sections() -> Iterator[tuple[str, type[Section]]]:
    """Name and class of each table that there is once, in order."""
    for name, hint in get_type_hints(Settings).items():
        if get_origin(hint) is None:
            yield name, hint


def arrays() -> Iterator[tuple[str, type[Section]]]:
    """Name and class of each table that there may be any number of: `[[name]]`."""
    for name, hint in get_type_hints(Settings).items():
        if get_origin(hint) is tuple:
            yield name, get_args(hint)[0]


def keys() -> Iterator[Key]:
    """Every setting of a table that there is once, in order."""
    for section, cls in sections():
        yield from _keys(section, cls)


def array_keys() -> Iterator[Key]:
    """Every setting of the other tables, in order; a section's name ends with []."""
    for name, cls in arrays():
        yield from _keys(f"{name}[]", cls)


def _keys(section: str, cls: type[Section]) -> Iterator[Key]:
    hints = get_type_hints(cls, include_extras=True)
    for field in msgspec.structs.fields(cls):
        yield Key(
            section=section,
            name=field.name,
            default=None if field.default is msgspec.NODEFAULT else field.default,
            help=_help(hints[field.name]),
            type=hints[field.name],
        )


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the TOML file (`path`, else TIDEMARK_CONFIG, else none), then the environment.

    Raises
    ------
    SettingsError
        One line that names the key: unknown, of the wrong type, or out of range.
    """
    environ = os.environ if environ is None else environ
    name = file_of(path, environ)
    tree = _read(name) if name else {}
    known: dict[str, Key | str] = {key.variable: key for key in keys()}
    known |= {f"{PREFIX}{name}".upper(): name for name, _ in arrays()}
    for variable, text in environ.items():
        named = variable.removesuffix(IN_FILE)
        if variable in known or named in known:
            if variable not in known:
                if named in environ:
                    raise SettingsError(f"{named} and {variable}: give one of them")
                text = _content(variable, Path(text))
            _override(tree, known.get(variable) or known[named], variable, text)
        elif variable in _GONE:
            raise SettingsError(f"{variable}: {_GONE[variable]}")
        elif variable.startswith(PREFIX) and variable != CONFIG_VARIABLE:
            raise SettingsError(f"{variable}: no such setting; `tidemark config` lists them all")
    if isinstance(tree.get("schedule"), dict):
        where = f"{name}: " if name else ""
        raise SettingsError(f"{where}[schedule] is no table any more: {_WRITE_SCHEDULE}")
    try:
        return msgspec.convert(tree, Settings)
    except msgspec.ValidationError as exc:
        raise SettingsError(_explain(str(exc), name)) from None


def file_of(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Path | None:
    """The TOML file: `path`, else TIDEMARK_CONFIG, else none."""
    environ = os.environ if environ is None else environ
    named = environ.get(CONFIG_VARIABLE)
    return path or (Path(named) if named else None)


def source(path: Path | None = None) -> str:
    """Where `load` reads from, for people."""
    return str(path or os.environ.get(CONFIG_VARIABLE) or "defaults and environment")


def plain_environment() -> dict[str, str]:
    """The environment without settings: those of a shell set up for something else."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def with_log_format(log_format: str) -> dict[str, str]:
    """The environment, with another format of the log."""
    return os.environ | {f"{PREFIX}RUN_LOG_FORMAT": log_format}


def as_toml(settings: Settings | None = None) -> str:
    """Every key with its help, unit and value, as a file that `load` reads back."""
    settings = settings or Settings()
    lines, every = [], list(keys())
    for section, cls in sections():
        lines += ["", f"# {(cls.__doc__ or '').splitlines()[0]}", f"[{section}]"]
        for key in (k for k in every if k.section == section):
            value = getattr(getattr(settings, section), key.name)
            lines += [f"# {key.help}", f"{key.name} = {toml_value(value)}"]
    for name, cls in arrays():
        lines += ["", f"# {(cls.__doc__ or '').splitlines()[0]}"]
        given = getattr(settings, name)
        if not given:
            lines += [f"# [[{name}]]", *(f"# {k.name}: {k.help}" for k in _keys(name, cls))]
        for each in given:
            lines += [f"[[{name}]]"]
            lines += [f"{f} = {toml_value(v)}" for f, v in msgspec.structs.asdict(each).items()]
    return "\n".join(lines[1:]) + "\n"


def as_markdown() -> str:
    """Every key with its default and help, as the README's table."""
    lines = ["| key | default | what it is |", "|---|---|---|"]
    for key in (*keys(), *array_keys()):
        default = "needed" if key.default is None else f"`{toml_value(key.default)}`"
        lines.append(f"| `{key.section}.{key.name}` | {default} | {key.help} |")
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A value as TOML writes it: as JSON does, but for one control character."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007F")


def digest(settings: Settings) -> str:
    """Sha256 of the settings without secrets: equal settings, equal digest."""
    import hashlib

    public = msgspec.to_builtins(settings)
    for section, name in SECRETS:
        public[section].pop(name)
    public["database"]["url"] = _without_password(settings.database.url)
    return hashlib.sha256(msgspec.json.encode(public, order="sorted")).hexdigest()


def deciding(settings: Settings) -> dict[str, Any]:
    """The sections that decide what is found, learned and promoted; there is no secret in them."""
    names = ("stream", "score", "detect", "learn", "gate", "retrain", "schedule")
    return {name: msgspec.to_builtins(getattr(settings, name)) for name in names}


def _without_password(url: str) -> str:
    """`scheme://user:secret@host/name?options` as `scheme://user@host/name`."""
    scheme, mark, rest = url.partition("?")[0].partition("://")
    who, at, where = rest.rpartition("@")
    return f"{scheme}{mark}{who.partition(':')[0]}{at}{where}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path}: not TOML: {exc}") from None


def _content(variable: str, path: Path) -> str:
    """What a file holds, without the line's end that editors leave."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as exc:
        raise SettingsError(f"{variable}: {path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{variable}: {path}: not UTF-8") from None


def _parse(variable: str, key: Key, text: str) -> Any:
    """A variable's text as its key's type: lists are separated by commas."""
    bare = get_args(key.type)[0]
    value: Any = text
    if get_origin(bare) is tuple:
        value = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.to_builtins(msgspec.convert(value, key.type, strict=False))
    except msgspec.ValidationError as exc:
        raise SettingsError(f"{variable}: {_in_words(str(exc), key.help)}") from None


def _override(tree: dict[str, Any], key: Key | str, variable: str, text: str) -> None:
    """Put a variable's value into what the file says; of an array of tables, in place of all."""
    if isinstance(key, str):
        try:
            read = tomllib.loads(f"{key} = {text}")
        except tomllib.TOMLDecodeError as exc:
            raise SettingsError(f"{variable}: no array of TOML's inline tables: {exc}") from None
        if read.keys() != {key}:
            raise SettingsError(f"{variable}: no array of TOML's inline tables: more follows")
        tree |= read
        return
    table = tree.setdefault(key.section, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{key.section}: expected a table, got {type(table).__name__}")
    table[key.name] = _parse(variable, key, text)


def _explain(message: str, path: Path | None) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.detect.watch`" with the key in front."""
    what, _, where = message.partition(" - at ")
    where = where.strip("`").removeprefix("$").lstrip(".")
    if "unknown field" in what:
        field = what.rsplit("`", 2)[-2]
        where, what = ".".join(filter(None, (where, field))), "no such setting"
    said = {f"{key.section}.{key.name}": key.help for key in (*keys(), *array_keys())}
    help_ = said.get(re.sub(r"\[(\d+|\.\.\.)\]", "[]", where), "")
    what = _in_words(what, help_)
    source = f"{path}: " if path else ""
    return f"{source}{where}: {what}" if where else f"{source}{what}"


def _in_words(what: str, help_: str) -> str:
    """A regular expression says nothing to people; the setting's help does."""
    return f"not allowed here: {help_}" if "matching regex" in what else what


def _help(hint: Any) -> str:
    return next((m.description for m in getattr(hint, "__metadata__", ()) if m.description), "")


def secret_of(rule: Notify, environ: Mapping[str, str] | None = None) -> str:
    """What signs a rule's messages, or says where apprise sends them.

    Raises
    ------
    SettingsError
        The file or variable is not there, or what signs is shorter than SHORTEST_SECRET.
    """
    environ = os.environ if environ is None else environ
    where = f"notify {rule.name}: {rule.secret_variable or rule.secret_file}"
    if rule.secret_file:
        found = _content(f"notify {rule.name}: secret_file", Path(rule.secret_file))
    else:
        found = environ.get(rule.secret_variable, "")
    if not found.strip():
        raise SettingsError(f"{where}: there is no secret")
    if rule.url and len(found) < SHORTEST_SECRET:
        raise SettingsError(f"{where}: a secret has {SHORTEST_SECRET} characters at least")
    return found


def notify_socket() -> str:
    """Where systemd listens for what becomes of this process; empty: nowhere."""
    return os.environ.get("NOTIFY_SOCKET", "")
