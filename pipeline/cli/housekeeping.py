"""Commands that prepare and check: schema, settings, whether all is there."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.shared import Json, options, print_json, read_settings

app = typer.Typer()


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring the database's schema to head."""
    from pipeline.register.migrate import current_and_head, upgrade

    settings = read_settings()
    upgrade(settings.database)
    current, head = current_and_head(settings.database)
    if as_json:
        print_json({"current": current, "head": head})
    else:
        typer.echo(f"schema at {current} (head)")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check settings, broker and database, and say what to do."""
    from pipeline.run.doctor import examine

    checks = examine(options.config)
    if as_json:
        print_json({"ok": all(c["ok"] for c in checks), "checks": checks})
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['message']}")
    failed = {check["name"] for check in checks if not check["ok"]}
    if failed:
        raise typer.Exit(2 if "settings" in failed else 1)


@app.command()
def config(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of the README instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print every setting with its help and default, as a TOML file to start from."""
    from pipeline.config import as_markdown, as_toml, keys

    if as_json:
        print_json(
            {f"{k.section}.{k.name}": {"default": k.default, "help": k.help} for k in keys()}
        )
    else:
        typer.echo(as_markdown() if markdown else as_toml(), nl=False)
