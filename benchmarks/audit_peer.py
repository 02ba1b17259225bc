"""MLflow in an environment of its own, with as many versions, asked by its own search.

Runs as a script inside that environment; `ask` starts it. One run and one version of a registered
model are made by its client, and repeated in its tables: by the client a version takes longer than
ten milliseconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("mlflow-skinny==3.17.2", "sqlalchemy", "alembic", "psycopg2-binary")
RUN_TABLES = ("runs", "latest_metrics", "metrics", "params", "tags")
VERSION_TABLES = ("model_versions", "model_version_tags")
ROWS = 5_000
#: Seconds of wall time and of processor time.
Taken = tuple[float, float]


def environment() -> str:
    """Its python; made under build/ if it is not there."""
    home = Path(__file__).parent.parent / "build" / "mlflow"
    python, made = home / "bin" / "python", home / ".installed"
    if not made.exists():
        print(f"making {home} with {', '.join(PACKAGES)}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES]
        subprocess.run(install, check=True, stdout=sys.stderr)
        made.touch()
    return str(python)


def ask(python: str, url: str, versions: int, calls: int, directory: Path) -> dict[str, Any]:
    """The times of each call by what was asked, and the version of MLflow."""
    command = [python, str(Path(__file__).resolve()), url, str(versions), str(calls)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=directory, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("versions", type=int)
    parser.add_argument("calls", type=int)
    args = parser.parse_args()
    import mlflow
    from mlflow.tracking import MlflowClient

    client = MlflowClient(args.url)
    experiment, start = _fill(client, args.url, args.versions)
    times: dict[str, list[Taken]] = {}
    for call in range(args.calls):
        number = 2 + (call * 7_919) % (args.versions - 1)  # the first keeps its own run
        for what, search in _searches(client, experiment, start, number).items():
            found, took = taken(search)
            times.setdefault(what, []).append(took)
            if not found:
                raise SystemExit(f"{what} found nothing for version {number}")
    print(json.dumps({"version": mlflow.__version__, "taken": times}))


def taken(ask: Callable[[], Any]) -> tuple[Any, Taken]:
    """An answer; seconds of the call, and of this thread's processor time in it."""
    began, cpu = time.perf_counter(), time.thread_time()
    answer = ask()
    return answer, (time.perf_counter() - began, time.thread_time() - cpu)


def _searches(client: Any, experiment: str, start: int, number: int) -> dict[str, Any]:
    """What comes nearest to our questions."""
    newest = ["attributes.start_time DESC"]
    return {
        "search_runs: the newest made before T": lambda: client.search_runs(
            [experiment], f"attributes.start_time <= {start + number}", max_results=1,
            order_by=newest,
        ),
        "search_model_versions: of one run": lambda: client.search_model_versions(
            f"name='plant' and run_id='{number:032d}'", max_results=1
        ),
        "search_model_versions: 100 refused": lambda: client.search_model_versions(
            "name='plant' and tag.status='rejected'", max_results=100
        ),
    }  # fmt: skip


def _fill(client: Any, url: str, versions: int) -> tuple[str, int]:
    """The experiment, and the time of its first run in milliseconds."""
    from sqlalchemy import MetaData, create_engine, insert, select, text, update

    experiment = client.create_experiment("plant")
    run = client.create_run(experiment, tags={"trigger": "boundary"}).info.run_id
    for name in ("loss_before", "loss_after", "seconds", "steps", "lambda", "forgetting"):
        client.log_metric(run, name, 0.5)
    client.log_param(run, "lr", "0.006")
    client.create_registered_model("plant")
    client.create_model_version("plant", "file:///plant", run, tags={"status": "rejected"})
    engine, meta = create_engine(url), MetaData()
    meta.reflect(engine, only=(*RUN_TABLES, *VERSION_TABLES))
    with engine.begin() as conn:
        like = {
            name: [dict(row) for row in conn.execute(select(meta.tables[name])).mappings()]
            for name in (*RUN_TABLES, *VERSION_TABLES)
        }
        start = like["runs"][0]["start_time"]
        for first in range(1, versions + 1, ROWS):
            numbers = range(first, min(first + ROWS, versions + 1))
            for name, rows in like.items():
                table = meta.tables[name]
                made = [_again(name, row, n, start) for n in numbers for row in rows]
                conn.execute(insert(table), [row for row in made if row is not None])
        tags = meta.tables["model_version_tags"]
        odd = (tags.c.version % 2 == 1) & (tags.c.key == "status")
        conn.execute(update(tags).where(odd).values(value="retired"))
    if engine.dialect.name == "postgresql":  # as ours: without it one search takes minutes
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
            conn.execute(text("VACUUM ANALYZE"))
    engine.dispose()
    return experiment, start


def _again(table: str, row: dict[str, Any], number: int, start: int) -> dict[str, Any] | None:
    """A row of the template as run or version `number` has it; version 1 is there."""
    changed = dict(row)
    if table in RUN_TABLES:
        changed["run_uuid"] = f"{number:032d}"
    elif number == 1:
        return None
    if table == "runs":
        changed |= {"start_time": start + number, "name": f"run-{number}"}
    if table in VERSION_TABLES:
        changed["version"] = number
    if table == "model_versions":
        changed |= {"run_id": f"{number:032d}", "creation_time": start + number}
    return changed


if __name__ == "__main__":
    main()
