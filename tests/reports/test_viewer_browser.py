"""The viewer in a real Chromium: filter, sort, links, playback in step, a phone's width, hostile texts.

Needs playwright from PyPI and a `chromium` of the system; skipped with a reason where one is missing. Times
are written to the log (`pytest --log-cli-level=info`), never asserted.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from kit.clips import moving_square
from kit.records import record
from kit.sites import site_data
from kit.stored_runs import run_records, store
from refbench.bench.dataset import OFFICIAL_TRACKS
from refbench.bench.scores.record import Record
from refbench.bench.video import write_video
from refbench.reports.viewer.serve import SiteServer
from refbench.reports.viewer.view import Site, view

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt install chromium")

LOG = logging.getLogger(__name__)
HOSTILE = "<img src=x onerror=document.title='owned'>"
IDS = ("singleobj_1", "singleobj_2", "singleobj_10", "singlehuman_1", "singlehuman_2", "faceobj_1")
FPS = 8
FRAMES = 16
# A busy machine may take its time.
LIMIT_MS = 15_000
OPTIONS = {
    "executable_path": CHROMIUM,
    "args": ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(**OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, scores and runs of three methods, one of them with a hostile name."""
    root = tmp_path_factory.mktemp("viewer")
    samples = {
        sample: {
            "img_paths": [f"Images/{number}.png"],
            "prompt": f"{HOSTILE} a {'red' if number % 2 else 'blue'} thing {number}",
            "class_label": [HOSTILE],
        }
        for number, sample in enumerate(IDS)
    }
    from PIL import Image

    (root / "data/Images").mkdir(parents=True)
    (root / "data/Open-Domain_Eval.json").write_text(json.dumps(samples))
    for number in range(len(IDS)):
        Image.new("RGB", (40, 60), (40 * number, 90, 120)).save(root / f"data/Images/{number}.png")
    made = {
        "best": run_records("best", 0.8, ids=IDS, seeds=(0, 1)),
        "middle": run_records("middle", 0.6, ids=IDS, seeds=(0, 1)),
    }
    hostile = run_records("worst", 0.3, ids=IDS, variant=HOSTILE)
    made["worst"] = [
        *hostile,
        record(
            "clip-t", IDS[0], 0.5, method="worst", variant=HOSTILE,
            details={HOSTILE: HOSTILE, "frame_scores": [0.1, 0.5, 0.2], "replies": {"1": HOSTILE}},
        ),
        record("dino-i", IDS[1], None, method="worst", variant=HOSTILE, reason=f"failed: {HOSTILE}"),
    ]  # fmt: skip
    for number, (method, records) in enumerate(made.items()):
        store(root / "scores", with_boxes(spread(records, number)))
        folder = "open-domain" if method != "worst" else f"open-domain.{HOSTILE}"
        for seed in (0, 1) if method != "worst" else (0,):
            place = root / "runs" / method / folder / f"seed-{seed}"
            place.mkdir(parents=True)
            for sample in IDS:
                if (method, sample) != ("middle", IDS[0]):
                    frames = moving_square(frames=FRAMES, width=64, height=48, seed=number + seed)
                    write_video(place / f"{sample}.mp4", frames, FPS)
    return root


def spread(records: list[Record], number: int) -> list[Record]:
    """The same with GmeScores that differ from sample to sample, in another order for each method."""
    order = {sample: (place * (2 * number + 1)) % 7 / 100 for place, sample in enumerate(IDS)}
    return [
        one.model_copy(update={"value": one.value + order[one.sample]})
        if one.metric == "gmescore" and one.value is not None
        else one
        for one in records
    ]


def with_boxes(records: list[Record]) -> list[Record]:
    """The same with boxes that two metrics say they found in faceobj_1: a face in the first frame and another
    from the middle on, a subject that counts and one that does not.
    """
    details: dict[str, dict[str, Any]] = {
        "facesim": {
            "frames": 32,
            "frame_cosines": [0.83] + 31 * [-0.1],
            "face_boxes": [[0, 250, 250, 500, 500], [16, 0, 0, 100, 100]],
        },
        "nexusscore": {
            "frames": 32,
            "references": [{"label": HOSTILE}],
            "subject_boxes": [[0, 0, 1, 100, 200, 300, 400], [0, 0, 0, 500, 500, 900, 1000]],
        },
    }
    return [
        one.model_copy(update={"details": details[one.metric]})
        if one.sample == "faceobj_1" and one.metric in details
        else one
        for one in records
    ]


@pytest.fixture(scope="module")
def site(results: Path) -> Site:
    return view(results / "scores", runs=results / "runs", dataset=results / "data", out=results / "site")


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, site: Site) -> Iterator[Open]:
    """Opens a view of the site from disk; no page may log an error, open a dialog or ask another host."""
    faults: list[str] = []
    contexts = []

    def watched(page: Any) -> None:
        page.set_default_timeout(LIMIT_MS)
        page.on(
            "console", lambda line: faults.append(line.text) if line.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}"))
        page.on("request", lambda asked: faults.append(asked.url) if not own(asked.url) else None)

    def open_(start: str = "", width: int = 1280, **state: str) -> Any:
        options = {key: state.pop(key) for key in ("color_scheme", "reduced_motion") if key in state}
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        watched(page)
        page.goto(f"{start or site.page.as_uri()}#{urlencode(state)}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert faults == []


def own(url: str) -> bool:
    return url.startswith(("file:", "http://127.0.0.1:"))


def shown_ids(page: Any) -> list[str]:
    """What the cards show, in the order of the grid: `sample by method, seed n`."""
    script = """[...document.querySelectorAll('.card')].sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)
        .map((card) => card.querySelector('a').ariaLabel)"""
    found: list[str] = page.evaluate(script)
    return found


def field(page: Any, label: str) -> Any:
    """The field under a label; Playwright's own search counts the options as a part of the label."""
    return page.locator(f"//label[normalize-space(text()[1])='{label}']//*[self::select or self::input]")


def wait_until(page: Any, script: str, argument: object = None) -> None:
    """Ask until a script says yes; Playwright's own waiting is what the content policy forbids (eval)."""
    end = time.monotonic() + LIMIT_MS / 1000
    while not page.evaluate(script, argument):
        assert time.monotonic() < end, script
        page.wait_for_timeout(20)


def status(page: Any) -> str:
    return str(page.get_by_role("status").inner_text())


def test_the_overview_ranks_and_says_what_means_something(open_page: Open) -> None:
    page = open_page()
    names = page.locator("table.ranking tbody tr:not(.published) th").all_inner_texts()
    assert names == ["best", "middle", f"worst ({HOSTILE})"]
    assert page.locator("table.ranking .rank").all_inner_texts()[:2] != ["", ""]
    assert page.locator("table.gaps td.better").count() >= 1
    assert page.locator("table.ranking tr.published").count() > 5
    page.get_by_label("published rows").uncheck()
    assert page.locator("table.ranking tr.published").count() == 0
    assert "published=no" in page.url


def boxes(page: Any) -> list[tuple[str, str]]:
    """Kind and text of the boxes over the first video."""
    script = """[...document.querySelector('.film .layer').children]
        .map((box) => [box.className, box.textContent])"""
    return [(kind, text) for kind, text in page.evaluate(script)]


def test_what_was_found_is_drawn_over_its_frames(open_page: Open) -> None:
    page = open_page(view="sample", sample="faceobj_1")
    switch = page.get_by_label("Faces and subjects that were found")
    wait_until(page, "document.querySelector('.film video').readyState >= 2")
    assert page.locator(".found").count() == 0
    switch.check()
    wait_until(page, "document.querySelectorAll('.film .found').length > 0")
    assert "found=yes" in page.url
    first = [("found face", "face 0.83"), ("found subject", HOSTILE), ("found subject left-out", HOSTILE)]
    assert boxes(page) == first
    place = page.evaluate(
        """(() => {
          const video = document.querySelector('.film video').getBoundingClientRect();
          const box = document.querySelector('.film .found').getBoundingClientRect();
          return [(box.left - video.left) / video.width, box.width / video.width, box.height / video.height];
        })()"""
    )
    assert place == pytest.approx([0.25, 0.25, 0.25], abs=0.01)
    # Place 16 of 32 is frame 7 of 0 to 15: until then the first boxes stay.
    for _ in range(6):
        page.get_by_label("One frame forward").click()
    wait_until(page, "document.querySelector('.film video').currentTime > 0.75")
    assert boxes(page) == first
    page.get_by_label("One frame forward").click()
    wait_until(page, "document.querySelector('.found.face').textContent === 'face -0.10'")
    assert boxes(page) == [("found face left-out", "face -0.10"), *first[1:]]
    switch.uncheck()
    wait_until(page, "document.querySelectorAll('.found').length === 0")
    assert "found=" not in page.url
    # A link shows the same, and the raw details say how many there are.
    page = open_page(view="sample", sample="faceobj_1", found="yes")
    wait_until(page, "document.querySelectorAll('.film .found').length > 0")
    page.get_by_text("Raw details of the metrics").click()
    page.get_by_text("2, to be drawn over the video").first.wait_for()


def test_the_radar_shows_the_first_methods_and_leaves_out_what_is_unticked(open_page: Open) -> None:
    page = open_page()
    radar = page.locator(".radar > div svg")
    assert radar.locator("polygon.outline").count() == 3
    assert radar.locator("text").count() == 7
    assert page.locator(".radar-legend li").last.inner_text().strip() == f"worst ({HOSTILE})"
    page.locator(".radar-legend input").first.uncheck()
    assert radar.locator("polygon.outline").count() == 2 and radar.locator(".outline-0").count() == 0


def test_filters_narrow_the_grid_and_stand_in_the_address(open_page: Open) -> None:
    page = open_page(view="samples")
    assert status(page) == "30 of 30 videos"
    field(page, "Method").select_option("middle")
    assert status(page).startswith("12 of 30")
    field(page, "Seed").select_option("1")
    assert status(page).startswith("6 of 30")
    field(page, "Category").select_option("singleobj")
    assert status(page).startswith("3 of 30")
    field(page, "Prompt").press_sequentially("red thing")
    assert shown_ids(page) == ["singleobj_2 by middle, seed 1"]
    assert "text=red+thing" in page.url and "category=singleobj" in page.url
    page.go_back()
    page.get_by_role("button", name="Clear").click()
    assert status(page) == "30 of 30 videos"
    field(page, "Show").select_option("without a video")
    assert shown_ids(page) == [f"singleobj_1 by middle, seed {seed}" for seed in (0, 1)]
    assert "there is no such video" in page.locator(".thumb.none").first.inner_text()


def test_a_range_of_a_component_and_the_failed_ones(open_page: Open, site: Site) -> None:
    page = open_page(view="samples", column="gmescore", low="0.7")
    (track,) = site_data(site.page.parent)["tracks"]
    column = [one["name"] for one in track["columns"]].index("gmescore")
    values = [row[column] for row in track["rows"]["values"]]
    assert status(page).startswith(f"{sum(value >= 0.7 for value in values)} of 30")
    field(page, "to").fill("0.75")
    assert status(page).startswith(f"{sum(0.7 <= value <= 0.75 for value in values)} of 30")


def test_the_order_is_that_of_the_numbers(open_page: Open, site: Site) -> None:
    (track,) = site_data(site.page.parent)["tracks"]
    rows, ids = track["rows"], track["samples"]["ids"]
    column = [one["name"] for one in track["columns"]].index("gmescore")
    page = open_page(view="samples", method="best", seed="0", column="gmescore", sort="worst")
    of_best = {
        ids[rows["sample"][row]]: rows["values"][row][column]
        for row in range(len(rows["sample"]))
        if rows["method"][row] == 0 and rows["seed"][row] == 0
    }
    worst_first = [f"{sample} by best, seed 0" for sample in sorted(of_best, key=lambda one: of_best[one])]
    assert shown_ids(page) == worst_first
    field(page, "Order").select_option("best first")
    assert shown_ids(page)[0] == worst_first[-1]
    field(page, "Order").select_option(label="by difference A − B, lowest first")
    field(page, "A").select_option("best")
    field(page, "B").select_option("middle")
    gaps = [float(text.replace("−", "-")) for text in page.locator(".card .gap").all_inner_texts()]
    assert len(gaps) == 12
    order = page.evaluate(
        "[...document.querySelectorAll('.card')].sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)"
        ".map((card) => Number(card.querySelector('.gap').textContent.replace('−', '-')))"
    )
    assert order == sorted(gaps)


def test_a_link_shows_the_same_view(open_page: Open) -> None:
    page = open_page(view="samples")
    field(page, "Order").select_option("worst first")
    field(page, "Component").select_option("GmeScore")
    field(page, "Method").select_option(f"worst ({HOSTILE})")
    first = shown_ids(page)
    again = open_page(start=page.url.partition("#")[0])
    again.goto("about:blank")
    again.goto(page.url)
    assert shown_ids(again) == first and len(first) == 6
    assert field(again, "Order").input_value() == "worst"
    page.go_back()
    assert field(page, "Method").input_value() == "" and status(page) == "30 of 30 videos"


def test_the_keyboard_goes_through_grid_and_samples(open_page: Open) -> None:
    page = open_page(view="samples", method="best", seed="0", sort="best", column="gmescore")
    order = [name.partition(" ")[0] for name in shown_ids(page)]
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.locator(".card a").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_until(page, "document.title.startsWith('One sample')")
    assert page.locator("h1").inner_text().split()[0] == order[1]
    page.keyboard.press("j")
    assert page.locator("h1").inner_text().split()[0] == order[2]
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert page.locator("h1").inner_text().split()[0] == order[0]
    page.keyboard.press("Escape")
    assert status(page).startswith("6 of 30")


TIMES = "[...document.querySelectorAll('.videos video')].map((video) => video.currentTime)"
READY = """(count) => { const all = [...document.querySelectorAll('video')];
    return all.length === count && all.every((video) => video.readyState >= 2 && !video.seeking); }"""


def check_playback(page: Any, videos: int) -> None:
    """Play, pause, step and loop: all videos on the page stay on one moment."""
    wait_until(page, READY, videos)
    page.get_by_role("button", name="Play").click()
    wait_until(page, "document.querySelector('.videos video').currentTime > 0.4")
    drift = page.evaluate(
        f"(() => {{ const times = {TIMES}; return Math.max(...times) - Math.min(...times); }})()"
    )
    LOG.info("largest drift while playing: %.0f ms", 1000 * drift)
    page.get_by_role("button", name="Pause").click()
    wait_until(page, READY, videos)
    assert len(set(page.evaluate(TIMES))) == 1
    before = page.evaluate(TIMES)[0]
    page.keyboard.press(".")
    wait_until(page, READY, videos)
    frame = int(before * FPS) + 1
    assert page.evaluate(TIMES) == pytest.approx([(frame + 0.5) / FPS] * videos)
    assert page.locator(".player .frame").inner_text() == f"frame {frame + 1} of {FRAMES}"
    page.keyboard.press(",")
    wait_until(page, READY, videos)
    assert page.evaluate(TIMES) == pytest.approx([(frame - 0.5) / FPS] * videos)
    # From its last frames the loop begins again; at double speed that is soon.
    field(page, "Speed").select_option("2×")
    page.get_by_label("Position").fill(str(FRAMES / FPS - 0.3))
    page.get_by_role("button", name="Play").click()
    wait_until(page, f"Math.max(...{TIMES}) < 0.9")
    rates = "[...document.querySelectorAll('.videos video')].map((video) => video.playbackRate)"
    # One that is ahead or behind runs up to a tenth slower or faster.
    assert page.evaluate(rates) == pytest.approx([2] * videos, rel=0.101)
    page.get_by_role("button", name="Pause").click()


def test_videos_play_in_step_from_disk(open_page: Open) -> None:
    check_playback(open_page(view="sample", sample="singleobj_2"), videos=5)


def test_the_served_site_plays_as_well(open_page: Open, site: Site) -> None:
    with SiteServer(site.page, site.files, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            check_playback(open_page(start=server.address, view="sample", sample="singleobj_2"), videos=5)
        finally:
            server.shutdown()
            thread.join()


def test_one_sample_shows_prompt_references_scores_ranks_and_reasons(open_page: Open) -> None:
    page = open_page(view="sample", sample="singleobj_2")
    assert "a red thing 1" in page.locator(".prompt-text").inner_text()
    picture = page.locator(".references img")
    assert picture.evaluate("(image) => image.complete && image.naturalWidth > 0")
    rows = page.locator(".scores-table tbody tr").all_inner_texts()
    assert len(rows) == 5 and "#1" in rows[0] and "#3" in rows[4]
    reasons = page.locator("main .notes").inner_text()
    assert f"dino-i: failed: {HOSTILE} (worst ({HOSTILE}) seed 0)" in reasons
    page.get_by_label("middle", exact=True).uncheck()
    assert page.locator(".videos video").count() == 3 and "beside=best" in page.url


def test_raw_details_are_loaded_when_asked_for(open_page: Open) -> None:
    page = open_page(view="sample", sample="singleobj_1")
    page.get_by_text("Raw details of the metrics").click()
    card = page.locator(".detail-card")
    card.wait_for()
    assert card.count() == 1 and card.locator("polyline").count() == 1
    assert card.inner_text().count(HOSTILE) >= 3 and "3 values, 0.1 to 0.5" in card.inner_text()


def test_two_methods_side_by_side_and_under_a_slider(open_page: Open) -> None:
    page = open_page(view="pair", a="best", b="middle")
    assert page.locator("table.differences tbody tr").count() == 8
    assert page.locator(".decisive li").count() == 6
    link = page.locator(".decisive a").nth(3)
    link.click()
    assert page.locator("h2", has_text="side by side").inner_text().startswith(link.inner_text())
    page.get_by_role("link", name="GmeScore").click()
    assert "in GmeScore" in page.locator("section", has_text="Samples that decide").last.inner_text()
    page.locator(".decisive").get_by_role("link", name="singleobj_2").click()
    field(page, "Layout").select_option(label="one over the other, with a slider")
    page.get_by_label("A to the left").fill("20")
    assert page.locator(".stage").evaluate("(stage) => stage.style.getPropertyValue('--cut')") == "20%"
    cut = page.locator(".stage video").nth(1).evaluate("(video) => getComputedStyle(video).clipPath")
    assert "80%" in cut
    page.get_by_role("button", name="Swap").click()
    assert page.locator("h1").inner_text() == "middle and best"


@pytest.mark.parametrize("state", [{}, {"view": "samples"}, {"view": "sample"}, {"view": "pair"}], ids=str)
def test_a_phone_shows_each_view_without_scrolling_sideways(open_page: Open, state: dict[str, str]) -> None:
    page = open_page(width=400, **state)
    page.locator("h1").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_hostile_texts_are_shown_as_they_are(open_page: Open) -> None:
    for state in (
        {},
        {"view": "samples"},
        {"view": "sample", "sample": IDS[0]},
        {"view": "pair", "b": f"worst ({HOSTILE})"},
    ):
        page = open_page(**state)
        page.locator("h1").wait_for()
        assert HOSTILE in page.locator("main").inner_text()
        # No picture but references, and no attribute that is a script.
        assert page.locator("img:not(.references img)").count() == 0
        assert page.evaluate(
            "[...document.querySelectorAll('*')].every((one) => !one.hasAttribute('onerror'))"
        )
        assert "owned" not in page.title()


def test_every_field_and_button_has_a_name(open_page: Open) -> None:
    script = """[...document.querySelectorAll('button, select, input, a, video:not([aria-hidden])')]
        .filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim()
            || one.querySelector('img[alt]')))
        .map((one) => one.outerHTML)"""
    for view_name in ("overview", "samples", "sample", "pair"):
        page = open_page(view=view_name)
        page.locator("h1").wait_for()
        assert page.evaluate(script) == []


def test_dark_and_reduced_motion_are_followed(open_page: Open) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = open_page(view="samples", color_scheme="light")
    dark = open_page(view="samples", color_scheme="dark", reduced_motion="reduce")
    assert light.evaluate(colour) != dark.evaluate(colour)
    for page, plays in ((light, True), (dark, False)):
        page.locator(".card video").first.hover()
        if plays:
            wait_until(page, "!document.querySelector('.card video').paused")
        else:
            assert page.locator(".card video").first.evaluate("(video) => video.paused")


def test_many_rows_are_drawn_as_far_as_they_are_seen(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """180 samples × 20 methods; the times go to the log."""
    # Twenty methods are 190 bootstraps, which other tests look at.
    monkeypatch.setattr("refbench.reports.viewer.data.compare_all", lambda *given: [])
    ids = OFFICIAL_TRACKS["open-domain"].sample_ids
    for number in range(20):
        store(
            tmp_path / "s",
            [
                record(metric, sample, (number * 37 + place * 11) % 101 / 101, method=f"m{number}")
                for place, sample in enumerate(ids)
                for metric in ("gmescore", "motion-amplitude", "facesim")
            ],
        )
    made = view(tmp_path / "s", out=tmp_path / "site")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(LIMIT_MS)
    page.goto(f"{made.page.as_uri()}#view=samples")
    drawn = page.evaluate("performance.getEntriesByName('drawn')[0].startTime")
    assert status(page) == "3600 of 3600 videos; no video can be shown"
    assert page.locator(".card").count() < 60
    field(page, "Order").select_option("worst first")
    field(page, "Component").select_option("GmeScore")
    field(page, "Prompt").fill("faceobj")
    assert status(page).startswith("300 of 3600")
    spent = page.evaluate("performance.getEntriesByName('filter and sort').map((one) => one.duration)")
    texts = [f"{one:.0f}" for one in spent]
    LOG.info("3600 rows: drawn after %.0f ms; filter and sort in %s ms", drawn, ", ".join(texts))
    page.get_by_role("button", name="Clear").click()
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    wait_until(page, "[...document.querySelectorAll('.card')].some((card) => card.ariaPosInSet === '3600')")
    assert re.fullmatch(r"\d+", str(page.locator(".card").count())) and page.locator(".card").count() < 60
    page.close()
