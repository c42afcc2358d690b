"""`refbench reproduce table2|depth|teachers`: published figures, own runs, the commands that make them."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest

from kit.cli import complaint, invoke, printed, printed_json
from kit.stored_runs import run_records, store
from refbench.bench.registry import methods
from refbench.refalign.training.recipes import RECIPES, build_config
from refbench.reports.ablations import ABLATIONS, ITERATIONS, METHOD, RECIPE, AblationRow, reproduce_ablation

ROWS = [row for make in ABLATIONS.values() for row in make().rows]


def changed(row: AblationRow) -> dict[str, object]:
    """Settings by dotted name in which the row differs from its recipe."""
    assert row.overrides is not None
    plain, config = RECIPES[RECIPE]().plain(), build_config(RECIPE, row.overrides).plain()
    return {
        f"{section}.{name}": value
        for section, settings in config.items()
        if isinstance(settings, dict)
        for name, value in settings.items()
        if plain[section][name] != value
    }


def test_table_2_has_the_figures_that_are_known() -> None:
    rows = {row.name: row for row in ABLATIONS["table2"]().rows}
    figures = {name: tuple(row.published.values()) for name, row in rows.items()}
    assert figures == {
        "A": (55.73, 53.15, 46.23, 62.96),
        "B": (51.75, 48.67, 46.61, 53.75),
        "C": (49.93, 68.45, 38.63, 40.46),
        "D": (52.15, 35.11, 45.78, 66.06),
    }
    assert rows["A"].published.keys() == {"total", "facesim", "nexusscore", "naturalscore"}
    assert rows["D"].command is None


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_output_says_where_the_figures_were_read(name: str, tmp_path: Path) -> None:
    text = printed("reproduce", name, "-o", tmp_path)
    said = "read in secondary text (notes on arXiv 2603.25743), not in the paper"
    assert said in text
    assert said in (tmp_path / f"{name}.tex").read_text()
    assert "secondary text" in (tmp_path / f"{name}.md").read_text()
    assert printed_json("reproduce", name)["published_source"] == said
    assert text.rstrip().endswith(f"refbench reproduce {name} results/")


@pytest.mark.parametrize(
    ("run", "settings"),
    [
        ("refalign-table2-a", {}),
        ("refalign-table2-b", {"alignment.negative_weight": 0.0}),
        ("refalign-table2-c", {"alignment.enabled": False}),
        ("refalign-depth-1", {"alignment.blocks": [0]}),
        ("refalign-depth-9", {}),
        ("refalign-depth-11", {"alignment.blocks": list(range(11))}),
        ("refalign-teacher-dinov3-vitb16", {}),
        ("refalign-teacher-siglip2-base", {"alignment.teachers": ["siglip2-base"]}),
    ],
)
def test_a_row_changes_its_setting_alone(run: str, settings: dict[str, object]) -> None:
    assert changed(next(row for row in ROWS if row.run == run)) == settings


@pytest.mark.parametrize("row", [row for row in ROWS if row.overrides is not None], ids=lambda row: row.run)
def test_every_training_command_is_one_that_the_command_line_takes(row: AblationRow) -> None:
    assert row.command is not None
    words = shlex.split(row.command)
    assert words.pop(0) == "refbench"
    assert printed_json_of(words)["run"]["max_steps"] == ITERATIONS == 1800


def printed_json_of(words: list[str]) -> dict[str, dict[str, object]]:
    import json

    shown: dict[str, dict[str, object]] = json.loads(printed(*words, "--show"))
    return shown


def test_the_method_that_generates_them_takes_a_network() -> None:
    assert hasattr(methods.get(METHOD).Options, "transformer")


def test_what_cannot_be_made_says_why() -> None:
    for row in ROWS:
        assert (row.overrides is None) == bool(row.no_recipe)
    assert "D has its published row only: no recipe here" in printed("reproduce", "table2")
    assert "DINOv3-H+ cannot be trained here: it is not among the teachers" in printed(
        "reproduce", "teachers"
    )


def test_own_runs_stand_beside_their_rows(tmp_path: Path) -> None:
    store(tmp_path / "s", run_records("refalign-table2-c", 0.5))
    store(tmp_path / "s", run_records("refalign_depth_9", 0.5))
    store(tmp_path / "s", run_records("refalign-table2-b", 0.5, variant="tiny-weights"))
    result = invoke("reproduce", "table2", tmp_path / "s", "-o", tmp_path / "out")
    assert "refalign_depth_9 is left out: no row of table2 is run under this name" in result.stderr
    assert "refalign-table2-b (tiny-weights) is left out: generated with tiny weights" in result.stderr
    assert result.stdout.count("reported only") == 3
    assert "incomplete, refalign-table2-c: covers 6 of the 180 samples" in result.stdout
    row = next(
        one for one in printed_json("reproduce", "table2", tmp_path / "s")["rows"] if one["row"] == "C"
    )
    (run,) = row["measured"]
    total = 100 * run["scoreboard"]["total_score"]
    assert run["difference_points"].keys() == row["published_percent"].keys()
    assert run["difference_points"]["total"] == pytest.approx(total - 49.93)
    lines = list(csv.DictReader((tmp_path / "out" / "table2.csv").open()))
    line = next(one for one in lines if one["run"] == "refalign-table2-c" and one["component"] == "total")
    assert float(line["measured_percent"]) == pytest.approx(total)
    made = reproduce_ablation("depth", tmp_path / "s")
    assert [row[1].text for row in made.table.rows if row[0].text == "refalign_depth_9"] == ["measured"]


def test_a_store_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert "does not exist" in complaint("reproduce", "depth", tmp_path / "nowhere")
