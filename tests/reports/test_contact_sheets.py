"""Contact sheets of the report: the best and the worst video of each component, within the page itself."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kit.pages import Page
from kit.records import record
from kit.stored_runs import run_records, store
from refbench.bench.dataset import DATASET_VARIABLE
from refbench.bench.video import write_video
from refbench.reports.contact_sheets import TILE_PX, Sheet, contact_sheets, first_middle_last, fitted
from refbench.reports.report import Report, report

IDS = ("singlehuman_1", "singleobj_1")
HOSTILE = "<script>alert(1)</script>"
LEVELS = (40, 120, 220)


@pytest.fixture(autouse=True)
def no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATASET_VARIABLE, raising=False)


@pytest.fixture
def made(tmp_path: Path) -> Report:
    """Two methods whose videos have three even frames, and a data set with one reference picture a sample."""
    store(tmp_path / "results", run_records("bad", 0.3, ids=IDS))
    store(tmp_path / "results", run_records("good", 0.7, ids=IDS))
    for method in ("bad", "good"):
        for sample in IDS:
            file = tmp_path / f"runs/{method}/open-domain/seed-0/{sample}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_video(file, [np.full((32, 64, 3), level, np.uint8) for level in LEVELS], fps=8, crf=1)
    (tmp_path / "data/Images").mkdir(parents=True)
    Image.new("RGB", (30, 60), (200, 30, 30)).save(tmp_path / "data/Images/1.png")
    samples = {
        sample: {"img_paths": ["Images/1.png"], "prompt": f"{HOSTILE} {sample}", "class_label": [HOSTILE]}
        for sample in IDS
    }
    (tmp_path / "data/Open-Domain_Eval.json").write_text(json.dumps(samples))
    return report(tmp_path / "results", runs=tmp_path / "runs", dataset=tmp_path / "data")


def sheets_of(made: Report) -> dict[str, Sheet]:
    (track,) = made.tracks
    (section,) = made.gallery
    found = contact_sheets(section, track.protocol.weighted_columns("open-domain"))
    return {sheet.component: sheet for sheet in found}


def picture_of(uri: str) -> Image.Image:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_best_and_worst_of_each_component_with_three_frames_and_the_references(made: Report) -> None:
    sheets = sheets_of(made)
    assert len(sheets) == 7
    for sheet in sheets.values():
        best, worst = sheet.rows
        assert (best.place, best.label, worst.place, worst.label) == ("best", "good", "worst", "bad")
        assert best.value > worst.value
        frames = [picture_of(picture.uri) for picture in best.frames]
        assert [frame.size for frame in frames] == 3 * [(TILE_PX, TILE_PX // 2)]
        means = [np.asarray(frame).mean() for frame in frames]
        assert means == pytest.approx(LEVELS, abs=4)
        (reference,) = best.references
        assert picture_of(reference.uri).size == (TILE_PX, TILE_PX) and HOSTILE in reference.alt


def test_the_page_holds_them_itself_and_escapes_what_they_say(made: Report) -> None:
    html = str(made.contents()["report.html"])
    page = Page(html)
    assert "Best and worst videos" in page.text and f"{HOSTILE} singleobj_1" in page.text
    assert HOSTILE not in html
    assert all(image["src"].startswith("data:image/") for image in page.attributes("img"))
    assert sum(image["src"].startswith("data:image/jpeg") for image in page.attributes("img")) == 7 * 2 * 4
    # Without runs there is no video to show.
    plain = Page(str(report_without_runs(made)))
    assert "Best and worst videos" not in plain.text


def report_without_runs(made: Report) -> str | bytes:
    from dataclasses import replace

    return replace(made, gallery=()).contents()["report.html"]


def test_what_counts_decides_and_a_damaged_video_says_why(tmp_path: Path) -> None:
    # Of motion only the size counts: -0.4 moves more than 0.1.
    values = {"singlehuman_1": -0.4, "singleobj_1": 0.1}
    store(
        tmp_path / "results",
        [record("motion-amplitude", sample, value, method="one") for sample, value in values.items()],
    )
    folder = tmp_path / "runs/one/open-domain/seed-0"
    folder.mkdir(parents=True)
    write_video(folder / "singleobj_1.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3, fps=8)
    (folder / "singlehuman_1.mp4").write_bytes(b"no video at all")
    made = report(tmp_path / "results", runs=tmp_path / "runs")
    (sheet,) = sheets_of(made).values()
    best, worst = sheet.rows
    assert (best.sample, worst.sample) == ("singlehuman_1", "singleobj_1")
    assert best.frames == () and best.fault
    assert best.fault in Page(str(made.contents()["report.html"])).text


def test_pictures_keep_their_shape(tmp_path: Path) -> None:
    write_video(tmp_path / "tall.mp4", [np.zeros((64, 32, 3), np.uint8)] * 2, fps=8)
    assert [frame.size for frame in first_middle_last(tmp_path / "tall.mp4", 32)] == 3 * [(16, 32)]
    square = fitted(Image.new("RGB", (10, 20), (0, 0, 0)), 40)
    assert square.size == (40, 40)
    assert square.getpixel((0, 0)) == (255, 255, 255) and square.getpixel((20, 20)) == (0, 0, 0)
