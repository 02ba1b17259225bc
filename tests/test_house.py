"""The rules of the house that no linter knows: one place for each outside thing, clean papers."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = {str(p.relative_to(ROOT)): p for p in sorted((ROOT / "pipeline").rglob("*.py"))}
#: Outside thing -> where it may be imported (module paths begin with one of these).
PLACES = {
    "river": (
        "pipeline/detect/detectors.py",
        "pipeline/detect/kswin.py",
        "pipeline/run/shuttle.py",  # its recording
    ),
    "kafka": ("pipeline/ingest/",),
    "confluent_kafka": ("pipeline/ingest/embedded.py",),
    "sqlalchemy": ("pipeline/register/", "pipeline/serve/"),
    "alembic": ("pipeline/register/",),
    "apscheduler": ("pipeline/register/due.py",),
    "typer": ("pipeline/cli/",),
    "prometheus_client": ("pipeline/telemetry.py",),
    "fastapi": ("pipeline/serve/http/",),
    "starlette": ("pipeline/serve/http/",),
    "uvicorn": ("pipeline/serve/http/",),
}


def imports(path: Path) -> Iterator[str]:
    """Top-level names of the packages that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def texts() -> Iterator[tuple[str, str]]:
    """Every text file that git keeps or would keep, but this one, with its path."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a checkout: what tools have made cannot be told from what is ours")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            continue
        if path != Path(__file__):
            yield name, text


def make(*arguments: str) -> list[str]:
    """The commands that make would run, on a machine where everything is installed already."""
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "--assume-old=.venv/.installed", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("package", PLACES)
def test_each_outside_thing_has_one_place(package: str) -> None:
    """Whoever replaces a technology must know where it is."""
    users = {name for name, path in MODULES.items() if package in imports(path)}
    assert users
    assert {name for name in users if not name.startswith(PLACES[package])} == set()


def test_only_the_settings_read_the_environment() -> None:
    """A knob that is read elsewhere is in no table and no example file."""
    readers = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"})
        or (isinstance(node, ast.ImportFrom) and node.module == "os")
    }
    assert readers == {"pipeline/config.py"}


def test_the_import_rules_are_those_of_the_house() -> None:
    """lint-imports checks what pyproject.toml says; this checks that people are told the same."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c["type"] == "layers")
    papers = (ROOT / "CONTRIBUTING.md").read_text()
    told = re.search(r"^```text\n(__main__ -> .*?)^```$", papers, re.MULTILINE | re.DOTALL)
    assert told is not None
    assert " -> ".join(layers).replace("pipeline.", "") == " ".join(told[1].split())
    forbidden = [c for c in contracts if c["type"] == "forbidden"]
    assert {"river", "kafka", "sqlalchemy", "apscheduler"} <= {
        module for c in forbidden for module in c["forbidden_modules"]
    }


def test_every_stage_stands_in_the_import_rules() -> None:
    """A new folder or file of pipeline/ that no layer names would be free to import anything."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c["type"] == "layers")
    named = {part.strip() for layer in layers for part in layer.split("|")}
    inside = (ROOT / "pipeline").iterdir()
    there = {
        f"pipeline.{p.stem}"
        for p in inside
        if (p.suffix == ".py" and p.stem != "__init__") or (p / "__init__.py").exists()
    }
    assert named == there


def test_types_and_warnings_are_strict() -> None:
    """Loosening one of these is a decision, so it fails here first."""
    tool = PROJECT["tool"]
    assert tool["mypy"]["strict"] is True
    assert tool["pytest"]["ini_options"]["filterwarnings"][0] == "error"
    assert tool["pytest"]["ini_options"]["xfail_strict"] is True


def test_our_alembic_folder_does_not_hide_the_library() -> None:
    """With an __init__.py, `import alembic` from the root of the repository would find it."""
    assert (ROOT / "alembic" / "env.py").exists()
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_torch_is_pinned_to_one_version() -> None:
    """An open range pulls several GB of CUDA packages, and figures would not repeat."""
    pins = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==\d+\.\d+\.\d+$", pins, re.MULTILINE)


def test_nothing_written_names_a_machine() -> None:
    """Neither somebody's folders nor the host of a package index or image registry."""
    folders = r"(?<![\w.])/(?:home|Users|root|work)/\w+"
    hosts = r"\b(?:pypi\.org|pythonhosted\.org|docker\.io|quay\.io|ghcr\.io|download\.pytorch\.org)"
    found = [
        (name, match[0])
        for name, text in texts()
        for match in re.finditer(f"{folders}|{hosts}", text)
    ]
    assert found == []


def test_nothing_is_left_to_do_later() -> None:
    """A note to oneself is an issue, not a comment."""
    marks = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b(?! *[,.])")
    code = [(n, t) for n, t in texts() if n.startswith(("pipeline/", "alembic/", "deploy/"))]
    assert len(code) > len(MODULES)
    assert [name for name, text in code if marks.search(text)] == []


def test_ci_runs_the_readme_s_test_command() -> None:
    """What a person runs and what CI runs are the same thing, and it can be started."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    last = script.read_text().splitlines()[-1]
    assert last.removeprefix("exec ") == "make test"


def test_the_test_command_ends_with_pytest() -> None:
    """Linters first, as they are fast; the closing line is the number of tests."""
    commands = [line.partition(" ")[2] for line in make("test")]
    tools = ("ruff check .", "ruff format --check .", "mypy", "lint-imports", "-m pytest")
    lines = make("test")
    assert len(commands) == len(tools)
    assert all(tool in line for tool, line in zip(tools, lines, strict=True))


def test_every_benchmark_is_a_target_that_passes_options_on() -> None:
    """Dashes in the target are underscores in the module."""
    (line,) = make("bench-some-thing", "ARGS=--json --repeat 3")
    assert line.endswith("-m benchmarks.some_thing --json --repeat 3")


def test_a_second_install_does_nothing() -> None:
    """The stamp stands for pyproject.toml and constraints.txt as they were."""
    assert [line for line in make("install") if "pip" in line] == []


def test_commits_are_checked_by_the_tools_of_the_lint_target() -> None:
    """Otherwise a commit that passes here fails there."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0] for hook in hooks}
    assert tools == {line.split()[0] for line in make("lint")}


def test_the_editor_is_told_the_line_length_of_the_linter() -> None:
    """One number, two readers."""
    told = re.search(r"^max_line_length = (\d+)$", (ROOT / ".editorconfig").read_text(), re.M)
    assert told is not None
    assert int(told[1]) == PROJECT["tool"]["ruff"]["line-length"]
