"""The page of a backtest: complete, quiet, and deaf to what a recording tries to say."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace as with_
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.cli.backtest import _check_plotly
from pipeline.config import Settings
from pipeline.errors import PipelineError
from pipeline.ingest.recording import Columns
from pipeline.run.backtest import Options, Result, backtest
from pipeline.run.backtest_report import Baseline, DetectionCost, Event, Retention
from pipeline.run.chart import MOST, thin
from pipeline.run.chart import figure as figure_of
from pipeline.run.page import _for_script, page

pytest.importorskip("plotly")

EVIL = '<script>alert("s")</script>'
IMAGE = '"><img src=x onerror=alert(1)>'
ROWS = 24_000
CHANGE = 12_000
SPIKE = 3_333


class Elements(HTMLParser):
    """Every element's name and attributes; what stands inside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data
        else:
            self.words.append(data)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A series whose name, sensor and labels try to be HTML; one change, one spike, one gap."""
    x = np.random.default_rng(0).normal(size=(ROWS, 2))
    x[CHANGE:] += 6.0
    x[SPIKE, 0] = 99.0
    path: Path = tmp_path_factory.mktemp("chart") / "plant.csv"
    lines = [f'id,"{EVIL.replace(chr(34), chr(34) * 2)}",flow,truth']
    name = IMAGE.replace('"', '""')
    for row, (a, b) in enumerate(x.tolist()):
        label = "</script><b>x" if row >= CHANGE else "calm"
        lines.append(f'"{name}",{a:.6g},{"" if 6000 <= row < 6010 else f"{b:.6g}"},{label}')
    path.write_text("\n".join(lines) + "\n")
    columns = Columns(series="id", truth="truth")
    options = Options(columns=columns, train=False, keep=True)
    return backtest(path, Settings(), options)


@pytest.fixture(scope="module")
def parsed(result: Result) -> Elements:
    return Elements(page(result))


@pytest.fixture(scope="module")
def figure(parsed: Elements) -> dict[str, Any]:
    (found,) = json.loads(parsed.scripts[0])
    return dict(found)


def traces(figure: dict[str, Any], mode: str) -> list[dict[str, Any]]:
    return [t for t in figure["data"] if t["mode"] == mode]


def test_nothing_is_fetched(parsed: Elements) -> None:
    """No element names another file or host, and the page forbids itself all of them."""
    for tag, attributes in parsed.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert not {"src", "href", "action", "data", "srcset"} & attributes.keys()
    (policy,) = (a["content"] or "" for _, a in parsed.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    ours = [*parsed.scripts[:2], parsed.scripts[3], *parsed.words]
    assert not any(re.search(r"https?://", text) for text in ours)


def test_what_a_recording_says_is_text(parsed: Elements) -> None:
    """Four scripts, all ours; names are to be read as they are, and run nothing."""
    assert [tag for tag, _ in parsed.elements].count("script") == len(parsed.scripts) == 4
    assert not any(name.startswith("on") for _, a in parsed.elements for name in a)
    assert not {"b", "img"} & {t for t, a in parsed.elements if a}
    text = "".join(parsed.words)
    assert EVIL in text
    assert IMAGE in text


def test_json_cannot_end_the_script_that_it_stands_in() -> None:
    """Whatever gets there, escaped before or not; it is the same value to whoever parses it."""
    value = ["</script><!--", "&amp;", "\u2028"]
    text = _for_script(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_plotly_is_given_no_tags(figure: dict[str, Any]) -> None:
    """It reads some in what it shows: names, labels and sentences have none left."""
    shown = [t.get("name", "") for t in figure["data"]]
    shown += [text for t in figure["data"] for text in t.get("text", [])]
    shown += [n[key] for n in figure["layout"]["annotations"] for key in ("text", "hovertext")]
    assert any("&lt;script&gt;" in text for text in shown)
    assert any("&lt;/script&gt;&lt;b&gt;x" in text for text in shown)
    assert not any("<" in text or ">" in text for text in shown)


def test_every_sensor_is_drawn_thinned_with_its_spike_and_gap(figure: dict[str, Any]) -> None:
    """No more than 10,000 points of 24,000; the one outlier is there, where it was."""
    first, second = traces(figure, "lines")
    assert MOST / 2 < len(first["x"]) <= MOST
    assert first["x"][int(np.argmax(first["y"]))] == SPIKE
    assert max(first["y"]) == 99.0
    assert None in second["y"]
    assert None not in first["y"]


def test_true_and_found_boundaries_are_lines_where_they_are(
    result: Result, figure: dict[str, Any]
) -> None:
    """Dotted is true, solid is found."""
    lines = [s for s in figure["layout"]["shapes"] if s["type"] == "line"]
    drawn = {s["line"]["dash"]: s["x0"] for s in lines}
    (found,) = result.report.boundaries
    assert drawn == {"dot": CHANGE, "solid": found.boundary_row}


def test_a_change_that_took_time_is_veiled_until_it_was_complete(result: Result) -> None:
    """From its boundary to a dashed line; one that goes on, or came at once, is not."""
    (found,) = result.report.boundaries
    first = found.boundary_row
    for end, ends in ((first + 500, [first + 500]), (first, []), (None, [])):
        report = replace(result.report, boundaries=(replace(found, end_row=end),))
        drawn = figure_of(next(iter(report.series)), with_(result, report=report), MOST)
        shapes = drawn["layout"]["shapes"]
        dashed = [s for s in shapes if s["line"].get("dash") == "dash"]
        veils = [s for s in shapes if s["type"] == "rect" and s["fillcolor"] == "#111827"]
        assert [s["x0"] for s in dashed] == ends
        assert [(s["x0"], s["x1"]) for s in veils] == [(first, e) for e in ends]


def test_regimes_are_colours_from_end_to_end(result: Result, figure: dict[str, Any]) -> None:
    """Each strip covers the series once; the same again behind the sensors for those found."""
    (found,) = result.report.boundaries
    rectangles = [s for s in figure["layout"]["shapes"] if s["type"] == "rect"]
    spans = [(s["x0"], s["x1"]) for s in rectangles]
    last, row = ROWS - 1, found.boundary_row
    assert spans == [(0, CHANGE), (CHANGE, last)] + [(0, row), (row, last)] * 2
    assert rectangles[0]["fillcolor"] != rectangles[1]["fillcolor"]


def test_the_score_stands_beside_the_control(result: Result, parsed: Elements) -> None:
    """A figure without its control is never shown."""
    score = result.report.detection
    assert score is not None
    text = " ".join(parsed.words)
    assert f"{score.f1:.3f} F1" in text
    assert f"{score.periodic_control.f1:.3f} F1 of as many alarms, evenly spaced" in text


def test_events_are_marked_at_their_sensor(result: Result) -> None:
    """A triangle on the sensor's own axis, at its row."""
    event = Event(
        series=IMAGE, row=700, kind="sensor_frozen", sensor="flow", text="flow <i> stands still"
    )
    marked = Elements(
        page(
            Result(
                report=replace(result.report, events=(event,)),
                tapes=result.tapes,
                truth=result.truth,
                has_times=False,
            )
        )
    )
    figure = json.loads(marked.scripts[0])[0]
    (mark,) = [t for t in traces(figure, "markers") if t["marker"].get("symbol")]
    assert mark["x"] == [700]
    assert mark["text"] == ["flow &lt;i&gt; stands still"]
    assert mark["yaxis"] == traces(figure, "lines")[1]["yaxis"]
    assert "sensor_frozen" in marked.words


def test_a_run_with_versions_shows_curves_r_and_the_lines(result: Result) -> None:
    """A place for each figure, and a table of the lines; without versions there is none of it."""
    line = Baseline(
        average=0.25, forgetting=0.125, skills={"task 1": 0.25}, tasks=("task 1",),
        learned_at=(0,), rows=(500,), matrix=((0.25,),), seconds=1.0,
    )  # fmt: skip
    report = replace(
        result.report,
        baselines={"champion": line, "naive": line},
        retention=Retention(tasks=("task 1",), versions=(1,), R=((0.25,),)),
        detection_cost=DetectionCost(found=line, true=line),
    )
    shown = Elements(page(with_(result, report=report)))
    curves, heat = json.loads(shown.scripts[1])
    assert [t["name"] for t in curves["data"]] == ["champion", "naive"]
    assert heat["data"][0]["type"] == "heatmap"
    assert [a.get("class") for _, a in shown.elements].count("kept") == 2
    assert {"forgetting", "0.125", "naive"} <= set(shown.words)
    assert any("ends as good as champion here (0.250 and 0.250" in text for text in shown.words)
    assert any("Detection costs nothing here." in text for text in shown.words)
    plain = Elements(page(result))
    assert json.loads(plain.scripts[1]) == []
    assert "kept" not in [a.get("class") for _, a in plain.elements]


def test_without_plotly_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra; the line comes before the work."""
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(PipelineError, match=r"pip install 'tidemark\[plot\]'"):
        _check_plotly()


cells = st.lists(st.one_of(st.floats(-1e6, 1e6, width=32), st.just(float("nan"))), min_size=1)


@given(cells, st.integers(2, 40))
def test_thinning_keeps_the_extremes_in_order(values: list[float], points: int) -> None:
    """Least and largest of the whole are there, rows rise, and there are about `points`."""
    x = np.array(values, dtype=np.float32)
    rows = thin(x, points)
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < len(x)
    assert len(rows) <= max(points, 2)
    if not np.isnan(x).all():
        assert np.nanmin(x[rows]) == np.nanmin(x)
        assert np.nanmax(x[rows]) == np.nanmax(x)
    if len(x) <= points:
        assert rows.tolist() == list(range(len(x)))
