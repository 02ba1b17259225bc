"""Settings: a mistake stops the start and names its key; what is printed can be read back."""

from __future__ import annotations

import math
import sqlite3
import tempfile
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from pipeline.config import (
    CONFIG_VARIABLE,
    LARGEST,
    Key,
    Schedule,
    Settings,
    Stream,
    array_keys,
    as_markdown,
    as_toml,
    digest,
    keys,
    load,
    toml_value,
)
from pipeline.errors import SettingsError

KEYS = list(keys())
#: Of what may be there any number of times: those that need no other.
SCHEDULES = st.fixed_dictionaries(
    {"name": st.text("abz019_.-", min_size=1, max_size=9), "cron": st.text(min_size=1)},
    optional={"timezone": st.just("Europe/Berlin"), "jitter_s": st.floats(0, 3600)},
)
#: Letters, and what TOML must escape or might mistake for its own.
ALPHABET = "abkeytopicfield:0123456789.- \"'\\#=[],\n\t\0\x1b\x7f\x85\u2028é☃𝄞"


def values(info: Any) -> st.SearchStrategy[Any]:
    """Every value that a setting's type and limits allow."""
    match info:
        case inspect.Metadata(type=inner):
            return values(inner)
        case inspect.BoolType():
            return st.booleans()
        case inspect.LiteralType(values=choices):
            return st.sampled_from(sorted(choices))
        case inspect.UnionType(types=each):
            return st.one_of(*map(values, each))
        case inspect.VarTupleType(item_type=item, min_length=least):
            return st.lists(values(item), min_size=least or 0, max_size=4).map(tuple)
        case inspect.IntType(ge=least, le=most):
            return st.integers(least, most)
        case inspect.FloatType(gt=above, ge=least, lt=below, le=most):
            low, high = (least if above is None else above), (most if below is None else below)
            open_low, open_high = above is not None, below is not None
            return st.floats(low, high, exclude_min=open_low, exclude_max=open_high)
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern, alphabet=ALPHABET)
        case inspect.StrType(min_length=least):
            return st.text(ALPHABET, min_size=least or 0, max_size=20)
    raise NotImplementedError(info)


def other_value(key: Key) -> Any:
    """A value that is allowed and is not the default."""
    match key.default:
        case bool(default):
            return not default
        case int(default):
            return default + 1
        case float(default):
            return default / 2 or 1.0
        case tuple(default):
            return (*default, "another")
    choices = inspect.type_info(key.type)
    if isinstance(choices, inspect.Metadata):
        choices = choices.type
    if isinstance(choices, inspect.LiteralType):
        return next(c for c in choices.values if c != key.default)
    fitting = {
        "bootstrap_servers": "a:1, b:2",
        "api_version": "2.3",
        "series": "topic",
        "url": "sqlite:///b.db",
        "ewc_lambda": 3.5,
        "model": "autoencoder",
        "quiet_hours": "22:00-06:00",
        "timezone": "Europe/Berlin",
    }
    return fitting.get(key.name, "other")


def as_text(value: Any) -> str:
    """How a person writes a value into the environment."""
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def write(folder: Path, text: str) -> Path:
    path = folder / "tidemark.toml"
    path.write_text(text, encoding="utf-8")
    return path


def message_of(path: Path | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(path, environ or {})
    return str(caught.value)


def test_without_file_and_environment_the_defaults_hold() -> None:
    """A first start needs no file; the variables of other programs are none of ours."""
    assert load(None, {"PATH": "/bin", "PGPASSWORD": "x"}) == Settings()


@pytest.mark.parametrize("key", KEYS, ids=lambda k: f"{k.section}.{k.name}")
def test_the_environment_overrides_every_key(key: Key) -> None:
    """TIDEMARK_SECTION_NAME changes that key and no other."""
    wanted = other_value(key)
    loaded = load(None, {key.variable: as_text(wanted)})
    for other in KEYS:
        value = getattr(getattr(loaded, other.section), other.name)
        assert value == (wanted if other == key else other.default)


@pytest.mark.parametrize("key", KEYS, ids=lambda k: f"{k.section}.{k.name}")
def test_every_key_has_help_and_an_allowed_default(key: Key) -> None:
    """The README's table is made of these; a default that is refused would stop every start."""
    assert key.help[:1].isupper() or key.help.startswith(("river", "auto"))
    assert "\n" not in key.help
    assert "|" not in key.help
    assert msgspec.convert(msgspec.to_builtins(key.default), key.type) == key.default


def test_every_number_with_a_unit_says_it() -> None:
    """A name that ends in _s, _ms or _bytes is a quantity, and its help names the unit."""
    units = {"_s": "in seconds", "_ms": "in ms", "_bytes": "in bytes", "_seconds": "in seconds"}
    named = [(k, unit) for k in KEYS for end, unit in units.items() if k.name.endswith(end)]
    assert len(named) >= 8
    assert [k.name for k, unit in named if unit not in k.help] == []


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """One file serves several processes; what differs comes from their environment."""
    path = write(tmp_path, "[score]\nwindow = 8\nhidden = 32\n")
    loaded = load(path, {"TIDEMARK_SCORE_WINDOW": "24"})
    assert (loaded.score.window, loaded.score.hidden) == (24, 32)


def test_the_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    """Containers get TIDEMARK_CONFIG; --config, given, is stronger."""
    named = write(tmp_path, "[score]\nwindow = 8\n")
    assert load(None, {CONFIG_VARIABLE: str(named)}).score.window == 8
    given_file = tmp_path / "given.toml"
    given_file.write_text("[score]\nwindow = 9\n")
    assert load(given_file, {CONFIG_VARIABLE: str(named)}).score.window == 9


@pytest.mark.parametrize(
    ("toml", "key", "what"),
    [
        ("[detect]\nwach = 9", "detect.wach", "no such setting"),
        ("[detects]\nwatch = 9", "detects", "no such setting"),
        ("watch = 9", "watch", "no such setting"),
        ("kafka = 3", "kafka", "got `int`"),
        ("[detect]\nwatch = '9'", "detect.watch", "Expected `int`, got `str`"),
        ("[detect]\nwatch = true", "detect.watch", "Expected `int`, got `bool`"),
        ("[score]\nthreads = 1.0", "score.threads", "Expected `int`, got `float`"),
        ("[stream]\nchannels = 'a'", "stream.channels", "Expected `array`, got `str`"),
        ("[stream]\nchannels = ['a', 3]", "stream.channels[1]", "Expected `str`, got `int`"),
        ("[detect]\nwatch = 0", "detect.watch", "Expected `int` >= 1"),
        (f"[detect]\nwatch = {LARGEST + 1}", "detect.watch", f"<= {LARGEST}"),
        (f"[detect]\nsettle_after = {LARGEST + 1}", "detect.settle_after", f"<= {LARGEST}"),
        ("[database]\nbusy_timeout_s = 3e6", "database.busy_timeout_s", "<= 2147483"),
        ("[stream]\nmax_channels = 1\nchannels = ['a', 'b']", "stream", "channels has 2 names"),
        ("[learn]\nheld_out = 0.6", "learn.held_out", "< 0.6"),
        ("[learn]\nlr = nan", "learn.lr", "> 0"),
        ("[learn]\newc_lambda = inf", "learn.ewc_lambda", f"<= {LARGEST}"),
        ("[detect]\ndetectors = []", "detect.detectors", "length >= 1"),
        ("[kafka]\nsecurity_protocol = 'ssl'", "kafka.security_protocol", "'ssl'"),
        ("[kafka]\napi_version = '2'", "kafka.api_version", "not allowed here"),
        ("[stream]\nseries = 'field:'", "stream.series", "not allowed here"),
        ("[stream]\nseries = 'field:values'", "stream.series", "not allowed here"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_its_key(
    tmp_path: Path, toml: str, key: str, what: str
) -> None:
    """A person must find the line at fault without reading our source."""
    path = write(tmp_path, toml)
    message = message_of(path)
    assert message.startswith(f"{path}: {key}: ")
    assert what in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("variable", "text", "what"),
    [
        ("TIDEMARK_DETECT_WACH", "9", "no such setting"),
        ("TIDEMARK_DETECT_WATCH", "many", "Expected `int`"),
        ("TIDEMARK_DETECT_WATCH", "1.5", "Expected `int`"),
        ("TIDEMARK_DETECT_WATCH", "0", "Expected `int` >= 1"),
        ("TIDEMARK_LEARN_LR", "inf", f"<= {LARGEST}"),
        ("TIDEMARK_STREAM_PUBLISH_SCORES", "maybe", "Expected `bool`"),
        ("TIDEMARK_DETECT_DETECTORS", " , ", "length >= 1"),
        ("TIDEMARK_KAFKA_GROUP_ID", "", "length >= 1"),
    ],
)
def test_a_mistake_in_the_environment_names_its_variable(
    variable: str, text: str, what: str
) -> None:
    """The variable is what the person wrote, so it is what the message names."""
    message = message_of(environ={variable: text})
    assert message.startswith(f"{variable}: ")
    assert what in message


def test_a_variable_for_a_section_that_is_no_table_is_refused(tmp_path: Path) -> None:
    """The environment cannot mend a file whose section is a number."""
    path = write(tmp_path, "score = 3\n")
    assert message_of(path, {"TIDEMARK_SCORE_WINDOW": "8"}).startswith("score: expected a table")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Absent, a folder, not TOML, not UTF-8: one line with the path."""
    broken = write(tmp_path, "[detect\n")
    latin = tmp_path / "latin.toml"
    latin.write_bytes('[kafka]\ngroup_id = "Gerät"'.encode("latin-1"))
    for path in (tmp_path / "absent.toml", tmp_path, broken, latin):
        message = message_of(path)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("a", ("a",)), ("a,b", ("a", "b")), (" a , b ,", ("a", "b")), ("", ())],
)
def test_a_list_in_the_environment_is_separated_by_commas(
    text: str, wanted: tuple[str, ...]
) -> None:
    """Spaces around a name do not belong to it; an empty text is an empty list."""
    assert load(None, {"TIDEMARK_STREAM_CHANNELS": text}).stream.channels == wanted


@given(st.data())
@settings(deadline=None)
def test_what_is_printed_reads_back_as_it_was(data: st.DataObject) -> None:
    """`tidemark config` is a file to start from, so any settings survive TOML and back."""
    tree: dict[str, Any] = {}
    for key in data.draw(st.lists(st.sampled_from(KEYS), unique_by=lambda k: k.variable)):
        zones = st.sampled_from(["UTC", "Europe/Berlin"])
        allowed = zones if key.name == "timezone" else values(inspect.type_info(key.type))
        value = data.draw(allowed)
        tree.setdefault(key.section, {})[key.name] = value
    stream = tree.get("stream", {})
    assume(len(stream.get("channels", ())) <= stream.get("max_channels", LARGEST))
    begin, _, end = tree.get("retrain", {}).get("quiet_hours", "").partition("-")
    assume(begin != end or not begin)
    tree["schedule"] = data.draw(st.lists(SCHEDULES, max_size=3, unique_by=lambda s: s["name"]))
    wanted = msgspec.convert(tree, Settings)
    assert _reread(as_toml(wanted)) == wanted


def _reread(toml: str) -> Settings:
    with tempfile.TemporaryDirectory() as folder:
        return load(write(Path(folder), toml), {})


@given(st.text(ALPHABET) | st.integers(0, LARGEST) | st.floats(0, LARGEST) | st.booleans())
@settings(deadline=None)
def test_a_value_is_written_as_toml_writes_it(value: Any) -> None:
    """The oracle is the standard library's reader."""
    read = tomllib.loads(f"x = {toml_value(value)}")["x"]
    assert read == value
    assert isinstance(read, type(value))


def test_the_printed_file_explains_every_key() -> None:
    """Each key stands below its help, in its section, with its default."""
    lines = as_toml().splitlines()
    for key in KEYS:
        line = f"{key.name} = {toml_value(key.default)}"
        assert f"# {key.help}\n{line}" in "\n".join(lines[lines.index(f"[{key.section}]") :])


def test_the_table_has_a_row_for_every_key() -> None:
    """A header of two lines, then one row a key."""
    rows = as_markdown().splitlines()[2:]
    assert len(rows) == len(KEYS) + len(list(array_keys()))
    assert "| `schedule[].name` | needed |" in as_markdown()


def test_secrets_are_not_in_the_digest() -> None:
    """The digest is kept for ever beside each version; a password must not be guessable from it."""
    first = load(None, {"TIDEMARK_KAFKA_SASL_PASSWORD": "a", **_database("tidemark:a@")})
    second = load(None, {"TIDEMARK_KAFKA_SASL_PASSWORD": "b", **_database("tidemark:b@")})
    option = load(None, _database("tidemark@", "?password=c"))
    assert digest(first) == digest(second) == digest(option)
    assert digest(first) != digest(load(None, _database("somebody:a@")))


def _database(who: str, options: str = "") -> dict[str, str]:
    return {"TIDEMARK_DATABASE_URL": f"postgresql://{who}db.example/tidemark{options}"}


@pytest.mark.parametrize("key", KEYS, ids=lambda k: f"{k.section}.{k.name}")
def test_every_key_but_the_secrets_changes_the_digest(key: Key) -> None:
    """Equal digests promise equal settings; the passwords are all that is left out."""
    changed = load(None, {key.variable: as_text(other_value(key))})
    is_secret = key.name in ("sasl_password", "ssl_password")
    assert (digest(changed) == digest(Settings())) == is_secret


def test_the_longest_busy_timeout_is_one_that_sqlite_keeps() -> None:
    """It counts milliseconds in an int of 32 bits, and takes a larger number for 0."""
    (key,) = [k for k in KEYS if k.name == "busy_timeout_s"]
    longest = int(inspect.type_info(key.type).type.le)
    with closing(sqlite3.connect(":memory:", timeout=longest)) as conn:
        assert conn.execute("PRAGMA busy_timeout").fetchone() == (longest * 1000,)


def test_the_topics_for_results_are_named_after_the_stream_s() -> None:
    """Without published scores nobody has to create a topic for them."""
    assert Stream(topic="t").result_topics == ("t.scores", "t.boundaries", "t.events", "t.dead")
    quiet = Stream(topic="t", publish_scores=False)
    assert quiet.result_topics == ("t.boundaries", "t.events", "t.dead")


def test_whole_numbers_are_taken_where_a_fraction_may_stand(tmp_path: Path) -> None:
    """`lease_s = 30` is what a person writes; it means 30.0."""
    loaded = load(write(tmp_path, "[run]\nlease_s = 30\n"), {})
    assert math.isclose(loaded.run.lease_s, 30.0)


@pytest.mark.parametrize("servers", ["localhost", "localhost:abc", "a:1,,b:2", "a:1,b", " "])
def test_brokers_are_hosts_with_ports(servers: str) -> None:
    """Read at the start, not by a client that fails in its own words later."""
    variable = "TIDEMARK_KAFKA_BOOTSTRAP_SERVERS"
    with pytest.raises(SettingsError, match=f"{variable}: .*host:port"):
        load(environ={variable: servers})


def test_a_secret_in_a_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    """A URL where a table belongs is told by its type."""
    path = tmp_path / "tidemark.toml"
    path.write_text('database = "postgresql://u:s3cret@h/db"')
    with pytest.raises(SettingsError) as told:
        load(path, environ={"TIDEMARK_DATABASE_BUSY_TIMEOUT_S": "3"})
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"STREAM_LABEL": "time"}, "TIDEMARK_STREAM_LABEL: not allowed here: Field with a reading"),
        ({"STREAM_LABEL": "values"}, "TIDEMARK_STREAM_LABEL: not allowed here"),
        ({"STREAM_LABEL": "x", "STREAM_SERIES": "field:x"}, "stream: label: the field x names the"),
    ],
)
def test_a_label_is_a_field_of_its_own(environ: dict[str, str], says: str) -> None:
    """A reading's time, its values and its series' name are something else."""
    with pytest.raises(SettingsError) as caught:
        load(None, {f"TIDEMARK_{name}": text for name, text in environ.items()})
    assert str(caught.value).startswith(says)
    names = {"TIDEMARK_STREAM_LABEL": "values_of", "TIDEMARK_STREAM_SERIES": "field:x"}
    assert load(None, names).stream.label == "values_of"


# Tables of which there may be any number ---------------------------------------------------------

NIGHTLY = Schedule(name="nightly", cron="30 2 * * *", timezone="Europe/Berlin")
TABLES = """
[[schedule]]
name = "nightly"
cron = "30 2 * * *"
timezone = "Europe/Berlin"

[[schedule]]
name = "check"
every_s = 3600
kind = "verify"
"""


def test_a_table_may_be_there_several_times(tmp_path: Path) -> None:
    """In the order of the file."""
    check = Schedule(name="check", every_s=3600.0, kind="verify")
    assert load(write(tmp_path, TABLES), {}).schedule == (NIGHTLY, check)


def test_the_environment_puts_other_tables_in_place_of_all(tmp_path: Path) -> None:
    """As TOML writes them in one line; from a file too."""
    inline = '[{name = "nightly", cron = "30 2 * * *", timezone = "Europe/Berlin"}]'
    path = write(tmp_path, TABLES)
    assert load(path, {"TIDEMARK_SCHEDULE": inline}).schedule == (NIGHTLY,)
    assert load(path, {"TIDEMARK_SCHEDULE": "[]"}).schedule == ()
    (tmp_path / "inline").write_text(f"{inline}\n")
    variable = {"TIDEMARK_SCHEDULE_FILE": str(tmp_path / "inline")}
    assert load(path, variable).schedule == (NIGHTLY,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[schedule]\nretrain_cron = "x"', 'write [[schedule]] with name = "retrain"'),
        ('[[schedule]]\ncron = "x"', "schedule[0]: Object missing required field `name`"),
        ('[[schedule]]\nname = "a"', "schedule[0]: a: one of cron and every_s says when"),
        ('[[schedule]]\nname = "a"\ncron = "x"\nevery_s = 9', "one of cron and every_s"),
        ('[[schedule]]\nname = "a"\nevery_s = 0.5', "every_s is 1 at least"),
        ('[[schedule]]\nname = "a"\nevery_s = 9\njitter_s = 9', "jitter_s is less than every_s"),
        ('[[schedule]]\nname = "a b"\nevery_s = 9', "schedule[0].name: not allowed here: Its own"),
        ('[[schedule]]\nname = "a"\nevery_s = 9\nfoo = 1', "schedule[0].foo: no such setting"),
        ('[[schedule]]\nname = "a"\nevery_s = 9\nkind = "x"', "schedule[0].kind: Invalid enum"),
        ('[[schedule]]\nname = "a"\ncron = "x"\ntimezone = "X"', "timezone: there is no 'X'"),
        ('[[schedule]]\nname = "a"\nevery_s = 9\nkind = "anchor"', "goes to a file or topic"),
        ('[[schedule]]\nname = "a"\nevery_s = 9\nkey = "k"', "a key signs anchors"),
        (
            '[[schedule]]\nname = "a"\nevery_s = 9\nkind = "verify"\nstream = "s"',
            "verify is of the whole database",
        ),
        (
            '[[schedule]]\nname = "a"\nevery_s = 9\n[[schedule]]\nname = "a"\nevery_s = 9',
            "two of them have the name a",
        ),
        ("schedule = 3", "schedule: Expected `array`"),
        ('[retrain]\nquiet_hours = "22:00-24:00"', "retrain.quiet_hours: not allowed here"),
        ('[retrain]\nquiet_hours = "22:00-22:00"', "they begin and end at other times"),
        ('[retrain]\ntimezone = "Mars/Base"', "there is no 'Mars/Base'"),
    ],
)
def test_a_mistake_in_a_table_says_in_which(tmp_path: Path, text: str, says: str) -> None:
    """By its place in the file, or by its name."""
    message = message_of(write(tmp_path, text))
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"TIDEMARK_SCHEDULE": "[{"}, "no array of TOML's inline tables"),
        ({"TIDEMARK_SCHEDULE": "[]\n[kafka]"}, "no array of TOML's inline tables: more follows"),
        ({"TIDEMARK_SCHEDULE": "x"}, "no array of TOML's inline tables"),
        ({"TIDEMARK_SCHEDULE": "3"}, "schedule: Expected `array`"),
        ({"TIDEMARK_SCHEDULE_RETRAIN_CRON": "x"}, "is no setting any more: write [[schedule]]"),
        ({"TIDEMARK_SCHEDULE_TIMEZONE": "x"}, "is no setting any more: write [[schedule]]"),
        ({"TIDEMARK_SCHEDULE_NAME": "x"}, "no such setting"),
    ],
)
def test_a_mistake_in_a_variable_of_tables_names_it(environ: dict[str, str], says: str) -> None:
    """Nothing of it is taken in silence."""
    assert says in message_of(None, environ)
