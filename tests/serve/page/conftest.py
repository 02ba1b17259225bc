from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.config import Database
from pipeline.register.sql import SqlRegistry
from tests.register.making import hasty
from tests.serve.http.serving import served
from tests.serve.page.running import STREAM, run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@dataclass(frozen=True)
class Site:
    """A server over a run, and what it serves."""

    url: str
    registry: SqlRegistry

    def at(self, where: str = "") -> str:
        """The address of a page."""
        return f"{self.url}#/{where}"

    @property
    def stream(self) -> str:
        """The address of the stream's page."""
        return self.at(f"stream/{STREAM}")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser; skipped without one, and in CI failed."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "no playwright: pip install --group dev"
    else:
        missing = "" if CHROMIUM.exists() else f"no {CHROMIUM}: apt-get install chromium"
    if missing:
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def ran(chromium: Browser, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database after a real run; to be copied. Not made where nobody can look at it."""
    directory = tmp_path_factory.mktemp("ran")
    file = directory / "tidemark.db"
    shutil.copy(sqlite_template, file)
    with _opened(file) as registry:
        run(registry, registry.database, directory)
    return file


@contextmanager
def _opened(file: Path) -> Iterator[SqlRegistry]:
    registry = hasty(SqlRegistry(Database(url=f"sqlite:///{file}")))
    try:
        yield registry
    finally:
        registry.close()


@contextmanager
def serving(ran: Path, directory: Path, **serve: Any) -> Iterator[Site]:
    """A server of its own over a copy of the run."""
    file = directory / "tidemark.db"
    shutil.copy(ran, file)
    with _opened(file) as registry, served(registry, **serve) as server:
        yield Site(f"http://127.0.0.1:{server.port}/", registry)


@pytest.fixture(scope="session")
def site(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server for all who only look."""
    with serving(ran, tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def own_site(ran: Path, tmp_path: Path) -> Iterator[Site]:
    """A server for a test that changes something."""
    with serving(ran, tmp_path) as site:
        yield site


@contextmanager
def looking(chromium: Browser, *, refused: str = "none", **how: Any) -> Iterator[Page]:
    """A tab in a profile of its own, which may say nothing on its console but that it was refused.

    refused: with which status; the browser itself says so.
    """
    context = chromium.new_context(
        **{"viewport": {"width": 1200, "height": 850}, "timezone_id": "UTC", "locale": "en-GB"}
        | how
    )
    said: list[str] = []
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        yield page
        assert not [text for text in said if f"status of {refused}" not in text]
    finally:
        context.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A tab as on a desk."""
    with looking(chromium) as page:
        yield page


def opened(page: Page, where: str) -> Page:
    """The tab, once the page there is drawn."""
    page.goto(where)
    page.wait_for_selector("main[data-ready]")
    return page
