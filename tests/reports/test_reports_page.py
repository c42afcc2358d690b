"""The report as a whole: its files and its page, which loads nothing, escapes everything, repeats itself."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from kit.cli import invoke
from kit.pages import Page
from kit.records import record
from kit.stored_runs import run_info, run_records, store
from refbench.bench.errors import UserError
from refbench.bench.runs.folder import RunInfo
from refbench.bench.scores.aggregate import scoreboards
from refbench.bench.scores.protocol import OPENS2V_1_1
from refbench.bench.scores.record import Provenance, Record, RunKey
from refbench.reports.page import not_applicable_lines, unscored_table
from refbench.reports.report import Report, build_report, report
from refbench.reports.stored_runs import StoredRuns, read_stored_runs

SCRIPT = "<script>alert(1)</script>"
# A name cannot hold a slash, which could name a folder; all else of a hostile one it can.
IMAGE = "<img src=x onerror=alert(1)>"
IDS = ("singlehuman_1", "singleobj_2")


def hostile_records() -> list[Record]:
    facesim = run_records(IMAGE, ids=IDS, without=("facesim",))
    failed = [
        record("facesim", "singlehuman_1", None, method=IMAGE, reason=f"failed: {SCRIPT}"),
        record("facesim", "singleobj_2", None, method=IMAGE, reason="not_applicable: no <i>person</i>"),
    ]
    return facesim + failed + run_records("plain", 0.6, ids=IDS)


def report_of(records: list[Record], infos: dict[RunKey, RunInfo] | None = None) -> Report:
    return build_report(StoredRuns(records=tuple(records), run_infos=infos or {}), OPENS2V_1_1.name)


@pytest.fixture(scope="module")
def contents() -> dict[str, str | bytes]:
    infos = {RunKey(IMAGE, "open-domain"): run_info(guidance={"text": 7.5}, steps=50)}
    return report_of(hostile_records(), infos).contents()


@pytest.fixture(scope="module")
def page(contents: dict[str, str | bytes]) -> Page:
    text = contents["report.html"]
    assert isinstance(text, str)
    return Page(text)


def test_every_file_is_there(contents: dict[str, str | bytes]) -> None:
    tables = {f"tables/open-domain.{what}.{kind}" for what in ("components", "categories")
              for kind in ("md", "csv", "tex")}  # fmt: skip
    plots = {f"plots/open-domain.{what}.{kind}" for what in ("total", "radar", "categories")
             for kind in ("png", "pdf")}  # fmt: skip
    assert set(contents) == {"report.html"} | tables | plots


def test_names_and_reasons_are_escaped(contents: dict[str, str | bytes], page: Page) -> None:
    assert page.tags.count("script") == 1
    assert "b" not in page.tags and "i" not in page.tags
    assert IMAGE in page.text
    assert f"{SCRIPT} (1 ×, as in singlehuman_1)" in page.text
    assert "no <i>person</i>" in page.text
    assert "draws <b>frames</b>" in page.text


def test_the_page_is_well_formed_and_loads_nothing(contents: dict[str, str | bytes], page: Page) -> None:
    assert page.open == []
    assert page.links and all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert "default-src 'none'" in str(contents["report.html"])
    assert "url(" not in str(contents["report.html"]) and "@import" not in str(contents["report.html"])


def test_the_page_shows_what_a_reader_needs(page: Page) -> None:
    for words in (
        "95 % bootstrap intervals over samples",
        "coverage, videos counted / videos expected",
        "strict scores",
        "guidance.text 7.5",
        "versions.torch 2.15",
        "No run.json beside the records of: plain on open-domain",
        f"No TotalScore for {IMAGE}: nothing was scored for FaceSim.",
        "facesim does not apply to 1 sample: no <i>person</i>",
        "Weight, open-domain",
        "a NexusScore of exactly 0",
    ):
        assert words in page.text


def test_tables_sort_by_buttons_that_say_so(contents: dict[str, str | bytes], page: Page) -> None:
    text = str(contents["report.html"])
    assert text.count('<th scope="col"><button type="button">') == page.tags.count("button") > 20
    assert 'setAttribute("aria-sort", direction)' in text
    assert 'data-number="0.6' in text


def test_the_report_repeats_itself_in_any_order(contents: dict[str, str | bytes]) -> None:
    shuffled = hostile_records()
    random.Random(1).shuffle(shuffled)
    infos = {RunKey(IMAGE, "open-domain"): run_info(guidance={"text": 7.5}, steps=50)}
    assert report_of(shuffled, infos).contents() == contents


def test_a_report_writes_what_it_returns(tmp_path: Path, contents: dict[str, str | bytes]) -> None:
    files = report_of(run_records(ids=IDS[:1])).write(tmp_path / "out")
    assert files[0] == tmp_path / "out" / "report.html"
    assert {file.relative_to(tmp_path / "out").as_posix() for file in files} == set(contents)
    assert all(file.stat().st_size > 100 for file in files)


def test_reports_without_a_place_or_a_record_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="nothing can be written"):
        report_of(run_records(ids=IDS[:1])).write(tmp_path / "file")
    with pytest.raises(UserError, match="no score record"):
        report_of([])
    with pytest.raises(UserError, match="track name"):
        report_of(run_records(track="a track"))


def test_reasons_are_counted_per_method(tmp_path: Path) -> None:
    gme = [record("gmescore", f"singleobj_{n}", None, reason="failed: out of memory") for n in (1, 2, 3)]
    gme += [
        record("gmescore", "singleobj_4", 0.5),
        record("gmescore", "singleobj_5", None, reason="missing_video"),
    ]
    table = unscored_table(gme, scoreboards(gme, OPENS2V_1_1.name))
    assert table is not None
    row = next(row for row in table.rows if row[1].text == "GmeScore")
    assert [cell.text for cell in row] == [
        "m", "GmeScore", "4", "5", "3 failed, 1 missing_video", "out of memory (3 ×, as in singleobj_1)",
    ]  # fmt: skip
    assert any(row[4].text == "5 not_scored" for row in table.rows)


def test_nothing_left_out_gives_no_table_of_reasons() -> None:
    run = run_records(ids=("singlehuman_1",))
    assert unscored_table(run, scoreboards(run, OPENS2V_1_1.name)) is None
    assert not_applicable_lines(run) == []


def test_mixed_metric_versions_are_pointed_out() -> None:
    from refbench.reports.page import metric_table

    mixed = [
        record("gmescore", f"singleobj_{n}", 0.5, provenance=Provenance(metric_version=f"{n}"))
        for n in (1, 2)
    ]
    table = metric_table(mixed)
    assert table.rows[0][1].text == "1, 2"
    assert "several versions" in table.notes[0]


def test_mixed_weights_are_pointed_out() -> None:
    from refbench.reports.page import metric_table

    def scored(sample: str, **weights: str) -> Record:
        return record("gmescore", sample, 0.5, provenance=Provenance(metric_version="1", weights=weights))

    two = metric_table([scored("singleobj_1", net="a" * 64), scored("singleobj_2", net="b" * 64)])
    assert two.notes == ("gmescore: the records mix several weights, compare with care.",)
    one = metric_table(
        [scored("singleobj_1", net="a" * 64, head="b" * 64), scored("singleobj_2", net="a" * 64)]
    )
    assert one.notes == ()


def test_two_parts_of_one_store_are_both_read(tmp_path: Path) -> None:
    from refbench.bench.scores.store import StorePart

    plain, shuffled, other = (
        run_records("a"),
        run_records("a", variant="shuffled"),
        run_records("a", variant="x"),
    )
    store(tmp_path, [*plain, *shuffled, *other])
    (file,) = tmp_path.rglob("*.jsonl")
    parts = [StorePart(file=file, keys=frozenset(one.key for one in run)) for run in (plain, shuffled)]
    assert {key.variant for key in read_stored_runs(parts).groups()} == {"plain", "shuffled"}


def test_stores_are_read_with_the_run_descriptions_beside_them(tmp_path: Path) -> None:
    store(tmp_path, run_records("b", ids=IDS), run_info())
    store(tmp_path, run_records("b", ids=IDS, variant="shuffled"), run_info(steps=7))
    store(tmp_path, run_records("a", ids=IDS))
    stored = read_stored_runs([tmp_path])
    assert list(stored.groups()) == [
        ("a", "open-domain", "plain"),
        ("b", "open-domain", "plain"),
        ("b", "open-domain", "shuffled"),
    ]
    assert set(stored.run_infos) == {("b", "open-domain", "plain"), ("b", "open-domain", "shuffled")}
    card = stored.run_infos[RunKey("b", "open-domain", "shuffled")].card
    assert card is not None and card.steps == 7
    assert RunKey("b", "open-domain", "shuffled").label == "b (shuffled)"


@pytest.mark.parametrize("field", ["method", "track", "variant"])
@pytest.mark.parametrize("name", ["x/../../secret", "../up", "a\\b", ".hidden", "", "line\nbreak"])
def test_a_name_that_could_be_a_path_is_no_record(field: str, name: str) -> None:
    with pytest.raises(ValidationError, match=field):
        record("gmescore", "singleobj_1", 0.5, **{field: name})


def test_a_store_without_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="no score records"):
        read_stored_runs([tmp_path])


def test_a_file_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path) -> None:
    """A stray file, or one of a newer version, is left out whole and named."""
    store(tmp_path, run_records("a", ids=IDS))
    store(tmp_path, run_records("b", ids=IDS))
    alone = report(tmp_path).contents()["tables/open-domain.components.csv"]
    (tmp_path / "a/notes.jsonl").write_text('{"todo": "<b>buy milk</b>"}\n')
    newer = tmp_path / "a/human-domain.jsonl"
    newer.write_text((tmp_path / "a/open-domain.jsonl").read_text().replace('_version":1', '_version":2'))
    made = report(tmp_path)
    assert [text.partition(",")[0] for text in made.left_out] == [str(newer), str(tmp_path / "a/notes.jsonl")]
    assert "schema_version" in made.left_out[0]
    contents = made.contents()
    assert contents["tables/open-domain.components.csv"] == alone
    assert "Left out of this report: " in str(contents["report.html"])
    assert "left out of the report: " in invoke("report", tmp_path, "-o", tmp_path / "out").stderr
    # Alone it is the cause, as before.
    with pytest.raises(UserError, match="schema_version"):
        report(newer)


def test_in_the_dark_plots_lie_on_a_light_card_and_no_name_is_cut() -> None:
    page = str(report_of(run_records(ids=IDS)).contents()["report.html"])
    style = page.partition("<style>")[2].partition("</style>")[0]
    light, _, dark = style.partition("prefers-color-scheme: dark")
    card = re.search(r"--card: #([0-9a-f]{6})", dark)
    assert "--card: #ffffff" in light and card is not None
    # Light enough for black on it, and no white rectangle.
    assert all(0xC0 <= int(card[1][at : at + 2], 16) <= 0xE8 for at in (0, 2, 4))
    assert re.search(r"figure \{[^}]*background: var\(--card\)", style)
    assert re.search(r"figure img \{[^}]*mix-blend-mode: multiply", style)
    assert "overflow-wrap: anywhere" not in style.partition(".words td")[2].partition("}")[0]
