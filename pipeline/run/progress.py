"""Long work on a terminal: a progress bar on standard error, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """How many a second, lately."""

    def render(self, task: Task) -> Text:
        """Nothing until there is something to measure."""
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


class Show(Protocol):
    """Told how far the work is."""

    def __call__(self, done: int, total: int | None = None, what: str | None = None) -> None:
        """The total may come later, and another part of the work begin: `what`."""


def silent(done: int, total: int | None = None, what: str | None = None) -> None:
    """Shows nothing."""


@contextmanager
def bar(what: str, total: int | None = None) -> Iterator[Show]:
    """A function to call with what is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=total)

        def update(done: int, total: int | None = None, what: str | None = None) -> None:
            progress.update(task, completed=done, total=total, description=what)

        yield update
