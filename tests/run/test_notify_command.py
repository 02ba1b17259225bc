"""`tidemark notify test|list`, and what apprise is given, by a stand-in for it: it is an extra."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest

from pipeline.config import Database, Notify
from tests.register.making import Clock, opened
from tests.run import command
from tests.run.receiving import Inbox, listening
from tests.run.test_notifier import Listed, post, silent

SECRET = "a secret of the plant's own"
#: apprise's URLs hold passwords.
URLS = "mailto://ada:canary@plant.example tgram://canary/7"

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with listening(Inbox()) as inbox:
        yield inbox


@pytest.fixture
def tidemark(tmp_path: Path, sqlite_at_head: Database, inbox: Inbox) -> Run:
    """The command, with a webhook `on-call` and a rule `mail` for apprise."""
    (tmp_path / "tidemark.toml").write_text(
        f"""
        [database]
        url = "{sqlite_at_head.url}"
        [stream]
        publish_events = false
        [[notify]]
        name = "on-call"
        url = "{inbox.url}"
        secret_variable = "ON_CALL"
        severity = "error"
        [[notify]]
        name = "mail"
        secret_variable = "MAIL"
        """
    )

    def run(*arguments: str) -> CompletedProcess[str]:
        environ = {"TIDEMARK_CONFIG": "tidemark.toml", "ON_CALL": SECRET, "MAIL": URLS}
        return command.tidemark(tmp_path, "notify", *arguments, **environ)

    return run


class Apprise:
    """As apprise has it, which sends nothing: what it was asked for, and what it answers."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.notified: list[dict[str, str]] = []
        self.known = self.delivers = True

    def add(self, url: str) -> bool:
        self.urls.append(url)
        return self.known

    def notify(self, **message: str) -> bool:
        self.notified.append(message)
        return self.delivers


@pytest.fixture
def apprise(monkeypatch: pytest.MonkeyPatch) -> Apprise:
    made = Apprise()
    types = SimpleNamespace(INFO="info", WARNING="warning", FAILURE="failure")
    stand_in = SimpleNamespace(Apprise=lambda: made, NotifyType=types)
    monkeypatch.setitem(sys.modules, "apprise", stand_in)
    return made


def test_a_test_reaches_a_webhook_whatever_its_rule_wants(tidemark: Run, inbox: Inbox) -> None:
    """It is no error, and the rule asks for errors only; signed as anything else is."""
    done = tidemark("test", "on-call", "--json")
    assert done.returncode == 0, done.stderr
    (message,) = inbox.taken
    assert json.loads(done.stdout) == {"rule": "on-call", "id": message["id"]}
    assert (message["kinds"], message["text"]) == ({"test": 1}, "This is a test of on-call.")
    ((headers, content),) = inbox.tried
    signed = headers["Tidemark-Timestamp"].encode() + b"." + content
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["Tidemark-Signature"] == f"v1={digest}"
    said = tidemark("test", "on-call").stdout
    assert said == f"on-call took the message {inbox.taken[1]['id']}\n"
    assert inbox.taken[0]["id"] != inbox.taken[1]["id"]


def test_a_test_that_does_not_arrive_fails_in_one_line(tidemark: Run, inbox: Inbox) -> None:
    """It is tried once: a person sees what comes of it."""
    inbox.answers = [500]
    failed(tidemark("test", "on-call"), "it answered 500")
    assert len(inbox.tried) == 1
    failed(tidemark("test", "nobody"), "no [[notify]] nobody; known: on-call, mail")


def test_apprise_is_given_the_urls_and_one_message(tidemark: Run, apprise: Apprise) -> None:
    """Title, text and how grave it is, as apprise's own kinds have it."""
    done = tidemark("test", "mail", "--json")
    assert done.returncode == 0, done.stderr
    assert apprise.urls == URLS.split()
    (message,) = apprise.notified
    assert (message["title"], message["notify_type"]) == ("tidemark : test", "info")
    text, _, last = message["body"].partition("\n")
    assert text == "This is a test of mail."
    assert last.endswith(f" {json.loads(done.stdout)['id']}")


def test_what_apprise_does_not_take_fails_without_its_secrets(
    tidemark: Run, apprise: Apprise
) -> None:
    """A URL that it does not know, and a message that it could not deliver."""
    apprise.delivers = False
    failed(tidemark("test", "mail"), "apprise could not deliver it")
    apprise.known = False
    failed(tidemark("test", "mail"), "notify mail: a URL is none that apprise knows")
    assert len(apprise.notified) == 1


def test_without_apprise_it_says_what_to_install(
    tidemark: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    needs = "notify mail: needs apprise: pip install 'tidemark[notify]'"
    failed(tidemark("test", "mail"), needs)


def failed(done: CompletedProcess[str], line: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"tidemark: {line}\n"
    assert "canary" not in done.stderr


def test_every_rule_is_listed_with_what_it_has_still_to_tell(
    tidemark: Run, sqlite_at_head: Database
) -> None:
    """One that fell behind says by how much and why, as JSON and for people."""
    with opened(sqlite_at_head, Clock()) as registry:
        stream = registry.open_stream("press", ["heat", "flow"])
        mail = Notify(name="mail", secret_variable="MAIL")
        teller = post(registry, Listed("it was cut off"), mail)
        for row in (1, 2):
            silent(registry, stream, row)
        teller.step()
    done = tidemark("list", "--json")
    behind, on_call = json.loads(done.stdout)
    assert (on_call["rule"], on_call["stream"], on_call["behind"]) == ("on-call", None, 0)
    expected = {"rule": "mail", "stream": "press", "behind": 2, "attempts": 1, "told": None}
    assert behind.items() >= (expected | {"error": "it was cut off"}).items()
    lines = [line.split(maxsplit=1) for line in tidemark("list").stdout.splitlines()]
    for name, value in (("rule:", "mail"), ("rule:", "on-call"), ("behind:", "2")):
        assert [name, value] in lines
    assert ["error:", "it was cut off"] in lines


def test_without_a_rule_nobody_is_told(sqlite_at_head: Database, tmp_path: Path) -> None:
    """Nor is anything published."""
    environ = {
        "TIDEMARK_DATABASE_URL": sqlite_at_head.url,
        "TIDEMARK_STREAM_PUBLISH_EVENTS": "false",
    }
    done = command.tidemark(tmp_path, "notify", "list", **environ)
    assert (done.returncode, done.stdout) == (0, "nobody is told: there is no [[notify]]\n")
