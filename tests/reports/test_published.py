"""Published figures: typed in and recomputed correctly, and equal to the sources where those are here."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refbench.bench.scores.protocol import get_protocol
from refbench.reports.published import (
    TABLE1_FILE,
    PublishedRow,
    Source,
    disagrees,
    published_rows,
    published_sources,
    recomputed_total,
    total_difference,
)

# Rows, and the sum of all figures, of each file: a slip of the finger changes the sum.
CONTENT = {
    "refalign_table1.csv": (16, 6984.32),
    "dial_table1.csv": (3, 1355.98),
    "opens2v_leaderboard_1.1_open-domain.csv": (11, 4725.05),
    "opens2v_leaderboard_1.1_human-domain.csv": (20, 7946.43),
    "opens2v_leaderboard_1.1_single-domain.csv": (11, 4810.44),
    "opens2v_leaderboard_1.0_open-domain.csv": (10, 3365.65),
    "opens2v_leaderboard_1.0_human-domain.csv": (19, 5868.32),
    "opens2v_leaderboard_1.0_single-domain.csv": (11, 3756.12),
}
SOURCES = {source.file: source for source in published_sources()}
LEADERBOARDS = [file for file in SOURCES if file.startswith("opens2v_leaderboard")]
ALL_ROWS = [row for source in SOURCES.values() for row in published_rows(source)]
LEADERBOARD_COLUMNS = {
    "Aesthetics": "aesthetics",
    "Motion": "motion_amplitude",
    "MotionSmoothness": "motion_smoothness",
    "MotionAmplitude": "motion_amplitude",
    "FaceSim": "facesim",
    "GmeScore": "gmescore",
    "NexusScore": "nexusscore",
    "NaturalScore": "naturalscore",
}


@pytest.mark.parametrize("file", CONTENT)
def test_every_file_holds_what_was_typed_in(file: str) -> None:
    rows = published_rows(SOURCES[file])
    count, total = CONTENT[file]
    assert len(rows) == count
    assert len({row.method for row in rows}) == count
    assert sum(row.total + sum(row.components.values()) for row in rows) == pytest.approx(total, abs=1e-6)


def test_all_sources_are_known_and_cited() -> None:
    assert set(SOURCES) == set(CONTENT)
    assert all(source.citation for source in SOURCES.values())
    # Of one paper no address was noted; its citation says so.
    without = [source for source in SOURCES.values() if not source.url.startswith("https://")]
    assert [(source.file, source.url) for source in without] == [("dial_table1.csv", "")]
    assert without[0].reference.endswith("without its address, read on 2026-11-26")


def test_the_day_a_source_was_read_is_said_where_it_is_known() -> None:
    source = replace(SOURCES[TABLE1_FILE], read_on="")
    assert source.reference == f"RefAlign Table 1: {source.citation}, {source.url}"
    assert replace(source, read_on="2026-01-31").reference.endswith(f"{source.url}, read on 2026-01-31")


@pytest.mark.parametrize("row", ALL_ROWS, ids=lambda row: f"{row.source.file}-{row.method}")
def test_a_row_has_the_components_of_its_protocol_and_plausible_figures(row: PublishedRow) -> None:
    weights = get_protocol(row.source.protocol).weights(row.source.track)
    assert set(row.components) == set(weights)
    assert all(0 < figure < 100 for figure in (row.total, *row.components.values()))
    assert row.openness in ("open", "closed")


def test_every_row_of_table_1_recomputes() -> None:
    rows = published_rows(SOURCES[TABLE1_FILE])
    assert max(abs(total_difference(row)) for row in rows) < 0.012


def test_a_total_recomputed_by_hand() -> None:
    row = next(row for row in published_rows(SOURCES[TABLE1_FILE]) if row.method == "RefAlign-14B")
    by_hand = (
        0.16 * 46.84 + 0.06 * 97.61 + 0.02 * 22.48 + 0.20 * 55.23
        + 0.12 * 68.32 + 0.20 * 48.52 + 0.24 * 73.63
    )  # fmt: skip
    assert recomputed_total(row) == pytest.approx(by_hand, abs=1e-12)
    assert row.total == 60.42


def test_exactly_one_published_row_contradicts_its_components() -> None:
    marked = [row for row in ALL_ROWS if disagrees(row)]
    assert [(row.method, row.source.track, row.source.protocol) for row in marked] == [
        ("EchoVideo", "human-domain", "opens2v-1.0")
    ]
    assert total_difference(marked[0]) == pytest.approx(0.088, abs=1e-9)
    assert all(abs(total_difference(row)) < 0.012 for row in ALL_ROWS if not disagrees(row))


def test_recomputed_totals_equal_the_golden(golden: Callable[[str], Any]) -> None:
    ours = {
        (row.source.protocol[-3:], row.source.track, row.method): row
        for row in ALL_ROWS
        if row.source.file in LEADERBOARDS
    }
    expected = golden("opens2v_eval/leaderboard_check.json")["rows"]
    assert len(expected) == len(ours) == 82
    for entry in expected:
        row = ours[entry["version"].removeprefix("v"), entry["domain"].lower(), entry["model"]]
        assert row.total == entry["published_total"]
        assert recomputed_total(row) == pytest.approx(entry["recomputed_total"], abs=1e-4)
        assert row.components == {
            LEADERBOARD_COLUMNS[key]: entry["components"][key] for key in entry["components"]
        }


def test_table_1_equals_the_shared_copy(shared: Path) -> None:
    with (shared / "data" / TABLE1_FILE).open(newline="") as file:
        expected = {row["method"]: row for row in csv.DictReader(file)}
    rows = published_rows(SOURCES[TABLE1_FILE])
    assert [row.method for row in rows] == list(expected)
    for row in rows:
        entry = expected[row.method]
        assert (row.openness, row.total) == (entry["source"], float(entry["total"]))
        assert row.components == {name: float(entry[name]) for name in row.components}


@pytest.mark.parametrize("source", [SOURCES[file] for file in LEADERBOARDS], ids=lambda one: one.file)
def test_leaderboards_equal_the_shared_copies(source: Source, shared: Path) -> None:
    folder = shared / "data" / "opens2v_eval" / "leaderboard" / f"v{source.protocol[-3:]}"
    with (folder / f"results_{source.track.title()}.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    rows = published_rows(source)
    assert len(rows) == len(expected)
    for row, entry in zip(rows, expected, strict=True):
        figures = {
            key.rstrip("↑"): float(text.rstrip("%")) for key, text in entry.items() if key.endswith("↑")
        }
        named = re.match(r"\[(.*?)\]", entry["Model"])
        assert named is not None and row.method == named[1]
        assert row.openness == entry["Venue"].split("-")[0].lower()
        assert row.evaluated_by == entry["Evaluated by"]
        assert row.total == figures.pop("TotalScore")
        assert row.components == {LEADERBOARD_COLUMNS[key]: value for key, value in figures.items()}


def test_rows_measured_again_keep_their_prompts_in_their_names() -> None:
    rows = {row.method: row for row in published_rows(SOURCES["dial_table1.csv"])}
    assert recomputed_total(rows["SkyReels-V3"]) == pytest.approx(59.264, abs=1e-3)
    again = rows["Phantom-14B (rephrased)"]
    assert recomputed_total(again) == pytest.approx(60.434, abs=1e-3)
    assert recomputed_total(rows["Kaleido (original)"]) == pytest.approx(56.004, abs=1e-3)
    before = next(row for row in published_rows(SOURCES[TABLE1_FILE]) if row.method == "Phantom-14B")
    assert again.total - before.total == pytest.approx(3.66)
