"""Command lines as the real one takes them apart, without running them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer


def root() -> Any:
    """The whole command line, as click sees it."""
    from pipeline.cli import app

    return typer.main.get_command(app)


def parse(arguments: list[str]) -> None:
    """Raise click's usage error if a command, option or argument is none that exists."""
    command = root()
    context = command.make_context("tidemark", list(arguments))
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        if not rest and command.invoke_without_command:
            return
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def names(command: Any = None, before: str = "tidemark") -> Iterator[str]:
    """Every command in full: `tidemark audit why`."""
    for name, child in (root() if command is None else command).commands.items():
        if hasattr(child, "commands"):
            if child.invoke_without_command:
                yield f"{before} {name}"
            yield from names(child, f"{before} {name}")
        else:
            yield f"{before} {name}"
