"""Tables: what is marked, what is missing, what is said below, and how the three formats escape names."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.records import record
from kit.stored_runs import IDS, boards_of, run_records
from refbench.bench.scores.columns import COMPONENTS
from refbench.reports.table_formats import (
    LATEX_SPECIAL,
    category_csv,
    component_csv,
    latex_text,
    markdown_text,
    to_latex,
    to_markdown,
)
from refbench.reports.tables import (
    NONE,
    Cell,
    Table,
    category_tables,
    component_tables,
    coverage_table,
    ranked,
    score_table,
)


def column(table: Table, heading: str) -> list[Cell]:
    index = table.headings.index(heading)
    return [row[index] for row in table.rows]


def names(table: Table) -> list[str]:
    return [row[0].text for row in table.rows]


def test_best_and_second_are_marked_and_rows_are_ranked() -> None:
    table = score_table(
        ranked(boards_of(run_records("low", 0.3), run_records("high", 0.7), run_records("mid", 0.5)))
    )
    assert names(table) == ["high", "mid", "low"]
    assert [cell.mark for cell in column(table, "TotalScore ↑")] == ["best", "second", ""]
    assert [cell.text for cell in column(table, "Aesthetics ↑")] == ["70.00", "50.00", "30.00"]
    assert all(cell.mark == "" for cell in column(table, "95 % interval"))


def test_methods_that_print_the_same_share_the_mark() -> None:
    table = score_table(
        ranked(
            boards_of(
                run_records("a", 0.6),
                run_records("b", 0.6 + 1e-7),
                run_records("c", 0.4),
                run_records("d", 0.4),
                run_records("e", 0.2),
            )
        )
    )
    marks = dict(zip(names(table), (cell.mark for cell in column(table, "TotalScore ↑")), strict=True))
    assert marks == {"a": "best", "b": "best", "c": "second", "d": "second", "e": ""}


def test_one_method_alone_is_not_the_best() -> None:
    table = score_table(boards_of(run_records()))
    assert all(cell.mark == "" for row in table.rows for cell in row)


def test_a_missing_component_has_no_figure_and_takes_the_total_with_it() -> None:
    table = score_table(
        ranked(
            boards_of(run_records("whole", 0.3), run_records("torn", 0.9, without=("facesim", "gmescore")))
        )
    )
    assert names(table) == ["whole", "torn"]
    torn = dict(zip(table.headings, table.rows[1], strict=True))
    for heading in ("TotalScore ↑", "95 % interval", "Strict total ↑", "FaceSim ↑", "GmeScore ↑"):
        assert torn[heading].text == NONE
    assert torn["NexusScore ↑"].text == "89.50"
    assert "No TotalScore for torn: nothing was scored for FaceSim and GmeScore." in table.notes


def test_thin_coverage_is_marked_and_explained() -> None:
    facesim = COMPONENTS["facesim"].metric
    run = [
        one
        if (one.metric, one.sample) != (facesim, "faceobj_1")
        else one.model_copy(update={"value": None, "reason": "failed: no face"})
        for one in run_records()
    ]
    boards = boards_of(run)
    table = score_table(boards)
    assert [cell.partial for cell in column(table, "FaceSim ↑")] == [True]
    assert [cell.partial for cell in column(table, "GmeScore ↑")] == [False]
    assert any("fewer videos counted than expected" in note for note in table.notes)
    coverage = coverage_table(boards)
    assert [cell.text for cell in column(coverage, "FaceSim")] == ["3/4"]
    assert coverage.notes == ("m: FaceSim 3/4 (1 failed).",)


def test_a_run_on_part_of_the_track_says_so() -> None:
    table = score_table(boards_of(run_records()))
    assert table.rows[0][0].partial
    assert "† m: covers 6 of the 180 samples of open-domain." in table.notes


def test_variants_are_rows_of_their_own() -> None:
    table = score_table(ranked(boards_of(run_records(), run_records(variant="shuffled", quality=0.2))))
    assert names(table) == ["m", "m (shuffled)"]


def test_one_sample_has_scores_and_no_interval() -> None:
    ids = ("singlehuman_1",)
    table = score_table(boards_of(run_records(ids=ids)))
    assert table.rows[0][1].text == "48.00"
    assert table.rows[0][2].text == NONE


def test_several_seeds_are_counted_as_videos() -> None:
    coverage = coverage_table(boards_of(run_records(seeds=(0, 1, 2))))
    assert column(coverage, "Aesthetics")[0].text == "18/18"
    assert column(coverage, "FaceSim")[0].text == "12/12"


def test_human_domain_has_no_nexusscore() -> None:
    human = run_records(track="human-domain", ids=("singlehuman_1", "singleface_1"))
    assert "NexusScore ↑" not in score_table(boards_of(human)).headings
    assert "MotionSmoothness ↑" not in score_table(boards_of(human, protocol="opens2v-1.0")).headings


def test_category_tables_follow_the_official_order() -> None:
    tables = category_tables(boards_of(run_records(), run_records("n", without=("facesim",))))
    assert len(tables) == len(COMPONENTS)
    expected = ("singleobj", "singlehuman", "faceobj", "multiface", "singleface")
    assert tables[0].headings == ("Method", *(f"{name} ↑" for name in expected))
    facesim = next(table for table in tables if "FaceSim" in table.title)
    assert [cell.text for cell in facesim.rows[0]] == ["m", NONE, "51.00", "48.00", NONE, "50.00"]
    assert [cell.text for cell in facesim.rows[1]][1:] == [NONE] * 5


def test_supplementary_metrics_are_named_as_outside_the_protocol() -> None:
    extra = [record("my-metric", sample, 2.0, method="m") for sample in IDS]
    assert any("outside the protocol: my-metric 2.0000" in note for note in
               score_table(boards_of(run_records() + extra)).notes)  # fmt: skip


def test_csv_is_unrounded_on_the_scale_0_to_1() -> None:
    boards = boards_of(run_records("m", 1 / 3), run_records("torn", without=("facesim",)))
    rows = list(csv.DictReader(io.StringIO(component_csv(boards))))
    assert len(rows) == 2 * 8
    total = next(row for row in rows if row["component"] == "total_score" and row["method"] == "m")
    assert float(total["score"]) == boards[0].total
    assert boards[0].total_interval is not None
    assert (float(total["interval_low"]), float(total["interval_high"])) == boards[0].total_interval
    facesim = next(row for row in rows if row["component"] == "facesim" and row["method"] == "m")
    assert [facesim[name] for name in ("expected", "scored", "dropped", "counted")] == ["4", "4", "0", "4"]
    assert float(facesim["weight"]) == 0.2
    torn = [row for row in rows if row["method"] == "torn" and row["component"] in ("total_score", "facesim")]
    assert [row["score"] for row in torn] == ["", ""]


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1+2", "@SUM(A1)", "  =1"])
def test_no_cell_of_a_csv_is_a_formula(name: str) -> None:
    """Spreadsheets run a cell that begins like one; numbers stay numbers, controls are written out."""
    boards = boards_of(run_records(name, variant="a\x85b\u202ec"))
    for text in (component_csv(boards), category_csv(boards)):
        rows = list(csv.DictReader(io.StringIO(text)))
        assert {row["method"] for row in rows} == {f"'{name}"}
        assert {row["variant"] for row in rows} == {r"a\x85b\u202ec"}
        assert all(float(row["score"]) or True for row in rows if row["score"])


def test_category_csv_has_every_method_category_and_component() -> None:
    rows = list(csv.DictReader(io.StringIO(category_csv(boards_of(run_records())))))
    assert len(rows) == 5 * len(COMPONENTS)
    assert {
        row["score"] for row in rows if (row["category"], row["component"]) == ("multiface", "facesim")
    } == {""}


def test_markdown_prints_marks_and_arrows() -> None:
    text = to_markdown("Scores", component_tables(boards_of(run_records("a", 0.6), run_records("b", 0.5))))
    assert "| Method | TotalScore ↑ |" in text
    assert "| a† | **59.90** |" in text
    assert "| b† | <ins>49.90</ins> |" in text


def test_latex_is_a_booktabs_table_with_marks_and_arrows() -> None:
    text = to_latex(component_tables(boards_of(run_records("a", 0.6), run_records("b", 0.5))))
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\textbf{60.00}", r"\underline{50.00}"):
        assert part in text
    assert r"\shortstack[r]{Motion \\ Smoothness $\uparrow$}" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 4


HOSTILE = r"\input{x} & 50 % $x_1^2$ #1 ~ <b>|[*`"


def test_latex_prints_hostile_names_literally() -> None:
    assert latex_text(HOSTILE) == (
        r"\textbackslash{}input\{x\} \& 50 \% \$x\_1\textasciicircum{}2\$ \#1 \textasciitilde{} "
        r"\textless{}b\textgreater{}\textbar{}[*`"
    )
    # A method's name cannot hold a backslash, which could name a folder; all else of it can.
    text = to_latex([score_table(boards_of(run_records("input{x} & $x_1^2$ #1 ~")))])
    assert r"input\{x\} \& \$x\_1\textasciicircum{}2\$ \#1 \textasciitilde{}" in text


@given(st.text(max_size=40))
def test_no_special_character_reaches_latex(text: str) -> None:
    escaped = latex_text(text)
    for replacement in sorted(LATEX_SPECIAL.values(), key=len, reverse=True):
        escaped = escaped.replace(replacement, "")
    assert not re.search(r"[\\&%$#_{}~^<>\n]", escaped)


@given(st.text(max_size=40))
def test_no_name_breaks_a_markdown_table(text: str) -> None:
    escaped = markdown_text(text)
    assert "\n" not in escaped
    assert not re.search(r"[|<>`*_]", re.sub(r"\\.", "", escaped))


@pytest.mark.parametrize("name", ["[a]", "*"])
def test_latex_takes_no_first_cell_for_an_argument_of_the_line_break(name: str) -> None:
    text = to_latex([Table(title="t", headings=("Method", "x"), rows=((Cell(text=name), Cell(text="1")),))])
    assert f"{{{name}}} & 1" in text
