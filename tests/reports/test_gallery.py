"""The page of videos: every method's video of a sample beside its scores; it links, and holds no file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote

import pytest

from kit.cli import complaint, invoke, printed
from kit.pages import Page
from kit.records import record
from kit.stored_runs import run_records, store
from refbench.bench.dataset import DATASET_VARIABLE, load_suite, load_track
from refbench.bench.errors import UserError
from refbench.bench.method import MethodCard
from refbench.bench.runs.folder import RunInfo, dataset_digest
from refbench.bench.scores.record import Provenance, Record
from refbench.bench.video import Video
from refbench.reports.gallery import relative_link, render_gallery
from refbench.reports.report import Report, report

IMAGE = "<img src=x onerror=alert(1)>"
IDS = ("singlehuman_1", "singleobj_1")
MakeClip = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATASET_VARIABLE, raising=False)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two methods, of which `z-good` has the higher TotalScore, on two samples."""
    store(tmp_path / "results", run_records("a-bad", 0.3, ids=IDS))
    store(tmp_path / "results", run_records("z-good", 0.7, ids=IDS))
    return tmp_path / "results"


@pytest.fixture
def runs(make_clip: MakeClip, tmp_path: Path) -> Path:
    """Their videos."""
    for method in ("a-bad", "z-good"):
        for sample in IDS:
            make_clip(f"runs/{method}/open-domain/seed-0/{sample}.mp4", frames=3, width=32, height=32)
    return tmp_path / "runs"


def videos_page(made: Report, folder: Path | str = "report") -> Page:
    """The page alone: tables and plots take their time."""
    return Page(videos_text(made, folder))


def videos_text(made: Report, folder: Path | str = "report") -> str:
    return render_gallery(made.gallery, folder=folder, report="report.html")


def files_of(links: Iterable[str], folder: Path) -> list[Path]:
    """The files that relative links of a page in `folder` lead to."""
    return [folder / unquote(link) for link in links if not link.startswith("#")]


def cells(page: Page) -> list[str]:
    """`sample by method` of every video, in order."""
    return [video["aria-label"] for video in page.attributes("video")]


def test_run_writes_a_page_whose_links_lead_to_videos_and_references(dataset: Path, tmp_path: Path) -> None:
    small = [
        word
        for method in ("noise", "black")
        for option in ("width=32", "height=32", "num_frames=3")
        for word in ("--set", f"{method}.{option}")
    ]
    out = tmp_path / "my report"
    invoke(
        *(
            "run",
            "noise",
            "black",
            "--dataset",
            dataset,
            "--limit",
            2,
            "--metrics",
            "motion-amplitude",
            *small,
        ),
        *("--runs", tmp_path / "runs", "--out", tmp_path / "results", "--report", out),
    )
    page = Page((out / "videos.html").read_text())
    assert page.open == []
    assert "videos.html" in Page((out / "report.html").read_text()).links
    files = files_of(page.links, out)
    assert all(file.is_file() for file in files)
    shown = [file.resolve() for file in files_of((one["data-src"] for one in page.attributes("video")), out)]
    assert len(shown) == 4 and all(file.is_relative_to(tmp_path / "runs") for file in shown)
    assert "prompt of singleobj_1" in page.text and "Cup" in page.text
    pictures = files_of((one["src"] for one in page.attributes("img")), out)
    assert {file.resolve() for file in pictures} >= {dataset / "Images/singleobject/cup/1.png"}
    motion = json.loads((tmp_path / "results/noise/open-domain.jsonl").read_text().splitlines()[0])["value"]
    assert f"MAm {motion:.4f}" in page.text
    # Neither are the files that were scored said to be others, nor the data set.
    assert "not the one that was scored" not in page.text and "another data set" not in page.text


def test_without_runs_there_is_no_page_and_the_report_stays_as_it_was(results: Path, runs: Path) -> None:
    plain, with_videos = report(results).contents(), report(results, runs=runs).contents()
    assert set(with_videos) - set(plain) == {"videos.html"}
    assert "videos" not in str(plain["report.html"]).lower().partition("<nav")[2].partition("</nav>")[0]
    entry = '<li><a href="videos.html">Videos</a></li>\n'
    assert entry in str(with_videos["report.html"])
    page = str(with_videos["report.html"]).replace(entry, "")
    sheets = page.index("<h3>Best and worst videos</h3>"), page.index("<h3>By category</h3>")
    assert {**with_videos, "report.html": page[: sheets[0]] + page[sheets[1] :]} == {
        **plain,
        "videos.html": with_videos["videos.html"],
    }


def test_methods_stand_in_the_order_of_the_ranking(results: Path, runs: Path) -> None:
    store(results, run_records("a-bad", 0.3, ids=("singlehuman_2",)))
    store(results, run_records("z-good", 0.7, ids=("singlehuman_2",)))
    page = videos_page(report(results, runs=runs))
    assert cells(page) == [f"{sample} by {method}" for sample in IDS for method in ("z-good", "a-bad")]
    total = report(results).tracks[0].boards[0].total
    assert total is not None
    # FaceSim does not apply to one of the samples.
    said = r" \[\d\S+ \d\S+\] strict \S+, 20/20 scores counted; covers 3 of the 180 samples of open-domain "
    assert re.search(rf"1 z-good {100 * total:.2f}{said}2 a-bad", page.text)


def test_samples_stand_in_natural_order_with_their_lowest_scores(make_clip: MakeClip, tmp_path: Path) -> None:
    ids = ("cup_10", "cup_2")
    for method, value in (("a", 0.25), ("b", 0.5)):
        store(tmp_path / "s", [record("gmescore", one, value, method=method) for one in ids])
        for one in ids:
            make_clip(f"runs/{method}/open-domain/{one}.mp4", frames=2, width=32, height=32)
    page = videos_page(report(tmp_path / "s", runs=tmp_path / "runs"))
    assert [one.partition(" ")[0] for one in cells(page)] == ["cup_2", "cup_2", "cup_10", "cup_10"]
    blocks = page.attributes("article")
    assert [json.loads(block["data-lowest"]) for block in blocks] == [{"gmescore": 0.25}] * 2
    assert {block["data-category"] for block in blocks} == {"cup"}


def test_a_missing_video_and_a_missing_score_say_why(results: Path, runs: Path) -> None:
    folder = runs / "a-bad/open-domain/seed-0"
    (folder / "singleobj_1.mp4").rename(folder / "elsewhere.mp4")
    (folder / "singleobj_1.error.txt").write_text("out of <b>memory</b>\n")
    (runs / "z-good/open-domain/seed-0/singleobj_1.mp4").unlink()
    page = videos_page(report(results, runs=runs))
    assert "No video: out of <b>memory</b> a-bad" in page.text and "b" not in page.tags
    assert "No video: there is no such video in the run's folder z-good" in page.text
    assert len(cells(page)) == 2
    reasons = [one["title"] for one in page.attributes("dd") if "title" in one]
    assert reasons == ["not_applicable: no such subject"] * 2


def test_a_track_without_runs_is_named_with_why(results: Path, runs: Path) -> None:
    store(results, run_records("a-bad", ids=IDS[:1], track="human-domain"))
    page = videos_page(report(results, runs=runs))
    missing = runs / "a-bad/human-domain"
    assert f"no videos: the video folder {missing} does not exist" in page.text
    assert page.text.count("No method of this track has videos to show.") == 1
    assert len(cells(page)) == 4


def test_hostile_names_are_escaped_and_links_are_encoded(runs: Path, tmp_path: Path) -> None:
    place = tmp_path / "a#b?c%20 'd\"<i>"
    (runs / "z-good").rename(tmp_path / "z-good")
    place.mkdir()
    (tmp_path / "z-good").rename(place / "z-good")
    store(tmp_path / "s", run_records("z-good", ids=IDS[:1]))
    store(
        tmp_path / "s2",
        [record("gmescore", IDS[0], None, method="m", variant=IMAGE, reason=f"failed: {IMAGE}")],
    )
    made = report([tmp_path / "s", tmp_path / "s2"], runs=place)
    (tmp_path / "report").mkdir()
    page = videos_page(made, tmp_path / "report")
    assert page.open == [] and page.tags.count("script") == 1
    assert not {"img", "i", "b"} & set(page.tags)
    assert f"m ({IMAGE})" in page.text and f"failed: {IMAGE}" in page.text
    (video,) = page.attributes("video")
    assert video["data-src"] == f"../a%23b%3Fc%2520%20%27d%22%3Ci%3E/z-good/open-domain/seed-0/{IDS[0]}.mp4"
    assert files_of([video["data-src"]], tmp_path / "report")[0].is_file()


def test_what_a_suite_says_is_escaped(make_clip: MakeClip, tmp_path: Path) -> None:
    suite = tmp_path / "suite.jsonl"
    suite.write_text(
        json.dumps({"id": "x_1", "prompt": IMAGE, "references": ["<i>.png"], "labels": [f'"{IMAGE}']})
    )
    track = load_suite(suite).name
    store(tmp_path / "s", [record("gmescore", "x_1", 0.5, track=track)])
    make_clip(f"own/m/{track}/x_1.mp4", frames=2, width=32, height=32)
    page = videos_page(report(tmp_path / "s", runs=tmp_path / "own", suite=suite))
    assert f'"{IMAGE}: the file <i>.png is missing' in page.text and page.text.count(IMAGE) == 2
    assert not {"img", "i"} & set(page.tags)


def test_the_page_opens_nothing_else_and_no_video_before_it_is_near(results: Path, runs: Path) -> None:
    text = videos_text(report(results, runs=runs))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["form-action"] == "'none'"
    assert rules["media-src"] == rules["img-src"] == "'self' file:"
    assert (
        "url(" not in text
        and "@import" not in text
        and "//" not in re.sub(r"^//.*|  // .*", "", text, flags=re.M)
    )
    page = Page(text)
    for video in page.attributes("video"):
        assert "src" not in video and {"muted", "loop", "playsinline", "controls"} <= set(video)
        assert video["preload"] == "metadata"
        # Without scripts each opens by a plain link.
        assert video["data-src"] in [one.get("href") for one in page.attributes("a")]
    assert "prefers-reduced-motion: reduce" in text
    assert "var(--accent)" in text and "--paper: #14171a" in text


def test_without_a_data_set_one_line_says_that_references_are_not_shown(
    results: Path, runs: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = videos_page(report(results, runs=runs))
    assert page.text.count("Prompts and references are not shown: no data set: give --dataset DIR") == 1
    assert "img" not in page.tags and len(cells(page)) == 4
    monkeypatch.setenv(DATASET_VARIABLE, str(dataset))
    page = videos_page(report(results, runs=runs))
    assert "are not shown" not in page.text
    assert [one["alt"] for one in page.attributes("img")] == ["Reference: Man", "Reference: Cup"]


def test_what_is_not_there_is_refused(results: Path, runs: Path, dataset: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    assert "the folder of runs" in complaint("report", results, "--runs", tmp_path / "nowhere", *out)
    assert "does not exist" in complaint(
        "report", results, "--runs", runs, "--dataset", tmp_path / "no", *out
    )
    assert "--runs DIR" in complaint("report", results, "--dataset", dataset, *out)
    suite = tmp_path / "suite.jsonl"
    suite.write_text('{"id": "x_1", "prompt": "x"}\n')
    with pytest.raises(UserError, match="no score is of"):
        report(results, runs=runs, suite=suite)
    assert not (tmp_path / "out").exists()
    assert f"videos: {tmp_path / 'out/videos.html'}" in printed("report", results, "--runs", runs, *out)
    assert (tmp_path / "out/videos.html").is_file()


def scored(sample: str, digest: str, **fields: object) -> Record:
    return record("gmescore", sample, 0.5, provenance=Provenance(metric_version="1", video=digest), **fields)


def test_another_file_than_the_one_that_was_scored_is_pointed_out(runs: Path, tmp_path: Path) -> None:
    digest = Video(runs / f"a-bad/open-domain/seed-0/{IDS[0]}.mp4").digest
    store(tmp_path / "s", [scored(IDS[0], digest, method="a-bad"), scored(IDS[1], "0" * 64, method="a-bad")])
    page = videos_page(report(tmp_path / "s", runs=runs))
    assert page.text.count("The file is not the one that was scored.") == 1
    assert page.text.index("The file is not") > page.text.index(IDS[1])


def test_variants_and_seeds_are_found_by_their_run_description(
    make_clip: MakeClip, dataset: Path, tmp_path: Path
) -> None:
    """Records of other names than the videos' (`--name`, shuffled in scoring) have their videos."""
    card = MethodCard(name="x", summary="", width=640, height=480, prompt_set="mine.json sha256:0")
    info = RunInfo(method="x", track="open-domain", variant="mini-weights", card=card, dataset="0" * 64)
    variant = "mini-weights+scored-shuffled"
    records = [
        record("gmescore", IDS[0], 0.5, method="renamed", variant=variant, seed=seed) for seed in (0, 3)
    ]
    store(tmp_path / "s", records, info)
    for seed in (0, 3):
        make_clip(f"runs/x/open-domain.mini-weights/seed-{seed}/{IDS[0]}.mp4", frames=2, width=32, height=32)
    page = videos_page(report(tmp_path / "s", runs=tmp_path / "runs", dataset=dataset))
    assert cells(page) == [f"{IDS[0]} by renamed ({variant}), seed {seed}" for seed in (0, 3)]
    assert {(one["width"], one["height"]) for one in page.attributes("video")} == {("640", "480")}
    assert "generated from other prompts: mine.json sha256:0" in page.text
    assert "generated from another data set" in page.text
    same = info.model_copy(update={"dataset": dataset_digest(load_track("open-domain", dataset))})
    store(tmp_path / "s", records, same)
    page = videos_page(report(tmp_path / "s", runs=tmp_path / "runs", dataset=dataset))
    assert "another data set" not in page.text


def test_links_go_by_the_names_of_folders_not_by_where_links_lead(tmp_path: Path) -> None:
    (tmp_path / "disk/videos").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk/videos")
    assert relative_link(tmp_path / "runs/a b.mp4", tmp_path / "out/report") == "../../runs/a%20b.mp4"
    assert relative_link(tmp_path / "runs/\udcff.mp4", tmp_path) == "runs/%FF.mp4"
