from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from sqlalchemy import select

from pipeline import cli
from pipeline.config import Database
from pipeline.errors import PipelineError
from pipeline.records import Request, SensorEvent
from pipeline.register.checkpoints import State
from pipeline.register.migrate import head
from pipeline.register.sql import SqlRegistry
from pipeline.register.tables import ledger
from tests.brokers import free_ports
from tests.register.making import next_version
from tests.run import command


def _commands(group: typer.core.TyperGroup) -> Iterator[str]:
    for name, each in group.commands.items():
        yield name
        if isinstance(each, typer.core.TyperGroup):
            yield from (f"{name} {inner}" for inner in _commands(each))


COMMANDS = tuple(_commands(typer.main.get_group(cli.app)))

#: Of an hour that is never now for long, as the environment has it.
SCHEDULE = '[{name = "nightly", cron = "30 2 * * *", timezone = "Europe/Berlin"}]'


@pytest.fixture
def tidemark(tmp_path: Path):
    """The command, in an empty directory, with a broker address where nobody listens."""
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return command.tidemark(
            tmp_path, *arguments, **{"TIDEMARK_KAFKA_BOOTSTRAP_SERVERS": nowhere} | environ
        )

    return run


@pytest.fixture
def process(tmp_path: Path):
    """The command as a process, where that is the point."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(tidemark, name: str) -> None:
    """`--help` works without settings, broker or database."""
    done = tidemark(*name.split(), "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_help_does_not_import_what_it_does_not_need() -> None:
    """0.3 s of CPU is the limit; what costs is torch, river, SQLAlchemy: none is loaded."""
    heavy = ("torch", "river", "sqlalchemy", "kafka", "numpy", "msgspec")
    code = f"import pipeline.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_told(process) -> None:
    """Without a command."""
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, "tidemark 0.1.0\n")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["replay", "nofile.csv", "--topic", "x"], 1, "tidemark: nofile.csv"),
        (["--config", "nofile.toml", "run"], 2, "tidemark: nofile.toml"),
        (["--debug", "replay", "nofile.csv", "--topic", "x"], 1, "Traceback"),
        (["bogus"], 2, "Usage: "),
    ],
)
def test_a_process_that_fails_says_so_to_whoever_started_it(
    process, arguments: list[str], code: int, says: str
) -> None:
    """Its exit code, a line on standard error, and nothing on standard output."""
    done = process(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(says)


#: No version, task or offset is so far; and a database would not take the number.
FAR = "9" * 20
QUESTIONS = ("why", "data", "decided", "lineage", "card", "reproduce")
WORDS = ("promote", "approve", "refuse")


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "says"),
    [
        (["bogus"], {}, 2, "No such command"),
        (["audit", "live-at", "yesterday"], {}, 2, "not a time"),
        (["audit", "live-at", "2026-01-01T00:00:00"], {}, 2, "no zone"),
        (["config"], {"TIDEMARK_DETECT_WATCH": "x"}, 0, ""),
        (["migrate"], {"TIDEMARK_DETECT_WATCH": "x"}, 2, "TIDEMARK_DETECT_WATCH"),
        (["migrate"], {"TIDEMARK_NONSENSE": "1"}, 2, "TIDEMARK_NONSENSE"),
        (["migrate"], {"TIDEMARK_DATABASE_URL": "mysql://x"}, 2, "database.url"),
        (["migrate"], {"TIDEMARK_DATABASE_URL": "sqlite:////nowhere/x.db"}, 1, "unable to open"),
        (["audit", "rejected", "--from", "2026-01-01"], {}, 2, "no zone"),
        (["audit", "rejected", "--limit", FAR], {}, 2, "--limit"),
        (["audit", "rejected", "--after", FAR], {}, 2, "--after"),
        *((["audit", question, FAR], {}, 2, "'number'") for question in QUESTIONS),
        (["audit", "diff", "1", FAR], {}, 2, "'other'"),
        (["audit", "scored", "readings", FAR, "0"], {}, 2, "'partition'"),
        (["audit", "scored", "readings", "0", FAR], {}, 2, "'offset'"),
        *(([act, FAR, "--reason", "r"], {}, 2, "'number'") for act in WORDS),
        (["rollback", "--to", FAR, "--reason", "r"], {}, 2, "--to"),
        (["retrain", "--without-task", FAR, "--reason", "r"], {}, 2, "--without-task"),
        (["task", "show", FAR], {}, 2, "'number'"),
        (["pause", "--reason", "\udcff"], {}, 2, "an argument is not UTF-8: '\\udcff'"),
        (["pause", "--reason", "r", "--actor", "gate"], {}, 1, "nobody's name"),
        (["audit", "key", ""], {}, 1, ".: "),
        (["audit", "history"], {}, 1, "run `tidemark migrate`"),
        (["stream"], {}, 1, "run `tidemark migrate`"),
        (["run"], {}, 1, "run `tidemark migrate`"),
        (["demo", "--directory", "/proc/x"], {}, 1, "/proc/x: No such file or directory"),
        (["demo", "--directory", __file__], {}, 1, "test_cli.py: Not a directory"),
        (["stream"], {"TIDEMARK_DETECT_DETECTORS": "Foo"}, 2, "detect.detectors"),
        (["stream"], {"TIDEMARK_STREAM_LABEL": "state"}, 2, "stream.label: labels are for a"),
        (["train"], {"TIDEMARK_STREAM_LABEL": "state"}, 2, "stream.label: labels are for a"),
        (["schedule"], {"TIDEMARK_SCHEDULE": SCHEDULE}, 1, "run `tidemark migrate`"),
        (["schedule", "list"], {"TIDEMARK_SCHEDULE": SCHEDULE}, 1, "run `tidemark migrate`"),
        (["schedule"], {"TIDEMARK_SCHEDULE_RETRAIN_CRON": "x"}, 2, "write [[schedule]]"),
        (["replay", "nofile.csv", "--topic", "x"], {}, 1, "nofile.csv"),
        (["--config", "nofile.toml", "run"], {}, 2, "nofile.toml"),
        (["replay", "nofile.csv", "--topic", "x", "--max-lag", "-1"], {}, 2, "--max-lag"),
        (["replay", "nofile.csv", "--topic", "x", "--rate", "0"], {}, 2, "--rate"),
        (["replay", "nofile.csv", "--topic", "x", "--rate", "-5"], {}, 2, "--rate"),
        (["replay", "nofile.csv", "--topic", "x", "--rate", "nan"], {}, 2, "--rate"),
        (["doctor"], {"TIDEMARK_DETECT_WATCH": "x"}, 2, ""),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_what_is_wrong(
    tidemark, arguments: list[str], environ: dict[str, str], code: int, says: str
) -> None:
    """No traceback, the key or file at fault, exit code 1 for failures and 2 for usage."""
    done = tidemark(*arguments, **environ)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--config", "nofile.toml", "stream"], 2, "SettingsError"),
        (["replay", "nofile.csv", "--topic", "x"], 1, "SourceError"),
    ],
)
def test_debug_shows_where_and_answers_the_same(
    tidemark, arguments: list[str], code: int, error: str
) -> None:
    """Whoever looks closer must not see another exit code."""
    done = tidemark("--debug", *arguments)
    assert done.returncode == tidemark(*arguments).returncode == code
    assert done.stderr.startswith("Traceback")
    assert f"{error}: " in done.stderr


def broken(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let every command fail with an error that nobody foresaw."""

    def fail(**_: bool) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("UNIQUE failed\n[SQL: INSERT ...]\n[parameters: (1,)]"), "UNIQUE failed"),
        (RuntimeError("\nlate"), "late"),
        (RuntimeError(), None),
        (PipelineError("no server\nIs it running?"), "no server"),
    ],
)
def test_only_the_first_line_of_an_error_is_told(
    monkeypatch, capsys, error: Exception, says: str | None
) -> None:
    """SQL and its parameters are nobody's business on a terminal; --debug has them."""
    broken(monkeypatch, error)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    ours = isinstance(error, PipelineError)
    fault = says if ours else ": ".join(["RuntimeError", *([says] if says else [])])
    assert ended.value.code == 1
    hint = "" if ours else " (--debug shows where)"
    assert capsys.readouterr().err == f"tidemark: {fault}{hint}\n"


def test_a_password_is_not_shown(tidemark) -> None:
    """An unreachable database is named without its secret."""
    url = f"postgresql://u:hush-hush@127.0.0.1:{free_ports(1)[0]}/x"
    done = tidemark("migrate", TIDEMARK_DATABASE_URL=url)
    assert done.returncode == 1
    assert "hush-hush" not in done.stderr + done.stdout


def test_doctor_says_what_to_do_for_each_failure(tidemark) -> None:
    """An empty directory: no schema, no broker; both are told, and the rest is fine."""
    done = tidemark("doctor", "--json")
    answer = json.loads(done.stdout)
    failed = {c["name"]: c["message"] for c in answer["checks"] if not c["ok"]}
    assert done.returncode == 1
    assert set(failed) == {"schema", "broker"}
    assert "tidemark migrate" in failed["schema"]
    assert "kafka.bootstrap_servers" in failed["broker"]


def test_migrate_then_ask(tidemark, tmp_path: Path) -> None:
    """The shortest way of a new user: the schema, then a question about nothing yet."""
    assert json.loads(tidemark("migrate", "--json").stdout) == {"current": head(), "head": head()}
    done = tidemark("audit", "history")
    assert done.returncode == 1
    assert "no stream readings; known: none yet" in done.stderr
    told = json.loads(tidemark("audit", "export", "--to", "b.zip", "--json").stdout)
    assert (told["file"], told["bytes"]) == ("b.zip", (tmp_path / "b.zip").stat().st_size)


def test_what_happened_to_sensors_is_told_as_a_table_and_as_json(tidemark, tmp_path: Path) -> None:
    """Under the sensor's name; a name that a stranger chose reaches no terminal as it is."""
    tidemark("migrate")
    registry = SqlRegistry(Database(url=f"sqlite:///{tmp_path / 'tidemark.db'}"))
    stream = registry.open_stream("readings", ["flow", "he\x1bat"])
    frozen = SensorEvent(
        series="press",
        channel=1,
        kind="sensor_frozen",
        row=40,
        offset=44,
        time=1_700_000_000_000_000,
    )
    epoch = registry.acquire(stream.id, 3, "a").epoch
    registry.save(stream.id, 3, epoch, next_offset=45, state=State(b"s"), events=[frozen])
    registry.close()
    assert json.loads(tidemark("audit", "events", "--json").stdout) == [
        {
            "event": "sensor_frozen",
            "sensor": "he\x1bat",
            "partition": 3,
            "series": "press",
            "row": 40,
            "offset": 44,
            "at": "2023-11-14T22:13:20.000000+00:00",
        }
    ]
    shown = tidemark("audit", "events").stdout
    for text in ("press", "sensor_frozen", "2023-11-14T22:13:20"):
        assert text in shown
    assert "\x1b" not in shown


def test_a_roll_back_by_hand_and_every_way_that_it_cannot_be(tidemark, tmp_path: Path) -> None:
    """One sentence and exit code 0, or one line and 1; who and why are asked for."""
    tidemark("migrate")
    who = ("--actor", "ada", "--reason", "too warm")
    assert "no stream readings" in tidemark("rollback", *who).stderr
    registry = SqlRegistry(Database(url=f"sqlite:///{tmp_path / 'tidemark.db'}"))
    stream = registry.open_stream("readings", ["flow"])

    def failed(*arguments: str) -> str:
        done = tidemark("rollback", *arguments, *who)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        return line

    assert failed() == "tidemark: there is no champion to leave"
    for _ in range(2):
        next_version(registry, stream)
    assert failed("--to", "2") == "tidemark: version 2 is champion already"
    assert failed("--to", "7") == "tidemark: the stream has no version 7"
    for nobody in ("", "rollback"):
        done = tidemark("rollback", "--actor", nobody, "--reason", "x")
        assert "is nobody's name" in done.stderr
        assert done.returncode == 1
    assert tidemark("rollback", "--actor", "ada").returncode == 2
    assert registry.champion(stream.id).number == 2
    told = json.loads(tidemark("rollback", "--json", *who).stdout)
    assert (told["stream"], told["version"], told["to"]) == ("readings", 2, 1)
    assert failed().startswith("tidemark: version 1 is the first: ")
    shown = tidemark("rollback", "--to", "2", *who).stdout
    assert shown.startswith("version 2 of readings is champion again, in place of 1: ")
    assert registry.champion(stream.id).number == 2
    live = json.loads(tidemark("audit", "live-at", "now", "--json").stdout)
    assert (live["promoted_by"], live["because"]) == ("ada", "too warm")
    registry.close()


def test_every_act_by_hand(tidemark, tmp_path: Path) -> None:
    """One sentence or one JSON object; the same request id again says the same."""
    tidemark("migrate")
    registry = SqlRegistry(Database(url=f"sqlite:///{tmp_path / 'tidemark.db'}"))
    stream = registry.open_stream("readings", ["flow"])
    next_version(registry, stream)
    (tmp_path / "envelope.toml").write_text(
        'triggers = ["boundary"]\n[min_skill_of_task]\n7 = 0.5\n'
    )
    why = ("--actor", "ada", "--reason", "plan 12")
    said = "envelope 1 of readings holds for what is registered now\n"
    for _ in range(2):
        assert tidemark("envelope", "set", *why, "--request-id", "e-1").stdout == said
    shown = tidemark("envelope", "show").stdout
    assert tomllib.loads(shown) == {"triggers": ["boundary"], "min_skill_of_task": {"7": 0.5}}
    assert shown.startswith("# envelope 1 of readings, ")
    history = json.loads(tidemark("envelope", "history", "--json").stdout)
    assert [(each["envelope"], each["actor"]) for each in history] == [(1, "ada")]
    for _ in range(2):
        next_version(registry, stream)
    listed = json.loads(tidemark("stream", "list", "--json").stdout)
    assert [(each["champion"], each["waiting"]) for each in listed] == [(1, [2, 3])]
    told = json.loads(tidemark("approve", "2", *why, "--json").stdout)
    outside = ["task 7 was not measured", "it was asked for by manual, and allowed are boundary"]
    assert (told["version"], told["instead_of"], told["outside"]) == (2, 1, outside)
    overtaken = tidemark("approve", "3", *why)
    assert (overtaken.returncode, overtaken.stderr.count("\n")) == (1, 1)
    assert tidemark("refuse", "3", *why).stdout == "version 3 of readings is refused\n"
    assert "is champion, in place of 2" in tidemark("promote", "3", *why).stdout
    assert tidemark("pause", "--reason", "stocktaking").stdout.startswith("readings is paused: ")
    paused = json.loads(tidemark("stream", "list", "--json").stdout)[0]["paused"]
    assert (paused["by"], paused["because"]) == (getpass.getuser(), "stocktaking")
    assert "stocktaking" in tidemark("stream", "list").stdout
    assert "paused since" in tidemark("doctor").stdout
    assert tidemark("resume", "--reason", "done").stdout.startswith("readings goes on: ")
    acts = json.loads(tidemark("audit", "acts", "--json").stdout)
    assert [each["act"] for each in acts] == [
        "envelope", "approve", "refuse", "promote", "pause", "resume",
    ]  # fmt: skip
    found = json.loads(tidemark("audit", "promotions", "--json").stdout)
    assert [(each["version"], each["by"], each["envelope"]) for each in found] == [
        (1, "gate", None), (2, "ada", 1), (3, "ada", 1),
    ]  # fmt: skip
    assert "task 7 was not measured" in tidemark("audit", "promotions").stdout
    other = tidemark("pause", *why, "--request-id", "e-1")
    assert (other.returncode, other.stderr.count("\n")) == (1, 1)
    assert "request id e-1 was used for another act: envelope" in other.stderr
    registry.close()


def test_pruning_by_hand(tidemark, tmp_path: Path) -> None:
    """What would go, what went, and what is too young to be asked for."""
    tidemark("migrate")
    registry = SqlRegistry(Database(url=f"sqlite:///{tmp_path / 'tidemark.db'}"), clock=lambda: 0)
    registry.put("segment", b"old readings")
    registry.close()
    assert "1 segment, 12 bytes" in tidemark("prune", "--dry-run").stdout
    assert json.loads(tidemark("prune", "--keep", "365d", "--json").stdout)["bytes"] == 12
    assert "pruned: nothing" in tidemark("prune").stdout
    young = tidemark("prune", "--keep", "180d")
    assert young.stderr == "tidemark: 180 days are fewer than audit.min_keep_days = 183\n"
    assert tidemark("prune", "--keep", "6 months").returncode == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "envelope.toml: No such file"),
        ("min_skill = ", "envelope.toml: not TOML"),
        ("min_skil = 1", "envelope: Object contains unknown field `min_skil`"),
        ('hours = "8-18"', "envelope: hours are HH:MM-HH:MM"),
    ],
)
def test_an_envelope_that_cannot_be_read_is_one_line(
    tidemark, tmp_path: Path, text: str | None, says: str
) -> None:
    """And what was agreed on before holds."""
    tidemark("migrate")
    if text is not None:
        (tmp_path / "envelope.toml").write_text(text)
    done = tidemark("envelope", "set", "--reason", "plan 12")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert says in done.stderr


def with_two_tasks(tmp_path: Path) -> None:
    """A database in which two segments were named, and nobody has said anything yet."""
    registry = SqlRegistry(Database(url=f"sqlite:///{tmp_path / 'tidemark.db'}"))
    stream = registry.open_stream("readings", ["flow"])
    for n in range(2):
        request = Request(
            stream_id=stream.id,
            reason="boundary",
            partition=0,
            series="press",
            segment=n,
            inputs={"segment": f"segment-{n}"},
        )
        number = registry.submit(request)
        claim = registry.claim("t", 60.0)
        assert claim is not None
        assert number is not None
        registry.assign(claim, number, np.array([[9.0 * n], [1.0]]))
        registry.finish(claim, "done")
    registry.close()


def test_a_person_says_what_a_regime_is(tidemark, tmp_path: Path) -> None:
    """As a table, in sentences and as JSON; who said it, and why, can be asked for."""
    tidemark("migrate")
    with_two_tasks(tmp_path)
    who = ("--actor", "ada", "--reason", "work order 7")
    done = tidemark("task", "name", "2", "bearing", *who, "--json")
    assert json.loads(done.stdout) == {
        "stream": "readings",
        "task": 2,
        "before": {"kind": "normal", "name": None},
        "after": {"kind": "normal", "name": "bearing"},
        "learned_by": [],
    }
    done = tidemark("task", "mark", "2", "--kind", "fault", *who)
    assert done.stdout == 'task 2 of readings: fault, "bearing"\n'
    listed = json.loads(tidemark("task", "list", "--json").stdout)
    assert [(task["task"], task["kind"], task["name"]) for task in listed] == [
        (1, "normal", None),
        (2, "fault", "bearing"),
    ]
    for shown in (tidemark("task", "list").stdout, tidemark("task", "show", "2").stdout):
        assert "bearing" in shown
        assert "fault" in shown
    told = json.loads(tidemark("task", "show", "2", "--json").stdout)
    assert [(said["actor"], said["reason"]) for said in told["said"]] == [("ada", who[-1])] * 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["task", "mark", "9", "--kind", "fault"], "no task 9: the stream has 1 to 2"),
        (["task", "mark", "1", "--kind", "odd"], "no kind odd: a task is normal, fault, ignore"),
        (["task", "name", "1", "x" * 101], "a task's name has up to 100 printable characters"),
        (["task", "mark", "1", "--kind", "fault", "--stream", "s"], "no stream s; known: readings"),
        (["retrain", "--without-task", "9"], "no task 9: the stream has 1 to 2"),
    ],
)
def test_what_cannot_be_said_of_a_task_is_one_line(
    tidemark, tmp_path: Path, arguments: list[str], says: str
) -> None:
    """Exit code 1, and nothing is changed."""
    tidemark("migrate")
    with_two_tasks(tmp_path)
    done = tidemark(*arguments, "--actor", "ada", "--reason", "why")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert says in done.stderr


def test_a_version_without_a_task_is_asked_for(tidemark, tmp_path: Path) -> None:
    """What it would go on from is told at once."""
    tidemark("migrate")
    with_two_tasks(tmp_path)
    who = ("--actor", "ada", "--reason", "why", "--without-task", "2")
    assert json.loads(tidemark("retrain", *who, "--json").stdout) == {
        "request": 3,
        "stream": "readings",
        "without_task": 2,
        "from_version": None,
    }
    said = "without task 2, from scratch: no version that is kept has not learned it"
    assert said in tidemark("retrain", *who).stdout


def test_the_printed_settings_are_the_ones_that_are_read(tidemark, tmp_path: Path) -> None:
    """`tidemark config` is a file to start from: it reads back without a word."""
    (tmp_path / "tidemark.toml").write_text(tidemark("config").stdout)
    assert tidemark("--config", "tidemark.toml", "migrate").returncode == 0


def test_a_schedule_is_steered_and_told_of(tidemark) -> None:
    """Before a scheduler ever ran: paused, ordered, listed, and it goes on; each once."""
    environ = {"TIDEMARK_SCHEDULE": SCHEDULE}
    tidemark("migrate", **environ)
    word = ("--actor", "ada", "--reason", "repair")

    def said(*arguments: str) -> str:
        done = tidemark("schedule", *arguments, **environ)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert said("pause", "nightly", *word) == "nightly: paused\n"
    assert said("pause", "nightly", *word) == "nightly: paused already\n"
    assert said("run-now", "nightly", *word) == "nightly: a scheduler will do it\n"
    (each,) = json.loads(said("list", "--json"))["schedules"]
    assert (each["state"], each["paused"]["by"], each["next"]) == ("paused", "ada", [])
    assert [(run["actor"], run["finished"]) for run in each["runs"]] == [("ada", None)]
    assert json.loads(said("resume", "nightly", *word, "--json")) == {
        "schedule": "nightly",
        "changed": True,
    }
    (each,) = json.loads(said("list", "--json"))["schedules"]
    assert each["state"] == "active"
    assert len(each["next"]) == 5
    told = said("list")
    assert "30 2 * * * Europe/Berlin" in told
    assert "waits for a scheduler" in told
    done = tidemark("schedule", "pause", "daily", *word, **environ)
    assert done.returncode == 1
    assert done.stderr == "tidemark: no schedule daily; known: nightly\n"


def test_who_may_ask_and_what_is_scheduled_change_once_a_request(tidemark, tmp_path: Path) -> None:
    """A token is told the first time only; each entry has who, why and the request's id."""
    tidemark("migrate")

    def said(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = tidemark(
            *arguments, "--actor", "ada", "--reason", "plan", TIDEMARK_SCHEDULE=SCHEDULE
        )
        assert done.returncode == 0, done.stderr
        return done

    add = ("token", "add", "eve", "--request-id", "1")
    first, again = said(*add), said(*add)
    assert first.stdout.startswith("tidemark_1_")
    assert (again.stdout, again.stderr.count("\n")) == ("", 1)
    assert "was told then" in again.stderr
    assert json.loads(said(*add, "--json").stdout) == {
        "name": "eve",
        "role": "reader",
        "token": None,
    }
    revoke = ("token", "revoke", "eve", "--request-id", "2")
    assert said(*revoke).stdout == said(*revoke).stdout
    assert "lets nobody in" in said(*revoke).stdout
    for number, word in enumerate(("pause", "run-now", "resume"), 3):
        steer = ("schedule", word, "nightly", "--request-id", str(number))
        assert said(*steer).stdout == said(*steer).stdout
    other = ("schedule", "pause", "nightly", "--request-id", "1", "--reason", "x")
    refused = tidemark(*other, TIDEMARK_SCHEDULE=SCHEDULE)
    assert refused.returncode == 1
    assert refused.stderr.startswith("tidemark: request id 1 was used for another act: token_add,")
    registry = SqlRegistry(Database(url=f"sqlite:///{tmp_path / 'tidemark.db'}"))
    with registry.engine.connect() as conn:
        rows = conn.execute(select(ledger).order_by(ledger.c.id)).all()
    registry.close()
    acts = [row for row in rows if row.kind != "schedule_changed"]
    told = [(row.kind, row.actor, json.loads(row.entry)) for row in acts]
    kinds = ("token_added", "token_revoked")
    kinds += ("schedule_paused", "schedule_ordered", "schedule_resumed")
    assert [(k, a, e["reason"], e["request_id"]) for k, a, e in told] == [
        (kind, "ada", "plan", str(number)) for number, kind in enumerate(kinds, 1)
    ]
