"""`--settings leaderboard`: how the OpenS2V leaderboard's rows were made, and what is said of other runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.cli import complaint, invoke, printed, printed_json
from kit.records import record
from kit.stored_runs import run_info, run_records, store
from refbench.bench.errors import UserError
from refbench.bench.leaderboard_settings import (
    LEADERBOARD_SEED,
    SETTINGS_OF_ROWS,
    default_seeds,
    leaderboard_settings,
)
from refbench.bench.registry import methods
from refbench.bench.runner.generating import make_method
from refbench.bench.runner.run_config import RunConfig
from refbench.reports.published import published_rows, published_sources

NAMED = ["vace-1.3b", "vace-p1.3b", "vace-14b", "phantom-1.3b", "phantom-14b", "skyreels-a2-p14b", "consisid"]
LEADERBOARD_OF_VACE_14B = {"width": 1280, "height": 720, "num_frames": 81, "fps": 16.0}


def frames(name: str, settings: str) -> tuple[object, ...]:
    card = make_method(name, {}, settings).card()
    return card.width, card.height, card.num_frames, card.generated_frames, card.fps


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vace-14b", (1280, 720, 81, 81, 16.0)),
        ("phantom-14b", (832, 480, 81, 81, 16.0)),
        ("skyreels-a2-p14b", (832, 480, 81, 81, 16.0)),
        ("vace-1.3b", (832, 480, 81, 81, 16.0)),
        ("consisid", (720, 480, 49, 49, 8.0)),
    ],
)
def test_the_papers_size_frames_and_rate(name: str, settings: tuple[object, ...]) -> None:
    assert frames(name, "leaderboard") == settings


def test_three_native_cards_differ() -> None:
    differing = [name for name in NAMED if frames(name, "native") != frames(name, "leaderboard")]
    assert differing == ["vace-14b", "phantom-14b", "skyreels-a2-p14b"]


@pytest.mark.parametrize("name", NAMED)
def test_the_card_says_what_differs_from_the_authors_settings(name: str) -> None:
    native, card = (make_method(name, {}, settings).card() for settings in ("native", "leaderboard"))
    assert card.settings == "leaderboard"
    assert (card.steps, card.guidance, card.shift) == (native.steps, native.guidance, native.shift)
    if name == "vace-14b":
        assert "leaderboard: width 1280 instead of 832" in card.deviations
    if name == "skyreels-a2-p14b":
        assert any("which of them made the row is not known" in text for text in card.deviations)


def test_a_method_that_the_paper_does_not_name_is_refused() -> None:
    others = sorted(set(methods.names()) - set(NAMED))
    assert {"refalign-14b", "magref-480p", "noise"} <= set(others)
    for name in others:
        with pytest.raises(UserError, match=r"arXiv 2505\.20292.* does not name it"):
            make_method(name, {}, "leaderboard")
    with pytest.raises(UserError, match="does not name it"):
        make_method("kaleido-14b", {"settings": "leaderboard"})
    assert "does not name it" in complaint("plan", "bindweave-14b", "--settings", "leaderboard")


def test_every_row_of_the_papers_own_table_is_known() -> None:
    rows = {
        row.method
        for source in published_sources()
        if source.file.startswith("opens2v_leaderboard")
        for row in published_rows(source)
    }
    unnamed = {row for row in rows if leaderboard_settings(row) is None}
    assert unnamed == {"MAGREF-480P", "BindWeave", "Stand-In"}
    assert {leaderboard_settings(row) for row in rows - unnamed} == set(SETTINGS_OF_ROWS)


def test_the_seed_is_42_unless_another_is_given() -> None:
    assert default_seeds("leaderboard", {}) == default_seeds(None, {"settings": "leaderboard"}) == (42,)
    assert default_seeds("matched", {}) == (0,)
    assert RunConfig(settings="leaderboard").seeds == (LEADERBOARD_SEED,)
    assert RunConfig(settings="leaderboard", seeds=(1, 2)).seeds == (1, 2)
    assert RunConfig().seeds == (0,)
    text = printed("run", "vace-14b", "--settings", "leaderboard", "--print-config")
    assert "seeds:\n- 42" in text.replace("  -", "-")


def test_a_run_takes_the_seed_of_an_option_as_that_of_settings() -> None:
    def seeds(*words: object) -> str:
        text = printed("run", *words, "--print-config").replace("  -", "-")
        return text.partition("seeds:\n- ")[2].partition("\n")[0]

    chosen = ("--set", "vace-14b.settings=leaderboard")
    assert seeds("vace-14b", *chosen) == seeds("VACE_14B", *chosen) == "42"
    assert seeds("vace-14b", "phantom-14b", *chosen, "--set", "phantom-14b.settings=leaderboard") == "42"
    assert seeds("vace-14b", "--set", "vace-14b.settings=matched") == "0"
    assert seeds("vace-14b", "phantom-14b", *chosen, "--seed", 7) == "7"
    said = complaint("run", "vace-14b", "phantom-14b", *chosen, "--print-config")
    assert said == (
        "the methods' settings have different seeds (vace-14b 42, phantom-14b 0): say which with --seed"
    )


def test_reproduce_names_runs_with_other_settings(tmp_path: Path) -> None:
    native = {**LEADERBOARD_OF_VACE_14B, "width": 832, "height": 480}
    store(tmp_path / "s", run_records("vace-14b"), run_info(**native))
    store(tmp_path / "s", run_records("phantom-14b", seeds=(42,)), run_info(**native))
    store(tmp_path / "s", run_records("vace-1.3b"))
    store(tmp_path / "s", run_records("refalign-14b"), run_info(**native))
    text = printed("reproduce", "table1", tmp_path / "s")
    assert (
        "vace-14b was made with 832×480, 81 frames, 16 fps, seed 0; the published row with 1280×720, "
        "81 frames, 16 fps, seed 42" in text
    )
    assert "phantom-14b was made" not in text
    assert "vace-1.3b: no run.json says how it was made; the published row with 832×480" in text
    assert "refalign-14b: how the published row was generated is not public in full" in text
    assert len(printed_json("reproduce", "table1", tmp_path / "s")["settings"]) == 3
    invoke("reproduce", "table1", tmp_path / "s", "-o", tmp_path / "out")
    assert "vace-14b was made with 832×480" in (tmp_path / "out" / "table1.md").read_text()


def test_compare_names_the_side_with_other_settings(tmp_path: Path) -> None:
    a = store(tmp_path, run_records("vace-14b", seeds=(42,)), run_info(**LEADERBOARD_OF_VACE_14B))
    b = store(tmp_path, run_records("phantom-14b", 0.4, seeds=(42,)), run_info(num_frames=121, fps=24.0))
    text = printed("compare", a, b)
    assert "vace-14b was made" not in text
    assert (
        "phantom-14b was made with ?×?, 121 frames, 24 fps, seed 42; the published row with 832×480" in text
    )
    (said,) = printed_json("compare", a, b)["other_than_published"]
    assert said.startswith("phantom-14b was made")
    other = [record("gmescore", "singleobj_1", 0.5, method=name, track="mine") for name in ("vace-14b", "x")]
    c = store(tmp_path / "c", other[:1], run_info(num_frames=9))
    d = store(tmp_path / "c", other[1:], run_info(num_frames=9))
    assert printed_json("compare", c, d)["other_than_published"] == []
