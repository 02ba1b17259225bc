"""Alerts and the board name metrics, labels and functions that there are.

PromQL is scanned for names, not parsed: `promtool check` and `promtool test rules` do that, where
it is installed (Debian's package prometheus).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.config import Database, load
from pipeline.serve.http.health import GAUGES
from pipeline.telemetry import Metrics, exposition
from tests.command_line import names
from tests.register.making import Clock, opened
from tests.serve.http.conftest import connected
from tests.test_deploy import COMPOSE, DEPLOY, EXAMPLE, ROOT

PROMETHEUS = DEPLOY / "prometheus"
CONFIG = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
(GROUP,) = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
BOARD = json.loads((DEPLOY / "grafana" / "boards" / "tidemark.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
#: Labels that Prometheus adds, and the metrics that it makes itself.
ADDED = {"job", "instance"}
OWN = {"up": ADDED, "ALERTS": {"alertname", "alertstate"}}
#: What the expressions here use of PromQL.
FUNCTIONS = {
    *("absent", "changes", "deriv", "histogram_quantile", "increase", "max", "min", "rate", "sum"),
    "time",
}
WORDS = {"and", "by", "on", "or", "unless"}


def exposed() -> dict[str, set[str]]:
    """Every metric of both kinds of /metrics -> its labels."""
    metrics = Metrics("readings")
    metrics.alarms("ADWIN")
    metrics.dead_letters("empty")
    metrics.take_lag(0, 1)
    gauges = [(name, tuple("x" for _ in shown.labels), 0.0) for name, shown in GAUGES.items()]
    found: dict[str, set[str]] = {}
    for text in (generate_latest(metrics.registry), exposition(GAUGES, gauges)):
        for family in text_string_to_metric_families(text.decode()):
            assert family.samples, family.name
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


EXPOSED = exposed()


def faults(expression: str) -> Iterator[str]:
    """Names in an expression that are nowhere else, and labels that its metrics do not have."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    known = EXPOSED | OWN
    for name, selector in re.findall(r"([a-zA-Z_]\w*)\s*\{([^}]*)\}", bare):
        wanted = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)
        yield from (f"{name} has no {x}" for x in wanted if x not in known.get(name, set()) | ADDED)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    lists = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", bare)
    bare = re.sub(r"\b(by|on)\s*\([^)]*\)", r"\1", bare)
    names = set(re.findall(r"(?<![\w.])[a-zA-Z_]\w*", bare))
    metrics = names & known.keys()
    yield from (f"{name} is nothing" for name in sorted(names - metrics - FUNCTIONS - WORDS))
    there = set().union(*(known[name] for name in metrics)) | ADDED
    for label in re.findall(r"\w+", " ".join(lists)):
        if label not in there:
            yield f"{label} is no label of {', '.join(sorted(metrics))}"


def expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, PromQL) of the whole of deploy/."""
    for name, rule in RULES.items():
        yield name, rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(  # type: ignore[union-attr]
                r"label_values\((\w+), (\w+)\)", variable["query"]["query"]
            ).groups()
            yield variable["name"], f"max by ({label}) ({metric})"
    for annotation in BOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def shown(texts: str) -> set[str]:
    """Labels that a legend or an alert's text names."""
    return set(re.findall(r"\$labels\.(\w+)", texts)) | set(re.findall(r"\{\{(\w+)\}\}", texts))


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_expression_names_what_there_is(where: str, expression: str) -> None:
    """A metric that was renamed would be an empty chart, or an alert that never comes."""
    assert list(faults(expression)) == []
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("max(tidemark_lag)", "tidemark_lag is nothing"),
        ("maxx(tidemark_lag_records)", "maxx is nothing"),
        ("rate(tidemark_readings[5m])", "tidemark_readings is nothing"),
        ('tidemark_lag_records{kind="x"}', "tidemark_lag_records has no kind"),
        ("sum by (kind) (tidemark_lag_records)", "kind is no label of tidemark_lag_records"),
        ("up == 0 and on (stream) up", "stream is no label of up"),
    ],
)
def test_a_name_that_is_not_there_would_be_noticed(expression: str, fault: str) -> None:
    """The check above can fail."""
    assert list(faults(expression)) == [fault]


def test_every_metric_is_looked_at_somewhere() -> None:
    """What nobody would see need not be counted."""
    text = " ".join(expression for _, expression in expressions())
    used = set(re.findall(r"tidemark_\w+", text))
    parts = ("_bucket", "_sum", "_count")  # of a histogram one is enough
    assert used <= EXPOSED.keys()
    unseen = {name for name in EXPOSED.keys() - used if not name.endswith(("_created", *parts))}
    assert unseen == set()


def test_the_metrics_are_those_of_serve(sqlite_at_head: Database) -> None:
    """What the names were checked against is what is answered over HTTP."""
    with opened(sqlite_at_head, Clock()) as registry, connected(registry) as client:
        text = client.get("/metrics").text
    families = {family.name for family in text_string_to_metric_families(text)}
    assert families == {f"tidemark_{name}" for name in GAUGES}
    assert families <= EXPOSED.keys()


# Alerts ---------------------------------------------------------------------------------------


def test_there_is_an_alert_for_each_thing_that_goes_wrong() -> None:
    """Each says what it is, what to do, and how bad it is; of labels only those that it has."""
    wanted = {"Lag", "CheckpointOld", "NoChampion", "RollBack", "VerifyFailed", "DeadLetters"}
    assert {f"Tidemark{name}" for name in wanted} <= RULES.keys()
    for rule in RULES.values():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        named = shown(" ".join(rule["annotations"].values()))
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", rule["expr"]))))
        assert named <= (kept or ADDED)


def test_the_readme_s_table_of_alerts_is_complete() -> None:
    """A row each."""
    rows = re.findall(r"^\| `(Tidemark\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert rows == list(RULES)


def test_the_commands_in_the_alerts_exist() -> None:
    """Whoever is woken types them."""
    told = " ".join(rule["annotations"]["description"] for rule in RULES.values())
    commands = set(re.findall(r"`(tidemark [a-z -]+)`", told))
    assert len(commands) >= 5
    assert commands <= set(names())


def test_prometheus_asks_the_services_at_their_ports() -> None:
    """serve with a token from a file that no commit takes, the streams by the name of theirs."""
    jobs = {job["job_name"]: job for job in CONFIG["scrape_configs"]}
    services, settings = COMPOSE["services"], load(EXAMPLE, {})
    assert jobs.keys() == {"tidemark", "tidemark-stream"}
    assert all(re.fullmatch("tidemark.*", name) for name in jobs)  # of the alerts and the board
    (static,) = jobs["tidemark"]["static_configs"]
    assert static["targets"] == [f"serve:{settings.serve.port}"]
    token = jobs["tidemark"]["authorization"]["credentials_file"]
    assert f"deploy/prometheus/{token}" in (ROOT / ".gitignore").read_text().splitlines()
    assert f"> prometheus/{token}\n" in (DEPLOY / "compose.yaml").read_text()
    (names,) = jobs["tidemark-stream"]["dns_sd_configs"]
    assert names["names"] == ["stream"]
    assert names["port"] == settings.run.metrics_port
    assert {"serve", "stream"} <= services.keys()
    assert [(PROMETHEUS / file).exists() for file in CONFIG["rule_files"]] == [True]


# The board ------------------------------------------------------------------------------------


def test_the_panels_lie_beside_each_other() -> None:
    """Each has a number of its own, and covers no other."""
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    cells: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])
        }
        assert not mine & cells
        cells |= mine


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_the_chosen_source_and_shows_labels_that_are_left(panel: Any) -> None:
    """A legend of a label that an aggregation dropped is empty; variables are the board's."""
    variables = {variable["name"] for variable in BOARD["templating"]["list"]}
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", target["expr"]))))
        assert shown(target["legendFormat"]) <= kept
        used = set(re.findall(r"\$\{?(\w+)", target["expr"])) - {"__rate_interval"}
        assert used <= variables


def test_grafana_finds_prometheus_and_the_board() -> None:
    """The source is a service, and the board lies where the provider looks."""
    provisioning = DEPLOY / "grafana" / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "tidemark.yaml").read_text())
    providers = yaml.safe_load((provisioning / "dashboards" / "tidemark.yaml").read_text())
    (source,), (provider,) = sources["datasources"], providers["providers"]
    prometheus, grafana = (COMPOSE["services"][name] for name in ("prometheus", "grafana"))
    port = prometheus["ports"][0].rpartition(":")[2]
    assert source["url"] == f"http://prometheus:{port}"
    assert source["jsonData"]["timeInterval"] == CONFIG["global"]["scrape_interval"]
    mounts = dict(volume.split(":")[1::-1] for volume in grafana["volumes"])
    boards = provider["options"]["path"]
    assert (DEPLOY / mounts[boards]).samefile(DEPLOY / "grafana" / "boards")
    assert (DEPLOY / mounts["/etc/grafana/provisioning"]).samefile(provisioning)
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{boards}/tidemark.json"


# promtool -------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@pytest.mark.parametrize(
    "arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")]
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    """The rules parse, and alert on the histories in alerts.test.yml as it says."""
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_histories_for_promtool_try_every_alert() -> None:
    """Each alert once when it has to come; the input is of metrics that there are."""
    tests = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text())["tests"]
    came = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert came == RULES.keys()
    series = [given["series"] for test in tests for given in test["input_series"]]
    assert [fault for each in series for fault in faults(each)] == []
