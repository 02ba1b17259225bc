"""The page in a real browser, over a real run: what it shows is what SQL says."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.config import Schedule
from pipeline.records import Request
from pipeline.register import tables as t
from pipeline.register.envelope import Limits
from pipeline.register.orders import Act, Agree
from pipeline.serve import bands
from pipeline.serve.http.app import PAGE
from pipeline.serve.lineage import Lineage
from tests.register.making import admitted, candidate, change, next_version
from tests.serve.page.conftest import Site, looking, opened, serving
from tests.serve.page.running import SERIES, STREAM

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BUILD = Path(__file__).parents[3] / "build"
PAGES = ("", f"stream/{STREAM}", "ledger", "schedules")
#: The first of what can be opened up, as it is when somebody reads it.
OPENED = "[...document.querySelectorAll('details')].slice(0, 5).forEach(d => { d.open = true })"
#: Pixels by which a mark may lie beside where it belongs.
NEAR = 1.5


def entries(site: Site, kind: str) -> list[dict[str, Any]]:
    """The ledger's entries of a kind."""
    with site.registry.engine.connect() as conn:
        rows = conn.execute(t.ledger.select().where(t.ledger.c.kind == kind)).all()
    return [json.loads(row.entry) | {"by": row.actor} for row in rows]


def told(site: Site) -> list[dict[str, Any]]:
    """The boundaries of the series that is shown first, as the audit tells them."""
    lineage = Lineage(site.registry.database)
    try:
        return [b for b in lineage.boundaries(STREAM) if b["series"] == SERIES[0]]
    finally:
        lineage.close()


def middle(page: Page, selector: str) -> list[float]:
    """Where elements have their middle, from left to right in pixels."""
    script = """all => all.map(e => e.getBoundingClientRect()).map(r => (r.left + r.right) / 2)"""
    return sorted(page.eval_on_selector_all(selector, script))


# What is drawn --------------------------------------------------------------------------------


def test_every_script_is_asked_for_at_once() -> None:
    """Not one after the other, as each names the next."""
    asked = set(
        re.findall(r'(?:modulepreload" href|src)="(js/\S+)"', (PAGE / "index.html").read_text())
    )
    assert asked == {f"js/{file.name}" for file in (PAGE / "js").iterdir()}


def test_boundaries_are_drawn_where_sql_says(page: Page, site: Site) -> None:
    """Two ticks of the axis say where a minute is; each mark lies where its time is then."""
    opened(page, site.stream)
    ticks = page.locator(".axis span")
    texts = [f"2026-01-01T{text}:00" for text in ticks.all_inner_texts()]
    times = [datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in texts]
    at = middle(page, ".axis span")
    assert len(at) >= 3
    per_second = (at[-1] - at[0]) / (times[-1] - times[0])
    said = [datetime.fromisoformat(b["boundary_at"]).timestamp() for b in told(site)]
    assert len(said) >= 3
    expected = [at[0] + (second - times[0]) * per_second for second in said]
    assert middle(page, ".mark") == pytest.approx(expected, abs=NEAR)


def test_bands_lie_between_the_boundaries_and_are_named_as_the_regimes_are(
    page: Page, site: Site
) -> None:
    """n boundaries part n + 1 bands; each has the task of the segment that begins there."""
    opened(page, site.stream)
    found = told(site)
    bands = page.locator(".band")
    assert bands.count() == len(found) + 1
    titles = [bands.nth(i).get_attribute("title") or "" for i in range(bands.count())]
    for title, boundary in zip(titles[1:], found, strict=True):
        assert title.startswith(f"task {boundary['task']}")
        assert title.endswith("again") == boundary["recurrence"]


def test_a_boundary_says_why_to_the_pointer_and_to_the_keyboard(page: Page, site: Site) -> None:
    """The sentence of the audit, with the sensor that moved and the test that crossed."""
    opened(page, site.stream)
    first = told(site)[0]
    why = page.locator(".why")
    assert not why.is_visible()
    page.locator(".mark").first.hover()
    text = why.inner_text()
    assert f"{first['series']}, from row {first['boundary_row']:,}" in text
    assert f"{first['statistic']:.2f} > {first['threshold']:.2f}" in text
    assert first["sensors"][0]["sensor"] in text
    page.mouse.move(0, 0)
    assert not why.is_visible()
    page.locator(".mark").nth(1).focus()
    assert why.is_visible()
    assert "standard deviations" in (page.locator(".mark").nth(1).get_attribute("aria-label") or "")


def test_versions_reigns_and_r_are_those_of_the_history(page: Page, site: Site) -> None:
    """Newest first, with the gate's sentence; R has the champions' skills to two digits."""
    opened(page, site.stream)
    lineage = Lineage(site.registry.database)
    history, matrix = lineage.history(STREAM), lineage.matrix(STREAM)
    lineage.close()
    rows = page.locator(".versions tbody tr")
    shown = [rows.nth(i).get_attribute("data-version") for i in range(rows.count())]
    assert shown == [str(version["version"]) for version in reversed(history)]
    for version in history:
        row = page.locator(f'.versions [data-version="{version["version"]}"]')
        assert version["decision"] in row.inner_text()
        assert ("never" in row.locator(".reign").inner_text()) == (not version["live"])
    lived = [row for row in matrix if row["status"] in ("champion", "retired")]
    skills = [f"{skill:.2f}" for row in lived for skill in row["skills"].values()]
    cells = page.locator(".heat").first.locator("td[data-step]").all_inner_texts()
    assert sorted(cells) == sorted(skills)


def test_a_time_line_of_many_readings_is_asked_for_in_few_points(page: Page, site: Site) -> None:
    """A million readings come as buckets, fewer than two thousand however far one looks in."""
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        whole = route.fetch().json()
        n = 1000
        seconds = [1_767_225_600 + i * 1000 for i in range(n + 1)]
        times = [datetime.fromtimestamp(second, tz=UTC).isoformat() for second in seconds]

        def columns(period: int) -> dict[str, Any]:
            wave = [None if i % 50 == 0 else i % period / period for i in range(n)]
            return {
                "low": wave,
                "mean": wave,
                "high": [None if x is None else x + 0.1 for x in wave],
            }

        sensors = {f"f{c}": columns(90 + c) for c in range(1, 10)}
        points = {"from": times[:-1], "until": times[1:], "sensors": sensors, "score": columns(7)}
        route.fulfill(json=whole | {"points": points})

    page.route("**/timeline?*", answer)
    opened(page, site.stream)
    names = page.locator(".names span").all_inner_texts()
    assert names == ["score", *(f"f{i}" for i in range(1, 10))]
    painted = """canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
        .data.filter((x, i) => i % 4 == 3 && x).length"""
    assert page.locator(".field canvas").evaluate(painted) > 10_000
    page.get_by_role("button", name="Closer", exact=True).click()
    page.wait_for_function("() => document.querySelector('.range').textContent.includes('5.8 d')")
    page.locator(".plot").focus()
    for key in ("+", "+", "ArrowRight", "ArrowLeft", "-", "0"):
        page.keyboard.press(key)
    page.wait_for_function("() => document.querySelector('.range').textContent.includes('12 d')")
    points = [int(url.split("points=")[1]) for url in asked]
    assert len(points) >= 2
    assert max(points) <= 2000


def test_more_boundaries_than_are_told_are_counted_until_one_looks_closer(
    page: Page, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two told at most: the marks count all of SQL's, and a click on one looks closer, until
    its sentence is there."""
    monkeypatch.setattr(bands, "MOST", 2)
    opened(page, site.stream)
    found = told(site)
    assert len(found) > bands.MOST
    marks = page.locator(".mark")
    assert marks.count() == len(found)
    page.get_by_text(f"{len(found)} boundaries as a table").wait_for()
    marks.last.hover()
    page.locator(".why", has_text="Zoom in to read why").wait_for()
    page.locator(".mark").last.click()
    page.wait_for_function("""() => [...document.querySelectorAll('.mark')]
        .some(e => e.ariaLabel.includes('standard deviations'))""")


def test_a_hand_that_comes_down_on_a_mark_moves_the_time_line(page: Page, site: Site) -> None:
    """Where there are many marks there is nothing else to take hold of."""
    opened(page, site.stream)
    page.get_by_role("button", name="Closer", exact=True).click()
    mark = page.locator(".mark").last
    box = mark.bounding_box()
    assert box is not None
    segment, x, y = mark.get_attribute("data-segment"), box["x"] + box["width"] / 2, box["y"] + 90
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 40, y, steps=4)
    page.mouse.up()
    page.wait_for_function(
        "([segment, x]) => { const r = document.querySelector(`.mark[data-segment='${segment}']`)"
        ".getBoundingClientRect(); return Math.abs((r.left + r.right) / 2 - x) < 1.5; }",
        arg=[segment, x - 40],
    )


# What is done ---------------------------------------------------------------------------------


def test_what_a_button_orders_is_in_the_ledger_with_actor_and_reason(
    page: Page, own_site: Site
) -> None:
    """No reason, nothing done; then who and why stand in the ledger, and the page shows it."""
    opened(page, own_site.stream)
    page.get_by_role("button", name="Retrain").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Who decides").fill("ada")
    dialog.get_by_role("button", name="Retrain").click()
    assert dialog.is_visible()
    dialog.get_by_label("Reason").fill("new pump")
    dialog.get_by_role("button", name="Retrain").click()
    dialog.wait_for(state="detached")
    page.get_by_text("manual by ada: new pump").first.wait_for()
    last = entries(own_site, "request")[-1]
    assert (last["reason"], last["actor"], last["note"]) == ("manual", "ada", "new pump")


def test_a_version_is_promoted_by_a_button(page: Page, own_site: Site) -> None:
    """Version 1 again, against the reign of 2: champion in SQL and on the page, and who and why."""
    opened(page, own_site.stream)
    page.get_by_role("button", name="Version 1: more").click()
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog", name="Promote version 1")
    dialog.get_by_label("Who decides").fill("ada")
    dialog.get_by_label("Reason").fill("it was calmer")
    dialog.get_by_role("button", name="Promote").click()
    page.wait_for_selector('.versions [data-version="1"][data-status=champion]')
    known = own_site.registry.stream(STREAM)
    assert known is not None
    champion = own_site.registry.champion(known.id)
    assert champion is not None
    assert champion.number == 1
    last = entries(own_site, "promotion")[-1]
    assert (last["by"], last["reason"]) == ("ada", "it was calmer")


def say(page: Page, button: Any, title: str, verb: str) -> None:
    """Click, say who and why, and wait until it is done."""
    button.click()
    dialog = page.get_by_role("dialog", name=title)
    dialog.get_by_label("Who decides").fill("ada")
    dialog.get_by_label("Reason").fill(f"{verb}: plan 12")
    dialog.get_by_role("button", name=verb).click()
    dialog.wait_for(state="detached")


def test_who_waits_is_shown_with_what_it_is_outside_of_and_gets_a_word(
    page: Page, own_site: Site
) -> None:
    """Two wait: one is refused, one approved, and then training is paused, each by a button."""
    registry = own_site.registry
    known = registry.stream(STREAM)
    assert known is not None
    limits = Limits(triggers=("boundary",), max_promotions_a_day=0)
    registry.act(known.id, Agree(limits=limits), Act(actor="eve", reason="plan 11"))
    first, second = (
        next_version(registry, known, made=candidate(weights=name)).number for name in (b"a", b"b")
    )
    opened(page, own_site.stream)

    def group(number: int) -> Any:
        return page.get_by_role("group", name=f"Version {number} waits")

    waiting = registry.waiting(known.id)
    assert [row.version for row, _ in waiting] == [first, second]
    for number, held in ((row.version, held) for row, held in waiting):
        said = [each.said for each in held.outside]
        assert len(said) == 2
        assert group(number).get_by_role("listitem").all_inner_texts() == said
        assert "outside of envelope 1" in group(number).inner_text()
    for number, verb in ((second, "Refuse"), (first, "Approve")):
        say(page, group(number).get_by_role("button", name=verb), f"{verb} version {number}", verb)
        group(number).wait_for(state="detached")
    page.wait_for_selector(f'.versions [data-version="{first}"][data-status=champion]')
    say(page, page.get_by_role("button", name="Pause"), "Pause", "Pause")
    page.get_by_role("button", name="Resume").wait_for()
    assert "Training is paused." in page.locator(".about").inner_text()
    kinds = ("refused", "promotion", "paused")
    last = [entries(own_site, kind)[-1] for kind in kinds]
    assert [(each["by"], each["reason"]) for each in last] == [
        ("ada", f"{verb}: plan 12") for verb in ("Refuse", "Approve", "Pause")
    ]
    champion = registry.champion(known.id)
    assert champion is not None
    assert champion.number == first


NIGHTLY = Schedule(name="nightly", cron="30 2 * * *")


def test_a_schedule_is_run_paused_and_resumed_by_buttons(
    chromium: Browser, ran: Path, tmp_path: Path
) -> None:
    """Each asks why, lands in the ledger with who and why, and the page shows what came of it."""
    with (
        serving(ran, tmp_path, schedule=[NIGHTLY]) as site,
        looking(chromium) as page,
    ):
        opened(page, site.at("schedules"))
        for verb, shown in (
            ("Run now", "asked for by ada: Run now: plan 12"),
            ("Pause", "by ada"),
            ("Resume", "in "),
        ):
            button = page.get_by_role("button", name=f"{verb}: {NIGHTLY.name}", exact=True)
            say(page, button, f"{verb}: {NIGHTLY.name}", verb)
            button.wait_for(state="visible" if verb == "Run now" else "detached")
            page.locator("tbody").get_by_text(shown).first.wait_for()
        kinds = ("schedule_ordered", "schedule_paused", "schedule_resumed")
        last = [entries(site, kind)[-1] for kind in kinds]
        assert [(each["schedule"], each["by"], each["reason"]) for each in last] == [
            (NIGHTLY.name, "ada", f"{verb}: plan 12") for verb in ("Run now", "Pause", "Resume")
        ]


def test_a_reader_sees_schedules_and_no_button(
    chromium: Browser, ran: Path, tmp_path: Path
) -> None:
    """An operator's token has all of them."""
    found = {}
    with serving(ran, tmp_path, schedule=[NIGHTLY], tokens="always") as site:
        for role in ("reader", "operator"):
            token = admitted(site.registry, role, role)
            with looking(chromium, refused="401") as page:
                page.goto(site.at("schedules"))
                page.get_by_label("Token", exact=True).fill(token)
                page.get_by_role("button", name="Go on").click()
                page.wait_for_selector("main[data-ready=schedules]")
                found[role] = page.locator("tbody button").all_inner_texts()
    assert found == {"reader": [], "operator": ["Run now", "Pause"]}


def test_what_happens_elsewhere_is_seen_without_a_reload(page: Page, own_site: Site) -> None:
    """A request that somebody else makes is in the queue of a page that is only looked at."""
    opened(page, own_site.stream)
    page.wait_for_selector("#live[data-state=live]")
    assert page.locator("#queue").get_by_text("Nothing waits.").is_visible()
    known = own_site.registry.stream(STREAM)
    assert known is not None
    order = Request(stream_id=known.id, reason="manual", actor="bob", note="from afar")
    own_site.registry.submit(order)
    page.locator("#queue").get_by_text("manual by bob: from afar").wait_for()
    assert page.locator("#queue [data-kind=pending]").count() == 1


def test_verify_tells_whether_the_chain_holds(page: Page, own_site: Site) -> None:
    """It holds; once an entry was edited behind tidemark's back, the page names that entry."""
    opened(page, own_site.at("ledger"))
    page.get_by_role("button", name="Verify").click()
    page.wait_for_selector(".verdict[data-holds=true]")
    engine = own_site.registry.engine
    with engine.connect() as conn:
        names = conn.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'ledger'"
        ).scalars()
        triggers = list(names)
    for trigger in triggers:
        change(engine, f"DROP TRIGGER {trigger}")
    change(engine, "UPDATE ledger SET actor = 'eve' WHERE id = 5")
    page.get_by_role("button", name="Verify").click()
    page.wait_for_selector(".verdict[data-holds=false]")
    assert "Entry 5" in page.locator(".findings").inner_text()


def test_a_token_is_asked_for_where_one_is_needed_and_its_role_says_what_is_shown(
    chromium: Browser, ran: Path, tmp_path: Path
) -> None:
    """A wrong one is asked for again; a reader sees everything and no button that acts."""
    with serving(ran, tmp_path, tokens="always") as site, looking(chromium, refused="401") as page:
        token = admitted(site.registry, "rita")
        answers: list[int] = []
        page.on("response", lambda response: answers.append(response.status))
        page.goto(site.stream)
        for text in ("not-one", token):
            page.get_by_label("Token", exact=True).fill(text)
            page.get_by_role("button", name="Go on").click()
        page.wait_for_selector("main[data-ready=stream]")
        assert page.get_by_role("button", name="Retrain").count() == 0
        assert page.locator(".mark").count() == len(told(site))
        assert answers.count(401) >= 2


# Who looks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "pages"), [("light", PAGES), ("dark", PAGES[1:2])])
def test_no_page_has_a_barrier_that_axe_knows(
    chromium: Browser, site: Site, scheme: str, pages: tuple[str, ...]
) -> None:
    """axe-core's rules for WCAG 2 A and AA, contrast among them, on every page and a dialog."""
    from axe_playwright_python.sync_playwright import Axe

    with looking(chromium, color_scheme=scheme) as page:
        for where in pages:
            opened(page, site.at(where))
            page.evaluate(OPENED)
            if where.startswith("stream"):
                page.locator(".mark").first.focus()
            results = Axe().run(page)
            assert results.violations_count == 0, results.generate_report()
        page.keyboard.press("?")
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()


def test_a_phone_needs_no_sideways_scrolling(chromium: Browser, site: Site) -> None:
    """360 pixels wide: no page is wider, opened up or with a dialog before it."""
    with looking(chromium, viewport={"width": 360, "height": 740}, has_touch=True) as page:
        for where in PAGES:
            opened(page, site.at(where))
            page.evaluate(OPENED)
            assert page.evaluate("document.documentElement.scrollWidth") == 360, where
        opened(page, site.stream)
        page.get_by_role("button", name="Version 2: more").click()
        box = page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360


def test_dark_and_light_follow_the_system_until_a_person_chooses(
    chromium: Browser, site: Site
) -> None:
    """The switch turns it over, and a reload leaves it so."""
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        with looking(chromium, color_scheme=scheme) as page:
            seen[scheme] = opened(page, site.at()).evaluate(ground)
            if scheme == "dark":
                page.get_by_role("button", name="Dark or light").click()
                assert page.evaluate(ground) == seen["light"]
                page.reload()
                page.wait_for_selector("main[data-ready]")
                assert page.evaluate(ground) == seen["light"]
    assert seen["light"] != seen["dark"]


def test_everything_is_reached_by_the_keyboard_and_seen_where_one_is(
    page: Page, site: Site
) -> None:
    """Tab stops at every button, link and mark, each with an outline; keys lead elsewhere."""
    opened(page, site.stream)
    wanted = page.evaluate("""() => [...document.querySelectorAll('button, a, select, summary')]
        .filter(e => e.checkVisibility() && !e.disabled).length""")
    page.evaluate("""() => {
        window.seen = new Set(); window.bare = [];
        addEventListener('focusin', ({ target }) => {
            window.seen.add(target);
            const { outlineStyle } = getComputedStyle(target);
            if (outlineStyle === 'none') window.bare.push(target.outerHTML);
        });
    }""")
    for _ in range(wanted + 15):
        page.keyboard.press("Tab")
    reached = page.evaluate(
        "[...window.seen].filter(e => e.matches('button, a, select, summary')).length"
    )
    assert reached == wanted
    assert page.evaluate("window.bare") == []
    page.keyboard.press("Shift+?")
    assert "On a time line" in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("l")
    page.wait_for_selector("main[data-ready=ledger]")


def test_a_name_that_is_markup_is_shown_as_it_is_written(page: Page, own_site: Site) -> None:
    """Of a stream, a series, a sensor and a task: no script runs, no element comes of it."""
    image = '<img src=x onerror="document.title=1">'
    evil = f"{image}<script>document.title=2</script>"
    engine = own_site.registry.engine
    change(engine, "UPDATE streams SET name = :name", name=image)
    for table in ("boundaries", "segments", "timelines"):
        renamed = f"UPDATE {table} SET series = :name WHERE series = :was"  # noqa: S608
        change(engine, renamed, name=evil, was=SERIES[0])
    change(engine, "UPDATE tasks SET name = :name", name=evil)
    change(engine, "UPDATE versions SET decision = :name", name=evil)
    opened(page, own_site.at())
    page.get_by_role("link", name=image).click()
    page.wait_for_selector("main[data-ready=stream]")
    assert page.locator("h1").inner_text() == image
    page.locator(".mark").first.hover()
    assert evil in page.locator(".why").inner_text()
    page.get_by_role("button", name="Version 2: more").click()
    assert evil in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    opened(page, own_site.at("ledger"))
    assert page.locator("img[src=x], script:not([src])").count() == 0
    assert page.title() not in ("1", "2")


def test_a_picture_is_kept(page: Page, site: Site) -> None:
    """build/page.png, to be looked at after a run in CI."""
    opened(page, site.stream)
    page.locator(".mark").first.hover()
    BUILD.mkdir(exist_ok=True)
    page.screenshot(path=BUILD / "page.png", full_page=True)
    assert (BUILD / "page.png").stat().st_size > 10_000
