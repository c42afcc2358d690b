"""The viewer's site: its numbers, links, previews and names, and what is refused. Browsers: see
`test_viewer_browser.py`.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from kit.cli import complaint, invoke, printed_json
from kit.records import record
from kit.sites import details, site_data, with_view_command
from kit.stored_runs import run_info, run_records, store
from refbench.bench.errors import UserError
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.video import Video
from refbench.reports.loopback import byte_range
from refbench.reports.report import report
from refbench.reports.viewer.data import script_text
from refbench.reports.viewer.names import letter_of
from refbench.reports.viewer.serve import SiteServer
from refbench.reports.viewer.view import SITE_FILES, view

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "<img src=x onerror=alert(1)>"
IDS = ("singleobj_1", "singlehuman_1", "faceobj_2")
MakeClip = Callable[..., Path]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two methods, of which `zeta-good` has the higher TotalScore, on three samples with two seeds."""
    store(tmp_path / "results", run_records("alpha-bad", 0.3, ids=IDS, seeds=(0, 1)))
    store(tmp_path / "results", run_records("zeta-good", 0.7, ids=IDS, seeds=(0, 1)))
    return tmp_path / "results"


@pytest.fixture
def runs(make_clip: MakeClip, tmp_path: Path) -> Path:
    """Their videos: those of different methods and samples differ."""
    for number, method in enumerate(("alpha-bad", "zeta-good")):
        for place, sample in enumerate(IDS):
            for seed in (0, 1):
                make_clip(
                    f"runs/{method}/open-domain/seed-{seed}/{sample}.mp4",
                    frames=4, width=64, height=48, seed=10 * number + 2 * place + seed,
                )  # fmt: skip
    return tmp_path / "runs"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "site"


def rows_by_video(track: dict[str, Any]) -> dict[tuple[str, str, int], int]:
    """(method's label, sample, seed) → row."""
    rows = track["rows"]
    return {
        (
            track["methods"][rows["method"][row]]["label"],
            track["samples"]["ids"][rows["sample"][row]],
            rows["seed"][row],
        ): row
        for row in range(len(rows["sample"]))
    }


def test_every_value_and_reason_is_the_records(results: Path, out: Path) -> None:
    odd = 0.1234567890123456
    store(
        results,
        [
            *run_records("odd", 0.5, ids=IDS[:1], without=("gmescore", "nexusscore")),
            record("gmescore", IDS[0], odd, method="odd"),
            record("clip-t", IDS[0], 0.25, method="odd"),
            record("nexusscore", IDS[0], None, method="odd", reason="failed: no <b>subject</b> found"),
        ],
    )
    view(results, out=out)
    data = site_data(out)
    (track,) = data["tracks"]
    columns = [column["metric"] for column in track["columns"]]
    assert columns == [*(component.metric for component in COMPONENTS.values()), "clip-t"]
    places = rows_by_video(track)
    records = report(results).records
    assert len(places) == 2 * 3 * 2 + 1
    for one in records:
        row, column = places[one.run.label, one.sample, one.seed], columns.index(one.metric)
        assert track["rows"]["values"][row][column] == one.value
        reason = track["rows"]["reasons"][row][column]
        assert (data["texts"][reason] if reason >= 0 else None) == one.reason
    missing = track["rows"]["reasons"][places["zeta-good", IDS[0], 0]][columns.index("clip-t")]
    assert data["texts"][missing] == "not scored: there is no record"


def test_only_motion_counts_by_its_size(results: Path, out: Path) -> None:
    view(results, out=out)
    columns = site_data(out)["tracks"][0]["columns"]
    assert [one["name"] for one in columns if one["absolute"]] == ["motion_smoothness", "motion_amplitude"]


def test_the_ranking_is_the_reports(results: Path, out: Path) -> None:
    view(results, out=out)
    (track,) = site_data(out)["tracks"]
    made = report(results).tracks[0]
    assert [method["label"] for method in track["methods"]] == [board.label for board in made.boards]
    for method, board in zip(track["methods"], made.boards, strict=True):
        assert method["total"] == board.total and method["strict"] == board.strict_total
        assert tuple(method["interval"]) == board.total_interval
        for result in board.components:
            component = method["components"][result.component]
            assert component["value"] == result.value
            assert (component["counted"], component["expected"]) == (result.counted, result.expected)
    (pair,) = track["pairs"]
    totals = [board.total for board in made.boards]
    assert pair["told_apart"] and pair["total"][:2] == pytest.approx(totals, abs=1e-7)
    assert [method["group"] for method in track["methods"]] == [[1, 1], [2, 2]]
    assert {row["method"] for row in track["published"]} >= {"RefAlign-14B"}


def test_unofficial_totals_are_ranked_after_official_ones_and_say_why(results: Path, out: Path) -> None:
    store(results, run_records("tiny", 0.9, ids=IDS, variant="tiny-weights"))
    view(results, out=out)
    (track,) = site_data(out)["tracks"]
    last = track["methods"][-1]
    assert last["label"] == "tiny (tiny-weights)" and last["total"] is None
    assert last["unofficial_total"] > 0.8 and "tiny weights" in last["why_no_total"]


def links(site: Path) -> list[str]:
    data = site_data(site)
    rows = [track["rows"] for track in data["tracks"]]
    pictures = [
        reference["link"]
        for track in data["tracks"]
        for references in track["samples"]["references"]
        for reference in references
    ]
    return [*(link for row in rows for name in ("video", "poster") for link in row[name]), *pictures]


def test_videos_and_references_are_linked_where_they_lie(
    results: Path, runs: Path, dataset: Path, out: Path
) -> None:
    made = view(results, runs=runs, dataset=dataset, out=out)
    data = site_data(out)
    (track,) = data["tracks"]
    place = rows_by_video(track)["alpha-bad", "faceobj_2", 1]
    found = (out / unquote(track["rows"]["video"][place])).resolve()
    assert found == runs / "alpha-bad/open-domain/seed-1/faceobj_2.mp4"
    assert made.videos == 12 and made.missing == 0
    shown = [link for link in links(out) if link]
    assert len(shown) == 12 + 4 and all((out / unquote(link)).is_file() for link in shown)
    assert "prompt of faceobj_2" in track["samples"]["prompts"]
    assert {path.resolve() for path in made.files} >= {(out / unquote(link)).resolve() for link in shown}
    # No copy, and everything that the page loads is there.
    assert not (out / "media").exists()
    page = (out / "index.html").read_text()
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert {"data.js", "main.js", "look.css"} <= set(loaded)
    assert all((out / name).is_file() for name in loaded)


def test_the_page_allows_nothing_from_elsewhere(results: Path, out: Path) -> None:
    view(results, out=out)
    page = (out / "index.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["base-uri"] == rules["form-action"] == "'none'"
    for name in ("script-src", "style-src", "img-src", "media-src"):
        assert rules[name] == "'self' file:"
    scripts = "".join((out / name).read_text() for name in SITE_FILES if name.endswith(".js"))
    # Data becomes text and attributes alone.
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
        "import(",
    ):
        assert word not in scripts
    addresses = set(re.findall(r"https?://[^\"' )]+", scripts + page))
    assert addresses == {"http://www.w3.org/2000/svg"}


def test_hostile_texts_stay_data(out: Path, tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script>\u2028'\"\\"
    key = {"__proto__": {"polluted": hostile}, hostile: [1, 2]}
    store(
        tmp_path / "s",
        [record("gmescore", "a_1", 0.5, variant=IMAGE, details=key, category=hostile)],
    )
    view(tmp_path / "s", out=out)
    data = site_data(out)
    assert data["tracks"][0]["methods"][0]["label"] == f"m ({IMAGE})"
    assert data["tracks"][0]["samples"]["categories"] == [hostile]
    (row,) = details(out, "0-0")
    assert row["details"] == key


def test_a_script_says_what_json_cannot_as_text() -> None:
    assert (
        script_text("f", {"a": [float("nan"), float("inf"), 1.5]})
        == 'f("{\\"a\\":[\\"nan\\",\\"inf\\",1.5]}");\n'
    )


def test_details_are_kept_by_sample_and_bounded(out: Path, tmp_path: Path) -> None:
    long = {"frame_scores": [0.123456789] * 20_000}
    store(
        tmp_path / "s",
        [
            record("gmescore", "singleobj_1", 0.5, details={"frame_scores": [0.25, 0.75]}),
            record("gmescore", "singleobj_2", 0.5, details=long),
        ],
    )
    view(tmp_path / "s", out=out)
    assert [row["details"] for row in details(out, "0-0")] == [{"frame_scores": [0.25, 0.75]}]
    assert "characters of details" in details(out, "0-1")[0]["details"]["left out"]


def texts_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file of a site: its path below it, and all that can be read in it."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file.read_bytes().decode("latin-1")


def test_anonymous_leaks_no_name_and_letters_are_the_same_everywhere(
    results: Path, runs: Path, dataset: Path, out: Path
) -> None:
    card = run_info(name="Secret-Card-Name", base_model="Secret-Base", fps=8)
    info = card.model_copy(update={"method": "alpha-bad"})
    store(
        results,
        [
            record(
                "clip-t", IDS[0], 0.5, method="alpha-bad",
                details={"alpha_bad": [1.0, 2.0], "file": "/data/alpha-bad/x", "pairs": 3},
            ),
            record("dino-i", IDS[0], None, method="alpha-bad", reason="failed: runs/alpha-bad/x.mp4 is torn"),
        ],
        info,
    )  # fmt: skip
    store(results, run_records("zeta-good", 0.6, ids=IDS[1:2], track="human-domain"))
    (runs / f"zeta-good/open-domain/seed-0/{IDS[0]}.mp4").unlink()
    # What an earlier, named site left in the folder is gone as well.
    view(results, out=out)
    view(results, runs=runs, dataset=dataset, out=out, bundle=True, anonymous=True)
    pattern = re.compile(r"alpha.?bad|zeta.?good|secret|refalign-?14b", re.IGNORECASE)
    for name, text in texts_of(out):
        assert not pattern.search(name) and not pattern.search(text), name
    data = site_data(out)
    assert [one["label"] for one in data["tracks"][0]["methods"]] == ["Method A", "Method B"]
    assert [one["label"] for one in data["tracks"][1]["methods"]] == ["Method A"]
    assert data["anonymous"] and data["tracks"][0]["published"] == []
    assert "failed" in data["texts"] and "there is no video" in data["texts"]
    (row,) = details(out, f"0-{data['tracks'][0]['samples']['ids'].index(IDS[0])}")
    assert row["details"] == {"pairs": 3}


def test_an_anonymous_site_is_the_same_under_other_names(make_clip: MakeClip, tmp_path: Path) -> None:
    """To the byte: neither order nor size nor anything else follows from a name."""
    # The methods: two of equal scores' rank without a TotalScore, and one with it.
    parts = [{"without": ("gmescore",), "quality": 0.3}, {"without": ("gmescore",), "quality": 0.6}, {}]
    sites = []
    for number, names in enumerate((("aa", "bb", "cc"), ("zz-long-name", "kk", "bb"))):
        root = tmp_path / str(number)
        for place, (name, part) in enumerate(zip(names, parts, strict=True)):
            store(root / "scores", run_records(name, ids=IDS, **part))
            for sample in IDS:
                make_clip(
                    f"{number}/runs/{name}/open-domain/{sample}.mp4",
                    frames=2,
                    width=32,
                    height=32,
                    seed=place,
                )
        view(root / "scores", runs=root / "runs", out=root / "site", bundle=True, anonymous=True)
        sites.append(dict(texts_of(root / "site")))
    assert sites[0] == sites[1]


def test_letters_go_on_after_z() -> None:
    assert [letter_of(place) for place in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]


def test_a_bundle_holds_playable_previews_and_posters_and_no_link_leaves_it(
    results: Path, runs: Path, dataset: Path, out: Path, make_clip: MakeClip
) -> None:
    from PIL import Image

    # Wider than a preview, with an odd size, and one that cannot be decoded.
    make_clip(f"runs/alpha-bad/open-domain/seed-0/{IDS[0]}.mp4", frames=5, width=150, height=100, fps=6)
    (runs / f"zeta-good/open-domain/seed-0/{IDS[0]}.mp4").write_bytes(b"no video")
    said: list[str] = []
    made = view(
        results, runs=runs, dataset=dataset, out=out, bundle=True, preview_size_px=64,
        on_estimate=lambda estimate: said.append(estimate.sentence),
    )  # fmt: skip
    assert len(said) == 1 and "previews of 12 videos, 4 pictures" in said[0]
    shown = [link for link in links(out) if link]
    assert shown and all(re.fullmatch(r"media/[0-9a-f]{32}\.(mp4|jpg)", link) for link in shown)
    (track,) = site_data(out)["tracks"]
    places = rows_by_video(track)
    small = places["alpha-bad", IDS[0], 0]
    preview = Video(out / track["rows"]["video"][small]).probe
    assert (preview.width, preview.height, preview.frames, preview.fps) == (64, 42, 5, 6)
    assert preview.codec == "h264"
    with Image.open(out / track["rows"]["poster"][small]) as poster:
        assert poster.size[0] == 64
    torn = places["zeta-good", IDS[0], 0]
    assert track["rows"]["video"][torn] == "" and made.missing == 1
    assert "cannot be decoded" in site_data(out)["texts"][track["rows"]["missing"][torn]]


def test_a_bundle_of_torn_videos_says_so_of_each(results: Path, runs: Path, out: Path) -> None:
    for file in runs.rglob("*.mp4"):
        file.write_bytes(b"")
    made = view(results, runs=runs, out=out, bundle=True)
    assert (made.videos, made.missing) == (0, 12)
    assert "the video file is empty" in "".join(site_data(out)["texts"])


def test_a_second_bundle_makes_only_what_changed_and_removes_what_is_not_shown(
    results: Path, runs: Path, out: Path, make_clip: MakeClip
) -> None:
    view(results, runs=runs, out=out, bundle=True)
    before = {file.name: file.stat().st_mtime_ns for file in (out / "media").iterdir()}
    (out / "media/mine.txt").write_text("kept")
    make_clip(f"runs/alpha-bad/open-domain/seed-0/{IDS[0]}.mp4", frames=3, width=64, height=48, seed=99)
    view(results, runs=runs, out=out, bundle=True)
    after = {file.name: file.stat().st_mtime_ns for file in (out / "media").iterdir()}
    assert len(set(before) - set(after)) == 2 and len(set(after) - set(before)) == 3
    assert all(after[name] == before[name] for name in set(before) & set(after))


def test_what_cannot_be_shown_is_one_line(
    results: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_view_command(monkeypatch)
    out = ("-o", tmp_path / "out")
    assert "the folder of runs" in complaint("view", results, "--runs", tmp_path / "nowhere", *out)
    (tmp_path / "empty").mkdir()
    assert "no video of any scored run" in complaint("view", results, "--runs", tmp_path / "empty", *out)
    assert "does not exist" in complaint("view", tmp_path / "none", *out)
    (tmp_path / "no-records").mkdir()
    assert "no score" in complaint("view", tmp_path / "no-records", "--runs", runs, *out)
    assert "--runs DIR" in complaint("view", results, "--bundle", *out)
    assert "--anonymous needs --bundle" in complaint("view", results, "--runs", runs, "--anonymous", *out)
    line = complaint("view", results, "--runs", runs, "--bundle", "--bundle-limit", "0.001", *out)
    assert "more than the limit of 0.001 MB" in line and "--preview-size" in line
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert "is a file" in complaint("view", results, "-o", tmp_path / "file")


def test_a_port_in_use_is_one_line_before_any_work(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_view_command(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = complaint("view", results, "--serve", "--port", port, "-o", tmp_path / "out")
    assert f"port {port} is in use" in line and not (tmp_path / "out").exists()


def test_the_command_says_where_the_page_is_and_what_is_missing(
    results: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_view_command(monkeypatch)
    (runs / f"alpha-bad/open-domain/seed-1/{IDS[0]}.mp4").unlink()
    done = invoke("view", results, "--runs", runs, "-o", tmp_path / "out")
    assert done.stdout == f"page: {tmp_path / 'out/index.html'}\n"
    assert "1 of 12 videos cannot be shown" in done.stderr
    # Records without runs are a site without videos.
    said = printed_json("view", results, "-o", tmp_path / "bare")
    assert said == {"page": str(tmp_path / "bare/index.html"), "videos": 0, "missing_videos": 12}
    (track,) = site_data(tmp_path / "bare")["tracks"]
    assert set(track["rows"]["video"]) == {""}


def test_the_command_is_registered_and_its_site_is_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    commands = project["project"]["entry-points"]["refbench.commands"]
    assert commands["view"] == "refbench.reports.commands:view"
    assert project["tool"]["setuptools"]["package-data"]["refbench.reports.viewer"] == ["site/*"]
    there = {file.name for file in (ROOT / "reports/viewer/site").iterdir()}
    assert there == set(SITE_FILES)


@contextmanager
def serving(page: Path, files: tuple[Path, ...]) -> Iterator[tuple[http.client.HTTPConnection, str]]:
    """A connection to a running server, and the page's path on it."""
    with SiteServer(page, files, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        try:
            yield connection, server.address.split("/", 3)[3]
        finally:
            connection.close()
            server.shutdown()
            thread.join()


def test_the_server_sends_the_sites_files_in_parts_and_nothing_else(
    results: Path, runs: Path, out: Path, tmp_path: Path
) -> None:
    made = view(results, runs=runs, out=out)
    (tmp_path / "secret.txt").write_text("secret")
    video = runs / f"alpha-bad/open-domain/seed-0/{IDS[0]}.mp4"
    with serving(made.page, made.files) as (connection, page):

        def get(path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers

        status, body, headers = get(f"/{page}")
        assert (
            status == 200
            and body == made.page.read_bytes()
            and headers["Content-Type"].startswith("text/html")
        )
        status, body, headers = get(f"/runs/alpha-bad/open-domain/seed-0/{IDS[0]}.mp4", Range="bytes=4-11")
        assert status == 206 and body == video.read_bytes()[4:12] and headers["Content-Type"] == "video/mp4"
        assert headers["Content-Range"] == f"bytes 4-11/{video.stat().st_size}"
        assert get(f"/{page}", "HEAD")[1] == b""
        for path in ("/secret.txt", "/site/../secret.txt", "/%2e%2e/secret.txt", "/", "/results/"):
            assert get(path)[0] == 404
        assert get(f"/{page}", Host="evil.example")[0] == 403
        assert get(f"/{page}", Host=f"localhost:{connection.port}")[0] == 200


def test_parts_of_a_file_as_browsers_ask_for_them() -> None:
    assert byte_range("bytes=0-99", 1000) == (0, 100)
    assert byte_range("bytes=900-", 1000) == (900, 1000)
    assert byte_range("bytes=-50", 1000) == (950, 1000)
    assert byte_range("bytes=990-2000", 1000) == (990, 1000)
    for header in ("", "bytes=-", "bytes=5-2", "bytes=2000-", "items=0-5", "bytes=0-1,3-4"):
        assert byte_range(header, 1000) is None
    with pytest.raises(UserError, match="no port"):
        SiteServer(Path("index.html"), [], port=70_000)


def test_a_pair_without_a_common_sample_is_said(out: Path, tmp_path: Path) -> None:
    store(tmp_path / "s", run_records("a", ids=IDS[:1]))
    store(tmp_path / "s", run_records("b", ids=IDS[1:]))
    view(tmp_path / "s", out=out)
    (pair,) = site_data(out)["tracks"][0]["pairs"]
    assert "no scored sample in common" in pair["why"]
    assert json.dumps(site_data(out))
