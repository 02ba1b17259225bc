"""The main job on an embedded broker and SQLite: `tidemark demo`.

Real processes, exactly those of production: a broker, `tidemark replay` and `tidemark run`, which
starts stream, train and schedule. This process only starts them, watches SQL, ends them, reports.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from pipeline.config import (
    Database,
    Detect,
    Kafka,
    Learn,
    Run,
    Serve,
    Settings,
    Stream,
    as_toml,
    plain_environment,
)
from pipeline.errors import PipelineError
from pipeline.ingest.embedded import EmbeddedBroker
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from pipeline.run import shuttle
from pipeline.run.progress import bar
from pipeline.run.supervisor import end, spawn
from pipeline.run.turnaround import loaded

TOPIC = "shuttle"
PARTITIONS = 4
#: Readings a second, so that the whole recording takes about half a minute.
RATE = 500
#: The demo gives up after, in seconds.
LIMIT_S = 240.0
#: Marks a directory as one that the demo made, and may empty.
MARKER = ".tidemark-demo"
#: Log lines of all processes.
LOG = "log.jsonl"


def run_demo(
    directory: Path,
    stop: threading.Event,
    *,
    keep: bool,
    ready: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    """Run the whole line; the report. With `keep`, wait for `stop` after `ready(report)`.

    Raises
    ------
    KeyboardInterrupt
        `stop` was set before the line came to rest.
    PipelineError
        A process ended before its time, or the line did not come to rest within LIMIT_S.
    """
    from pipeline.run.report import report

    started = time.monotonic()
    _prepare(directory)
    recording = shuttle.write(directory / "shuttle.csv")
    topics = {TOPIC: PARTITIONS} | dict.fromkeys(Stream(topic=TOPIC).result_topics, 1)
    with EmbeddedBroker(topics) as broker:
        settings = _settings(directory, broker.address)
        config = directory / "tidemark.toml"
        config.write_text(as_toml(settings))
        upgrade(settings.database)
        registry = SqlRegistry(settings.database)
        try:
            with _processes(config, recording.path, directory) as processes:
                _watch(registry, recording.rows, processes, stop)
                with (directory / LOG).open(errors="replace") as log:
                    champions = loaded(log)
                answer = report(settings, registry, recording, champions)
                answer["seconds"] = round(time.monotonic() - started, 1)
                if ready is not None:
                    ready(answer)
                if keep:
                    _wait(settings, config, processes, stop)
        finally:
            registry.close()
    return answer


def _prepare(directory: Path) -> None:
    """Empty a directory that an earlier demo made; refuse any other that holds something."""
    try:
        if directory.exists() and any(directory.iterdir()):
            if not (directory / MARKER).exists():
                raise PipelineError(f"{directory} is not empty: name another with --directory")
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MARKER).touch()
    except OSError as exc:
        raise PipelineError(f"{directory}: {exc.strerror}: name another with --directory") from exc


def _settings(directory: Path, address: str) -> Settings:
    """Production's defaults but for the broker, the file, and segments as short as these."""
    return Settings(
        kafka=Kafka(
            bootstrap_servers=address,
            group_id="tidemark-demo",
            api_version="2.3",
            session_timeout_ms=6000,
            compression="none",
        ),
        stream=Stream(topic=TOPIC, channels=shuttle.CHANNELS),
        database=Database(url=f"sqlite:///{(directory / 'tidemark.db').absolute()}"),
        detect=Detect(settle_after=120),
        learn=Learn(adapt_after=128, refine_after=0),
        serve=Serve(port=_free_port()),
        run=Run(checkpoint_interval_s=1.0, poll_timeout_s=0.2, lease_s=15.0, log_format="json"),
    )


@contextmanager
def _processes(
    config: Path, recording: Path, directory: Path
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """`tidemark run` and `tidemark replay`, their log lines in a file, ended whatever happens."""
    with (directory / LOG).open("ab") as out:
        processes = {"run": spawn("run", config, env=plain_environment(), out=out)}
        try:
            processes["replay"] = _replay(config, recording, out)
            yield processes
        finally:
            end(list(processes.values()), patience_s=10.0)


def _replay(config: Path, recording: Path, out: IO[bytes]) -> subprocess.Popen[bytes]:
    arguments = [str(recording), "--topic", TOPIC, "--series-column", "series"]
    arguments += ["--time-column", "time", "--rate", str(RATE), "--max-lag", "5000"]
    return spawn("replay", config, *arguments, env=plain_environment(), out=out)


def _watch(
    registry: SqlRegistry,
    rows: int,
    processes: dict[str, subprocess.Popen[bytes]],
    stop: threading.Event,
) -> None:
    """Show how far the line is until every record is checkpointed and every request is done."""
    deadline = time.monotonic() + LIMIT_S
    with bar("readings through the line", rows) as progress:
        while True:
            if stop.wait(0.2):
                raise KeyboardInterrupt
            _check_alive(processes)
            done, open_requests = registry.progress()
            progress(min(done, rows), None)
            if done >= rows and not open_requests:
                return
            if time.monotonic() > deadline:
                raise PipelineError(f"the demo did not come to rest: {done} of {rows} readings")


def _check_alive(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in processes.items():
        code = process.poll()
        if code is not None and not (name == "replay" and code == 0):
            raise PipelineError(f"`tidemark {name}` ended with code {code}: see {LOG}")


def _wait(
    settings: Settings,
    config: Path,
    processes: dict[str, subprocess.Popen[bytes]],
    stop: threading.Event,
) -> None:
    """Show the page, if what serves it is installed, until `stop` is set."""
    ask = f"tidemark --config {config} audit history"
    end = f"Ask it: {ask}. Ctrl-C ends it."
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        look = "To look at it: pip install 'tidemark[serve]'"
    else:
        with (config.parent / LOG).open("ab") as out:
            processes["serve"] = spawn("serve", config, env=plain_environment(), out=out)
        _await_page(settings.serve, processes, stop)
        look = f"Look at it: http://{settings.serve.host}:{settings.serve.port}/"
    print(f"\nStill running. {end}\n{look}", file=sys.stderr, flush=True)  # noqa: T201
    stop.wait()


def _await_page(
    serve: Serve, processes: dict[str, subprocess.Popen[bytes]], stop: threading.Event
) -> None:
    """Until somebody listens there; PipelineError if that process ends instead."""
    while not stop.wait(0.1):
        _check_alive(processes)
        with suppress(OSError), socket.create_connection((serve.host, serve.port), timeout=1):
            return


def _free_port() -> int:
    """The usual port, or any that nobody listens on."""
    for port in (Serve().port, 0):
        with suppress(OSError), socket.create_server((Serve().host, port)) as listener:
            return int(listener.getsockname()[1])
    raise PipelineError("no port is free to serve the page on")
