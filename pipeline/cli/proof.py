"""Commands by which the history proves itself; they stand among those of `audit`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.shared import Json, Number, StreamName, print_json, read_settings
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.register.findings import Finding

app = typer.Typer()

Anchors = Annotated[
    list[str] | None,
    typer.Option("--anchor", help="FILE or kafka:TOPIC with anchors; may be given again."),
]
PublicKey = Annotated[
    Path | None, typer.Option("--public-key", help="File of the key that signed them all.")
]
#: Findings that are printed, at most.
SHOWN = 100


@app.command()
def verify(
    anchors: Anchors = None,
    public_key: PublicKey = None,
    tables: Annotated[
        bool, typer.Option("--tables/--no-tables", help="Compare the tables with the ledger too.")
    ] = True,
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="Compare every artifact with its hash too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Whether ledger and tables are as they were written; what is not, and what was done to it."""
    from pipeline.register.migrate import check_schema
    from pipeline.register.proof import note
    from pipeline.register.proof import verify as prove
    from pipeline.run.anchoring import kept
    from pipeline.run.keys import verifier
    from pipeline.run.progress import bar

    settings = read_settings(quiet=True)
    check_schema(settings.database)
    signed = verifier(public_key) if public_key else None
    known = kept(settings, anchors or ())
    with bar("ledger") as show:
        proof = prove(
            settings.database,
            anchors=known,
            signed=signed,
            tables=tables,
            contents=artifacts,
            progress=show,
        )
    note(settings.database, proof, actor="verify")
    looked = {
        "entries": proof.head.entries,
        "head": proof.head.hash,
        "anchors": proof.anchors,
        "artifacts": proof.artifacts,
    }
    tell(looked, proof.findings, as_json)


@app.command()
def anchor(
    to: Annotated[
        str | None, typer.Option("--to", help="FILE (a line is added) or kafka:TOPIC.")
    ] = None,
    sign: Annotated[Path | None, typer.Option("--sign", help="File of a private key.")] = None,
    actor: Annotated[str, typer.Option("--actor", help="Who asks; kept for the audit.")] = (
        "tidemark"
    ),
) -> None:
    """Print the ledger's head, or keep it elsewhere: a cut-off tail is found by it."""
    from pipeline.register.migrate import check_schema
    from pipeline.run.anchoring import anchor as keep

    settings = read_settings(quiet=True)
    check_schema(settings.database)
    made = keep(settings, to=to, key=sign, actor=actor)
    typer.echo(made.line.decode(), nl=False)


@app.command()
def key(file: Annotated[Path, typer.Argument(help="File for the private key.")]) -> None:
    """Make a pair of Ed25519 keys, to sign anchors: FILE, and FILE.pub to check them by."""
    from pipeline.run.keys import make

    typer.echo(f"private key: {file}\npublic key: {make(file)}")


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", help="A new file, a zip.")],
    stream_name: Annotated[
        str | None, typer.Argument(metavar="STREAM", help="Of this stream alone; default: of all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write ledger, tables and weights to one file that proves itself without a database."""
    from pipeline.register.bundle import export as write
    from pipeline.register.migrate import check_schema
    from pipeline.run.progress import bar

    settings = read_settings(quiet=True)
    check_schema(settings.database)
    with bar("export") as show:
        made = write(settings.database, to, stream_name, show)
    size, files = to.stat().st_size, len(made.files)
    if as_json:
        told = {"entries": made.entries, "files": files, "bytes": size, "head": made.head}
        print_json({"file": str(to), **told})
    else:
        typer.echo(f"{to}: {made.entries:,} entries, {files:,} files, {size:,} bytes")
        typer.echo(f"head {made.head}")


@app.command("verify-bundle")
def verify_bundle(
    file: Annotated[Path, typer.Argument(help="What `audit export` wrote.")],
    anchors: Anchors = None,
    public_key: PublicKey = None,
    as_json: Json = False,
) -> None:
    """Whether a bundle is as it was written, and in itself consistent; needs no database."""
    from pipeline.register.unbundle import verify_bundle as look
    from pipeline.run.anchoring import kept
    from pipeline.run.keys import verifier
    from pipeline.run.progress import bar

    signed = verifier(public_key) if public_key else None
    known = kept(read_settings(quiet=True), anchors or ())
    with bar("bundle") as show:
        looked = look(file, anchors=known, signed=signed, progress=show)
    manifest = looked.manifest
    told = {"entries": manifest.entries, "files": len(manifest.files)}
    tell(told | {"anchors": looked.anchors, "head": manifest.head}, looked.findings, as_json)


@app.command()
def reproduce(number: Number, stream_name: StreamName = None, as_json: Json = False) -> None:
    """Train a version again from what SQL keeps, in a fresh process, and compare the bytes."""
    import msgspec

    from pipeline.register.migrate import check_schema
    from pipeline.run.reproduce import reproduce as again

    settings = read_settings(quiet=True)
    check_schema(settings.database)
    made = again(settings, stream_name or settings.stream.topic, number)
    if as_json:
        print_json(msgspec.to_builtins(made))
    else:
        typer.echo(made.sentence)
    if made.verdict == "differs":
        raise typer.Exit(1)


def tell(looked: dict[str, Any], findings: Sequence[Finding], as_json: bool) -> None:
    """Print what was looked at and a line for each finding; exit code 1 if there is one."""
    import msgspec

    if as_json:
        print_json(looked | {"findings": msgspec.to_builtins(findings)})
    else:
        for finding in findings[:SHOWN]:
            typer.echo(_line(finding))
        if len(findings) > SHOWN:
            typer.echo(f"and {len(findings) - SHOWN:,} more")
        sizes = [f"{looked[name]:,} {name}" for name in looked if isinstance(looked[name], int)]
        typer.echo(f"{', '.join(sizes)}; head {looked['head']}")
        typer.echo(f"{len(findings):,} findings" if findings else "all is as it was written")
    if findings:
        raise typer.Exit(1)


def _line(finding: Finding) -> str:
    """`ledger: entry 17 (boundary, 2026-...) edited: ...`"""
    from pipeline.serve.answers import iso
    from pipeline.telemetry import printable

    at: Any = finding.at
    with suppress(PipelineError, TypeError):  # what was changed need be no time
        at = iso(at)
    known = ", ".join(str(each) for each in (finding.kind, at) if each is not None)
    entry = "" if finding.entry is None else f" entry {finding.entry}"
    return printable(
        f"{finding.where}:{entry}{f' ({known})' if known else ''} {finding.what}: {finding.detail}"
    )
