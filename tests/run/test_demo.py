"""The main job, end to end, as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(directory: Path, *options: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "demo", "--directory", str(directory), *options],
        cwd=ROOT,
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def descendants(session: int) -> list[str]:
    """Command lines of the processes that still belong to a session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (ProcessLookupError, FileNotFoundError, PermissionError):
            continue
    return [line for line in found if line]


@pytest.mark.timeout(240)
def test_the_demo_finds_the_boundaries_and_forgets_nothing(tmp_path: Path) -> None:
    """What the issue promises of the JSON: boundaries, versions, retention, baselines, audit.

    And from a shell that is set up for production nothing of the demo gets there.
    """
    production = tmp_path / "production.db"
    process = start(
        tmp_path / "demo",
        "--json",
        TIDEMARK_CONFIG=str(tmp_path / "production.toml"),
        TIDEMARK_DATABASE_URL=f"sqlite:///{production}",
        TIDEMARK_KAFKA_GROUP_ID="production",
        TIDEMARK_OF_ANOTHER_VERSION="1",
    )
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    answer = json.loads(out)
    found = answer["boundaries"]
    assert found["hits"] >= 0.8 * found["true_count"]
    assert found["false"] <= found["true_count"]
    # An early name may be withdrawn: it is in no later version.
    tasks = answer["versions"][-1]["skills"]
    assert len(tasks) >= 2
    assert len(answer["versions"]) >= 2  # a slow machine's take several regimes along
    baselines = {name: line["average"] for name, line in answer["baselines"].items()}
    assert baselines["champion"] > baselines["naive"]
    assert baselines["champion"] > baselines["frozen"]
    assert {v["fate"] for v in answer["versions"]} <= {"champion", "retired", "rejected"}
    assert [v["fate"] for v in answer["versions"]].count("champion") == 1
    assert set(answer["audit"]) == {"live-at", "why", "metrics-at"}
    assert answer["audit"]["live-at"]["version"] == answer["audit"]["why"]["version"]
    assert answer["audit"]["why"]["boundary"]["series"].startswith("orbiter-")
    assert answer["retention"]["R"]
    assert answer["seconds"] > 0
    assert not production.exists()
    assert descendants(process.pid) == []


@pytest.mark.parametrize(
    ("file", "says"),
    [(".tidemark-demo", ""), ("log.jsonl", ""), ("log.jsonl", "champion_loaded")],
)
@pytest.mark.timeout(120)
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, file: str, says: str) -> None:
    """While it starts, while its processes start, while they run: SIGINT to the whole group."""
    process = start(tmp_path / "demo")
    path = tmp_path / "demo" / file
    while not (path.exists() and says in path.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _out, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    deadline = time.monotonic() + 10
    while descendants(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert descendants(process.pid) == []
    assert "Traceback" not in errors


def test_a_directory_with_other_files_is_not_touched(tmp_path: Path) -> None:
    """The demo empties what it made itself, and nothing else."""
    (tmp_path / "thesis.tex").write_text("years of work")
    process = start(tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "is not empty" in errors
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
