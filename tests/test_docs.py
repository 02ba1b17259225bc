"""The papers say what is so: commands, settings, messages and paths in them exist and work."""

from __future__ import annotations

import json
import re
import shlex
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

import pipeline
from pipeline.config import (
    CONFIG_VARIABLE,
    PREFIX,
    Settings,
    arrays,
    as_markdown,
    keys,
    sections,
)
from pipeline.ingest.decode import Decoder
from pipeline.records import Batch, Records
from tests.command_line import names, parse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAPERS = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def command_lines(program: str) -> list[list[str]]:
    """Words of every line in a shell block that begins with `program`."""
    lines = [
        shlex.split(line, comments=True)
        for text in PAPERS.values()
        for block in blocks(text, "sh")
        for line in block.splitlines()
    ]
    return [words for words in lines if words and words[0].endswith(program)]


def decode(values: list[bytes]) -> Batch:
    """What the stream makes of these messages, keyed `machine-1`; every one must be good."""
    records = Records(
        topic="readings",
        partition=0,
        offsets=range(len(values)),
        keys=[b"machine-1"] * len(values),
        values=values,
        next_offset=len(values),
    )
    decoder = Decoder(Settings().stream, Settings().kafka.max_message_bytes)
    batch, letters = decoder.decode(records)
    assert letters == []
    assert batch is not None
    return batch


def test_the_settings_table_is_the_generated_one() -> None:
    """A key, default or help that changes in the code changes here, or this fails."""
    assert f"-->\n\n{as_markdown()}\n" in README
    assert README.count("| key | default |") == 1


def test_every_command_shown_is_one_that_exists() -> None:
    """What a reader types must not be refused."""
    shown = command_lines("tidemark")
    assert len(shown) >= 6
    for _, *arguments in shown:
        redirected = arguments.index(">") if ">" in arguments else len(arguments)
        parse(arguments[:redirected])


def test_the_table_of_commands_is_complete() -> None:
    """One row a command, none that is gone, in full."""
    rows = re.findall(r"^\| `(tidemark [a-z -]+)` \|", README, re.MULTILINE)
    assert sorted(rows) == sorted(names())


def test_every_make_target_shown_exists() -> None:
    """In shell blocks and in the text."""
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    shown = {w for words in command_lines("make") for w in words[1:2]}
    for paper in PAPERS.values():
        shown |= set(re.findall(r"`make (?:--silent )?([a-z-]+)", paper))
    assert {"demo", "test", "install"} <= shown
    for target in shown:
        name = target.removeprefix("bench-").replace("-", "_")
        is_benchmark = target.startswith("bench-") and "bench-%:" in text
        assert target in targets or (is_benchmark and (ROOT / f"benchmarks/{name}.py").exists())


def test_every_test_shown_exists() -> None:
    """How to run one test is shown with one that is there."""
    for _, path, *options in command_lines("pytest"):
        text = (ROOT / path).read_text()
        if options:
            assert re.search(rf"def test_\w*{options[1]}", text)


def test_every_setting_and_variable_named_in_the_text_exists() -> None:
    """`section.key` and TIDEMARK_ names, wherever they stand."""
    known = {f"{key.section}.{key.name}" for key in keys()}
    variables = {key.variable for key in keys()} | {CONFIG_VARIABLE, f"{PREFIX}SECTION_KEY"}
    variables |= {f"{PREFIX}{name}".upper() for name, _ in arrays()}
    prefixes = "|".join(name for name, _ in sections())
    for text in PAPERS.values():
        assert set(re.findall(rf"`((?:{prefixes})\.(?!py\b)\w+)`", text)) <= known
        assert set(re.findall(rf"{PREFIX}[A-Z_]+", text)) <= variables


@pytest.mark.parametrize("paper", PAPERS)
def test_every_path_named_in_the_text_exists(paper: str) -> None:
    """Links, and code that looks like a path of the repository."""
    text = PAPERS[paper]
    paths = set(re.findall(r"\]\((?!https?:)([^)#]+)\)", text))
    paths |= set(re.findall(r"`((?:pipeline|tests|deploy|alembic|\.ci)/[\w./-]*)`", text))
    assert paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_message_shown_is_taken() -> None:
    """Each form stands for itself: the first reading of a stream could be any of them."""
    messages = [line for block in blocks(README, "json") for line in block.splitlines()]
    assert len(messages) == 4
    for message in messages:
        times = json.loads(message)["time"]
        batch = decode([message.encode()])
        assert len(batch) == (len(times) if isinstance(times, list) else 1)


def test_the_two_ways_to_write_a_time_agree() -> None:
    """The shown ISO 8601 time and the shown number are the same moment."""
    first, second, *_ = blocks(README, "json")[0].splitlines()
    assert decode([first.encode()]).times[0] == decode([second.encode()]).times[0]


def test_the_producer_shown_sends_what_the_stream_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as it stands, with a clock that does not wait and a broker that keeps a list."""
    import kafka

    class Producer:
        sent: list[tuple[str, bytes, bytes]] = []  # noqa: RUF012 - one producer, one list

        def __init__(self, bootstrap_servers: str) -> None:
            assert bootstrap_servers == Settings().kafka.bootstrap_servers

        def send(self, topic: str, *, key: bytes, value: bytes) -> None:
            self.sent.append((topic, key, value))

        def flush(self) -> None:
            self.sent.append(("flushed", b"", b""))

    monkeypatch.setattr(kafka, "KafkaProducer", Producer)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    program, *_ = blocks(README, "python")
    scope: dict[str, Any] = {}
    exec(compile(program, "README.md", "exec"), scope)  # noqa: S102 - our own README

    *sent, last = Producer.sent
    assert last[0] == "flushed"
    assert {(topic, key) for topic, key, _ in sent} == {(Settings().stream.topic, b"machine-1")}
    batch = decode([value for _, _, value in sent])
    assert batch.series == ("machine-1",)
    assert batch.values.shape == (3600, 2)
    assert len(program.strip().splitlines()) <= 11


def test_the_reader_shown_takes_what_is_new() -> None:
    """Run as it stands, on a message and one that was cut otherwise: [0, 2), then [0, 3)."""
    (program,) = (b for b in blocks(README, "python") if "import Once" in b)
    said = {"partition": 0, "series": "a", "place": 0}
    values = [json.dumps(said | {"offsets": list(range(n))}).encode() for n in (2, 3)]
    names = {"json": json, "consumer": [SimpleNamespace(value=value) for value in values]}
    exec(program, names)  # noqa: S102 - the README's own program
    assert names["new"] == said | {"offsets": [2]}


def test_the_check_of_a_signature_shown_knows_ours() -> None:
    """And no other body, secret or time."""
    from pipeline.run.receivers import signature

    (program,) = (b for b in blocks(README, "python") if "Tidemark-Signature" in b)
    shown: dict[str, Any] = {}
    exec(program, shown)  # noqa: S102
    headers = {"Tidemark-Timestamp": "1000", "Tidemark-Signature": signature("key", "1000", b"{}")}
    assert shown["is_ours"](headers, b"{}", "key", 1010)
    assert not shown["is_ours"](headers, b"{ }", "key", 1010)
    assert not shown["is_ours"](headers, b"{}", "kex", 1010)
    assert not shown["is_ours"](headers, b"{}", "key", 1301)


def test_the_table_of_events_is_complete() -> None:
    """Every kind, at its severity."""
    from pipeline.records import EVENTS

    rows = re.findall(r"^\| (info|warning|error) \| (.*) \|$", README, re.MULTILINE)
    shown = {kind: severity for severity, kinds in rows for kind in re.findall(r"`(\w+)`", kinds)}
    assert shown == EVENTS


def test_the_dead_letters_have_the_headers_that_are_named() -> None:
    """Whoever reads TOPIC.dead relies on these names."""
    from pipeline.records import DeadLetter
    from pipeline.run.dead_letters import _why

    letter = DeadLetter(
        topic="t", partition=0, offset=0, kind="k", reason="r", key=None, value=None
    )
    text = re.search(r"with the headers(.*?)and the stream goes on", README, re.DOTALL)
    assert text is not None
    assert re.findall(r"`(\w+)`", text[1]) == [name for name, _ in _why(letter)]


def test_the_steps_of_a_poll_are_those_of_the_code() -> None:
    """As many as the docstring of the loop numbers, in both."""
    from pipeline.run.stream import Streamer

    section = README.partition("## How it survives a crash")[2].partition("\n## ")[0]
    shown = re.findall(r"^(\d)\. (\w+)", section, re.MULTILINE)
    coded = re.findall(r"^\s+(\d)\. (\w+)", Streamer.poll_once.__doc__ or "", re.MULTILINE)
    assert [number for number, _ in shown] == [number for number, _ in coded]
    assert len(shown) == 8


def test_the_readme_opens_with_two_sentences() -> None:
    """Whoever reads no further still knows what it is for."""
    opening = README.split("\n\n")[1]
    assert len(re.findall(r"\.(?:\s|$)", opening)) == 2


def test_the_changelog_says_what_is_not_released_yet() -> None:
    """Keep a Changelog's form; the versions of the package agree."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]\n\n### (Added|Changed|Fixed)\n\n\* ", changelog, re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == pipeline.__version__


def test_the_notice_names_the_recording_that_is_not_ours() -> None:
    """The demo uses it, and the wheel does not contain it."""
    notice = (ROOT / "NOTICE").read_text()
    assert "Statlog (Shuttle)" in notice
    assert "river" in notice
    assert "no copy" in notice


def test_the_variable_shown_changes_the_setting_shown() -> None:
    """The example of an override works as it stands."""
    from pipeline.config import load

    (shown,) = re.findall(r"\((?:`)(TIDEMARK_SCORE_WINDOW)=(\d+)`", README)
    changed = load(None, dict([shown]))
    assert changed == replace(Settings(), score=replace(Settings().score, window=int(shown[1])))
