"""Commands that go through the dead letters: look, send back, or put aside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.shared import Json, Reason, StreamName, Who, name_of, opened_stream, print_json
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from threading import Event

    from pipeline.run.letters import Done, Wanted

app = typer.Typer(
    help="Bad records: how many and why; send them back, or put them aside.", no_args_is_help=True
)


class State(StrEnum):
    """What became of a letter."""

    open = "open"
    replaying = "replaying"
    replayed = "replayed"
    returned = "returned"
    dropped = "dropped"


Kinds = Annotated[
    list[str] | None, typer.Option("--kind", help="Only of this kind; may be repeated.")
]
Partition = Annotated[
    int | None, typer.Option("--partition", help="Only of this partition of the topic.", min=0)
]
Offset = Annotated[
    int | None, typer.Option("--offset", help="Only the record at this offset.", min=0)
]
Since = Annotated[
    str | None, typer.Option("--since", help="Only letters since then: ISO 8601 with zone.")
]
States = Annotated[
    list[State] | None, typer.Option("--state", help="Only in this state; may be repeated.")
]
Limit = Annotated[int | None, typer.Option("--limit", help="The first so many, at most.", min=1)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")]
All = Annotated[bool, typer.Option("--all", help="All there are, without a filter.")]


@app.command("list")
def list_(
    kinds: Kinds = None,
    partition: Partition = None,
    offset: Offset = None,
    since: Since = None,
    states: States = None,
    newest: Annotated[
        int, typer.Option("--limit", help="Letters to show, the newest.", min=0)
    ] = 20,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """How many letters of each kind, what became of them, and the newest."""
    from pipeline.run.letters import find
    from pipeline.run.letters_report import print_survey, survey

    wanted = _wanted(kinds, partition, offset, since, states)
    with _desk(stream_name, "read") as desk:
        found = survey(find(desk.log, desk.book, wanted, desk.show), newest)
    if as_json:
        print_json({"stream": desk.stream} | found)
    else:
        print_survey(found)


@app.command()
def show(
    partition: Annotated[int, typer.Argument(help="Of the bad record, in the topic.", min=0)],
    offset: Annotated[int, typer.Argument(help="Of the bad record, in the topic.", min=0)],
    longest: Annotated[
        int, typer.Option("--longest", help="Characters of key and value to show.", min=1)
    ] = 2000,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """One letter with its body, safe to look at; --json has all of its bytes, as base64."""
    from pipeline.run.letters import find
    from pipeline.run.letters_report import print_letter, whole

    wanted = _wanted(None, partition, offset, None, None)
    with _desk(stream_name, "read") as desk:
        found = list(find(desk.log, desk.book, wanted, desk.show))
    if not found:
        raise PipelineError(f"no dead letter of partition {partition}, offset {offset}")
    if as_json:
        print_json([whole(letter, longest) for letter in found])
        return
    for letter in found:
        print_letter(letter, longest)


@app.command()
def replay(
    reason: Reason,
    actor: Who = None,
    kinds: Kinds = None,
    partition: Partition = None,
    offset: Offset = None,
    since: Since = None,
    states: States = None,
    every: All = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also those replayed, dropped or returned before."),
    ] = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Send letters back to their partition of the topic, once, marked by a header."""
    from pipeline.run.letters import replay as send_back

    wanted = _wanted(kinds, partition, offset, since, states)
    _check_filter(wanted, limit, every)
    with _desk(stream_name, "replay") as desk, desk.connected() as (source, sink):
        done = send_back(
            desk.log,
            source,
            sink,
            desk.book,
            wanted,
            topic=desk.stream,
            actor=name_of(actor),
            reason=reason,
            again=again,
            limit=limit,
            dry_run=dry_run,
            turn=desk.turn,
            show=desk.show,
        )
    _tell(desk.stream, done, "replayed", dry_run, as_json)


@app.command()
def drop(
    reason: Reason,
    actor: Who = None,
    kinds: Kinds = None,
    partition: Partition = None,
    offset: Offset = None,
    since: Since = None,
    states: States = None,
    every: All = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    stream_name: StreamName = None,
    as_json: Json = False,
) -> None:
    """Decide that letters are wanted no more. Kafka keeps their bytes until retention ends."""
    from pipeline.run.letters import drop as put_aside

    wanted = _wanted(kinds, partition, offset, since, states)
    _check_filter(wanted, limit, every)
    with _desk(stream_name, "drop") as desk:
        done = put_aside(
            desk.log,
            desk.book,
            wanted,
            actor=name_of(actor),
            reason=reason,
            limit=limit,
            dry_run=dry_run,
            turn=desk.turn,
            show=desk.show,
        )
    _tell(desk.stream, done, "dropped", dry_run, as_json)


class _Desk:
    """What every command here works with."""

    def __init__(self, stream_name: str | None, stop: Event, held: ExitStack, what: str) -> None:
        from pipeline.ingest.kafka_log import KafkaLog
        from pipeline.register.letters import LetterBook
        from pipeline.run.letters import Turn
        from pipeline.run.processes import owner_name
        from pipeline.run.progress import bar

        settings, registry, known = held.enter_context(opened_stream(stream_name))
        self.kafka, self.stream, self.stop = settings.kafka, known.name, stop
        self.log = held.enter_context(closing(KafkaLog(self.kafka, f"{known.name}.dead")))
        self.book = held.enter_context(closing(LetterBook(settings.database, known.id)))
        self.turn = Turn(registry, f"dlq:{known.id}", owner_name("dlq"), settings.run.lease_s, stop)
        held.callback(self.turn.end)
        self._show = held.enter_context(bar(what))

    def show(self, done: int, total: int | None = None, what: str | None = None) -> None:
        """Progress; Ctrl-C ends here."""
        if self.stop.is_set():
            raise KeyboardInterrupt
        self._show(done, total, what)

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """The topic that letters go back to, to read and to write."""
        from pipeline.ingest.kafka_log import KafkaLog
        from pipeline.ingest.kafka_sink import KafkaSink

        with (
            closing(KafkaLog(self.kafka, self.stream, isolation="read_uncommitted")) as source,
            closing(KafkaSink(self.kafka)) as sink,
        ):
            yield source, sink


@contextmanager
def _desk(stream_name: str | None, what: str) -> Iterator[_Desk]:
    from pipeline.run.signals import stop_on_signals

    stop = stop_on_signals()
    with ExitStack() as held:
        yield _Desk(stream_name, stop, held, what)


def _wanted(
    kinds: list[str] | None,
    partition: int | None,
    offset: int | None,
    since: str | None,
    states: list[State] | None,
) -> Wanted:
    from pipeline.run.letters import Wanted
    from pipeline.serve.times import parse_time

    return Wanted(
        kinds=tuple(kinds or ()),
        partition=partition,
        offset=offset,
        since=None if since is None else parse_time(since),
        states=tuple(state.value for state in states or ()),
    )


def _check_filter(wanted: Wanted, limit: int | None, every: bool) -> None:
    """Nobody acts on everything by leaving something out."""
    from pipeline.run.letters import Wanted

    if wanted == Wanted() and limit is None and not every:
        raise typer.BadParameter(
            "say which: --kind, --partition, --offset, --since, --state or --limit; or --all"
        )


def _tell(stream: str, done: Done, what: str, dry_run: bool, as_json: bool) -> None:
    if as_json:
        facts = {"settled": done.settled, "skipped": dict(done.skipped), "dry_run": dry_run}
        print_json({"stream": stream, what: done.letters} | facts)
        return
    typer.echo(f"{'would be ' if dry_run else ''}{what}: {done.letters:,} letters of {stream}")
    if done.settled:
        typer.echo(f"{done.settled:,} more had been sent by a run that did not end")
    for why, number in done.skipped.items():
        typer.echo(f"left out ({why}): {number:,}")
