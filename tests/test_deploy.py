"""deploy/ parses, and every command, variable, path, host and topic that it names exists.

There is no container engine in the tests: what can be checked by reading is checked by reading.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import CONFIG_VARIABLE, PREFIX, Settings, as_toml, keys, load
from pipeline.run.supervisor import ROLES
from tests.command_line import parse

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
EXAMPLE = DEPLOY / "tidemark.example.toml"
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "tidemark")
#: ${NAME}, ${NAME:-default} and ${NAME:?message}, but not $$.
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}")
#: What libpq reads by itself, below psycopg.
LIBPQ = {"PGPASSWORD"}


def strings(node: Any) -> Iterator[str]:
    """Every text in a parsed YAML tree."""
    if isinstance(node, dict):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)
    elif isinstance(node, str):
        yield node


def example() -> Settings:
    return load(EXAMPLE, {})


def test_the_services_are_those_of_a_whole_line() -> None:
    """A broker, its topics, a database, its schema, each process there is, and who looks on."""
    assert set(OURS) == {"migrate", "serve", *ROLES}
    others = ["grafana", "kafka", "postgres", "prometheus", "topics"]
    assert sorted(set(SERVICES) - set(OURS)) == others


@pytest.mark.parametrize("name", OURS)
def test_every_command_exists(name: str) -> None:
    """A container whose command is refused would restart for ever."""
    parse(SERVICES[name]["command"])


@pytest.mark.parametrize("name", [*ROLES, "serve"])
def test_every_health_check_exists(name: str) -> None:
    """Either a command of ours, or Python that compiles and asks the port of the settings."""
    kind, program, *arguments = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD"
    if program == "tidemark":
        parse(arguments)
        return
    assert (program, arguments[0]) == ("python", "-c")
    compile(arguments[1], name, "exec")
    ports = {"stream": example().run.metrics_port, "serve": example().serve.port}
    assert f"127.0.0.1:{ports[name]}/" in arguments[1]


def test_an_unknown_command_would_be_noticed() -> None:
    """The check above can fail."""
    with pytest.raises(Exception, match=r"(?i)no such command"):
        parse(["strem"])
    with pytest.raises(Exception, match=r"(?i)no such option"):
        parse(["stream", "--topic", "x"])


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_a_process_is_a_setting(name: str) -> None:
    """An unknown TIDEMARK_ variable stops the start, and libpq's are few."""
    known = {key.variable for key in keys()} | {CONFIG_VARIABLE} | LIBPQ
    assert set(SERVICES[name]["environment"]) <= known


def test_every_variable_of_the_file_is_in_the_example_environment() -> None:
    """What a person may set stands in .env.example, and nothing else does."""
    used = {match[1] for text in strings(SERVICES) for match in VARIABLE.finditer(text)}
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    offered = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert used == offered


def test_no_variable_of_the_file_looks_like_a_setting() -> None:
    """`tidemark` run beside the file would refuse a TIDEMARK_ variable that it does not know."""
    assert not [m for text in strings(SERVICES) for m in VARIABLE.findall(text) if PREFIX in m[0]]


def test_no_password_has_a_default() -> None:
    """Each is asked for by name, and the start stops without it."""
    for service in SERVICES.values():
        for name, text in service.get("environment", {}).items():
            if "PASSWORD" in name:
                match = VARIABLE.fullmatch(text)
                assert match is not None
                assert match[2] == "?"
                assert f"{match[1]}=\n" in (DEPLOY / ".env.example").read_text()
    assert example().kafka.sasl_password == ""
    assert "@" in example().database.url
    assert ":" not in example().database.url.partition("://")[2].partition("@")[0]


def test_every_port_is_on_loopback() -> None:
    """Neither the broker nor Prometheus asks who comes, and nothing here speaks TLS. What the
    stream tells without a token is published nowhere."""
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == {"grafana", "kafka", "postgres", "prometheus", "serve"}
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)


def test_prometheus_reaches_the_metrics_of_the_stream_and_of_serve() -> None:
    """Both listen to the other services; a one that does needs tokens, or tells figures only."""
    host = {"stream": "TIDEMARK_RUN_METRICS_HOST", "serve": "TIDEMARK_SERVE_HOST"}
    for name in OURS:
        opened = {k: v for k, v in SERVICES[name]["environment"].items() if k.endswith("_HOST")}
        assert opened == ({host[name]: "0.0.0.0"} if name in host else {})  # noqa: S104
    assert SERVICES["serve"]["ports"] == ["127.0.0.1:{0}:{0}".format(example().serve.port)]


def test_the_commands_to_set_up_exist() -> None:
    """Those of ours in the heading; `run` begins behind the entry point of the image."""
    heading = (DEPLOY / "compose.yaml").read_text().partition("\n\nname:")[0]
    lines = re.sub(r"\\\n#", " ", heading).splitlines()
    runs = [line.partition(" migrate")[2] for line in lines if "compose run" in line]
    execs = [line.partition("tidemark ")[2] for line in lines if "compose exec" in line]
    assert (len(runs), len(execs)) == (2, 1)
    for arguments in (*runs, *execs):
        parse(shlex.split(arguments.partition(" > ")[0]) or ["migrate"])


def test_data_lies_in_named_volumes_that_are_declared() -> None:
    """`docker compose down` keeps them; PostgreSQL 18's image keeps its data below this path."""
    mounts = {
        name: [v.partition(":") for v in service.get("volumes", [])]
        for name, service in SERVICES.items()
        if name not in OURS
    }
    assert mounts["kafka"][0][2] == SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"]
    assert mounts["postgres"][0][2] == "/var/lib/postgresql"
    sources = {volume for parts in mounts.values() for volume, _, _ in parts}
    assert {s for s in sources if not s.startswith("./")} == set(COMPOSE["volumes"])
    assert all((DEPLOY / s).is_dir() for s in sources if s.startswith("./"))
    said = " ".join(SERVICES["prometheus"]["command"])
    (files,), (data,) = (
        [v for v in mounts["prometheus"] if v[0].startswith("./") == local]
        for local in (True, False)
    )
    assert f"--config.file={files[2].removesuffix(':ro')}/prometheus.yml" in said
    assert f"--storage.tsdb.path={data[2]} " in said


def test_the_settings_file_is_mounted_where_the_processes_look() -> None:
    """Its default is the example, which is there."""
    for name in OURS:
        (mount,) = SERVICES[name]["volumes"]
        match = VARIABLE.match(mount)
        assert match is not None
        assert (DEPLOY / match[3]).samefile(EXAMPLE)
        inside = mount[match.end() :].strip(":").partition(":")[0]
        assert SERVICES[name]["environment"][CONFIG_VARIABLE] == inside


def test_every_dependency_is_a_service_that_can_answer() -> None:
    """`service_healthy` needs a health check; `service_completed_successfully` needs an end."""
    waited = [
        (on, how["condition"])
        for service in SERVICES.values()
        for on, how in service.get("depends_on", {}).items()
    ]
    assert len(waited) >= 4
    for on, condition in waited:
        if condition == "service_healthy":
            assert "healthcheck" in SERVICES[on]
        else:
            assert condition == "service_completed_successfully"
            assert SERVICES[on]["restart"] == "no"


def test_the_example_settings_reach_the_services() -> None:
    """Hosts are services of the file, on the port that the broker listens on inside."""
    settings = example()
    host, _, port = settings.kafka.bootstrap_servers.partition(":")
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert host in SERVICES
    assert f"://{host}:{port}," in f"{advertised},"
    url = re.fullmatch(r"postgresql://(\w+)@(\w+):5432/(\w+)", settings.database.url)
    assert url is not None
    database = SERVICES["postgres"]["environment"]
    assert url.groups() == (database["POSTGRES_USER"], "postgres", database["POSTGRES_DB"])


def test_the_topics_made_are_those_that_the_stream_uses() -> None:
    """The broker makes none by itself, and the stream never does."""
    script = SERVICES["topics"]["command"][-1]
    listed = re.search(r"for topic in (.*); do", script)
    stream = example().stream
    assert listed is not None
    assert listed[1].split() == [stream.topic, *stream.result_topics]
    assert SERVICES["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_the_example_settings_have_every_key_with_its_current_help() -> None:
    """Below its heading, the file is what `tidemark config` prints, but for four values."""
    text = EXAMPLE.read_text()
    heading, _, body = text.partition("\n\n")
    named = heading.partition("but for")[2].partition("#\n")[0]
    assert body == as_toml(example())
    changed = {
        f"{key.section}.{key.name}"
        for key in keys()
        if getattr(getattr(example(), key.section), key.name) != key.default
    }
    assert changed == set(re.findall(r"\w+\.\w+", named))
    assert tomllib.loads(text).keys() == {key.section for key in keys()}


@pytest.mark.parametrize("name", OURS)
def test_our_processes_run_with_as_little_as_they_need(name: str) -> None:
    """A read-only root, no capabilities, no new privileges; the image's user is not root."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108 - a path inside the container
    user = re.findall(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)
    assert user
    assert int(user[-1]) > 0


def test_what_the_image_copies_exists_and_is_let_in() -> None:
    """Each source is in the repository, and the ignore file names it."""
    let_in = {
        line.removeprefix("!")
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert set(wheel["targets"]["wheel"]["force-include"]) <= copied


def test_the_image_is_built_in_stages_from_one_base_with_pinned_versions() -> None:
    """Compilers and caches stay behind; torch is the one that the tests ran with."""
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases[0])
    assert "--constraint constraints.txt" in DOCKERFILE
    assert SERVICES["stream"]["build"]["dockerfile"] == "deploy/Dockerfile"
    assert (DEPLOY / SERVICES["stream"]["build"]["context"]).samefile(ROOT)
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert set(SERVICES["stream"]["build"]["args"]) == arguments
    assert re.search(r"^ENTRYPOINT \[\"tidemark\"\]$", DOCKERFILE, re.MULTILINE)


def test_the_extras_that_the_image_installs_are_those_of_the_processes() -> None:
    """All but those of `backtest`: a driver, HTTP, receivers and signatures."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.search(r'"\.\[([\w,]+)\]"', DOCKERFILE)
    assert named is not None
    assert set(named[1].split(",")) == project["optional-dependencies"].keys() - {"parquet", "plot"}
