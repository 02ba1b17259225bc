"""What the page of a long stream costs: bytes, the server's processor time, frames in a browser.

    make bench-page
    make bench-page ARGS="--readings 100000 --boundaries 100 --versions 100"

One series of 8 sensors. The server runs in a thread of this process: its processor time is this
process', with the client's. In headless Chromium, which has no graphics processor here, frames are
the intervals of requestAnimationFrame, tasks those of the page's main thread that are above 50 ms
by the clock (PerformanceObserver), and its processor time is Chromium's count, which others' load
does not lengthen.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks import result
from benchmarks.audit_fill import STREAM
from benchmarks.detection_goals import figure_row
from benchmarks.page_fill import APART, SERIES, fill
from pipeline.config import Database
from pipeline.register.migrate import upgrade
from pipeline.register.sql import SqlRegistry
from tests.serve.http.serving import served
from tests.serve.page.conftest import CHROMIUM, FLAGS

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

SEED, POINTS = 0, 1000
#: Of Chromium's window, and moves of the mouse in each trial.
WINDOW, MOVES = {"width": 1200, "height": 850}, 60
#: Goals: kilobytes of an answer, seconds to the first drawing, milliseconds of a task.
MOST_KB, FIRST_S, LONG_MS = 1000.0, 1.0, 50.0

row = partial(figure_row, digits=2)

#: Frames and long tasks since the last look, and when the time line was first there.
WATCH = """
    window.seen = { frames: [], long: [], first: null };
    let last = null;
    requestAnimationFrame(function frame(now) {
        if (last !== null) seen.frames.push(now - last);
        last = now;
        if (seen.first === null && document.querySelector('.names span')) seen.first = now;
        requestAnimationFrame(frame);
    });
    new PerformanceObserver(list => list.getEntries().forEach(e => seen.long.push(e.duration)))
        .observe({ type: 'longtask', buffered: true });
"""
TAKE = "() => { const found = { ...seen }; seen.frames = []; seen.long = []; return found; }"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readings", type=int, default=1_000_000)
    parser.add_argument("--boundaries", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=20, help="of each request")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="the table for page.md")
    args = parser.parse_args()
    size = {name: getattr(args, name) for name in ("readings", "boundaries", "versions")}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = Database(url=f"sqlite:///{scratch / 'bench.db'}")
        upgrade(database)
        registry = SqlRegistry(database)
        stack.callback(registry.close)
        begin = fill(registry, **size, seed=SEED)
        site = stack.enter_context(served(registry))
        url = f"http://127.0.0.1:{site.port}"
        rows = [*requests(url, begin, args.readings, args.repeat), *frames(url)]
    result.write(
        "page",
        rows,
        seeds=[SEED],
        compared=["sqlalchemy", "fastapi", "uvicorn", "playwright"],
        as_json=args.json,
        as_markdown=args.markdown,
        **size,
    )


# The server -----------------------------------------------------------------------------------


def requests(url: str, begin: int, readings: int, repeat: int) -> Iterator[dict[str, Any]]:
    """What each answer costs that the page of a stream is drawn from."""
    of = f"{url}/v1/streams/{STREAM}"
    middle = begin + APART * readings // 2
    line = {"partition": 0, "series": SERIES, "points": POINTS}
    asked = {"the whole time line": f"{of}/timeline?{urllib.parse.urlencode(line)}"}
    for share in (100, 10_000):
        ends = [middle, middle + APART * readings // share]
        since, until = (datetime.fromtimestamp(end / 1e6, tz=UTC).isoformat() for end in ends)
        query = urllib.parse.urlencode(line | {"since": since, "until": until})
        asked[f"1/{share:,} of it"] = f"{of}/timeline?{query}"
    asked["R"] = f"{of}/matrix?newest=32"
    asked["200 versions"] = f"{of}/versions?newest_first=true&limit=200"
    for case, address in asked.items():
        content, spent = b"", []
        for _ in range(repeat + 1):
            before = time.process_time()
            with urllib.request.urlopen(address) as answer:  # noqa: S310 - our own address
                content = answer.read()
            spent.append(1000 * (time.process_time() - before))
        found = msgspec.json.decode(content)
        if "points" in found:
            yield row(case, "points", len(found["points"]["from"]), POINTS)
            parts = ("boundaries", "clusters", "bands", "reigns")
            yield row(case, "marks, bands and reigns", sum(len(found.get(k, [])) for k in parts))
        yield row(case, "kB", len(content) / 1000, MOST_KB)
        yield row(case, "processor ms", statistics.median(spent[1:]))


# The browser ----------------------------------------------------------------------------------


def frames(url: str) -> Iterator[dict[str, Any]]:
    """First drawing, and frames while a hand is on it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=WINDOW)
        page.add_init_script(WATCH)
        count = page.context.new_cdp_session(page)
        count.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(f"{url}/#/stream/{STREAM}")
        page.wait_for_function("() => window.seen.first !== null")
        page.wait_for_selector("main[data-ready]")
        page.wait_for_timeout(1000)
        found = page.evaluate(TAKE)
        yield row("opened", "seconds to the first drawing", found["first"] / 1000, FIRST_S)
        yield row("opened", "processor seconds of the page", _spent(count))
        yield row("opened", "longest task, ms", max(found["long"], default=0.0))
        box = page.locator(".field").evaluate("e => e.getBoundingClientRect().toJSON()")
        left, top = box["x"], box["y"] + box["height"] / 2
        for case, hand in HANDS.items():
            page.mouse.move(left + box["width"] / 2, top)
            page.wait_for_timeout(300)
            page.evaluate(TAKE)
            before = _spent(count)
            hand(page, left + 10, top, box["width"] - 20)
            yield from _trial(case, page.evaluate(TAKE), _spent(count) - before)
            page.wait_for_timeout(500)
        browser.close()


def _trial(case: str, found: dict[str, Any], spent_s: float) -> Iterator[dict[str, Any]]:
    intervals = sorted(found["frames"])
    yield row(case, "frames", len(intervals))
    yield row(case, "ms a frame, median", statistics.median(intervals))
    yield row(case, "ms a frame, p99", intervals[int(0.99 * (len(intervals) - 1))])
    yield row(case, "longest task, ms (0: none above 50)", max(found["long"], default=0.0), LONG_MS)
    yield row(case, "processor ms a frame", 1000 * spent_s / len(intervals))


def _spent(count: CDPSession) -> float:
    """Processor seconds of the page's main thread."""
    metrics = count.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))


def _zoom(page: Page, left: float, top: float, width: float) -> None:
    """In upon the middle with the wheel, and some of the way out."""
    page.mouse.move(left + width / 2, top)
    page.keyboard.down("Control")
    for i in range(MOVES):
        page.mouse.wheel(0, 30 if i % 3 == 2 else -30)
    page.keyboard.up("Control")


def _pan(page: Page, left: float, top: float, width: float) -> None:
    """Dragged to and fro."""
    page.mouse.move(left, top)
    page.mouse.down()
    for i in range(MOVES):
        page.mouse.move(left + width * abs(i % 40 - 20) / 20, top)
    page.mouse.up()


def _hover(page: Page, left: float, top: float, width: float) -> None:
    """Over the marks."""
    for i in range(MOVES):
        page.mouse.move(left + width * i / MOVES, top)


HANDS: dict[str, Callable[[Page, float, float, float], None]] = {
    "pointed at, all of it in view": _hover,
    "zoomed": _zoom,
    "dragged": _pan,
    "pointed at, close": _hover,
}


if __name__ == "__main__":
    main()
