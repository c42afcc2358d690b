"""`compare` and `report` beside a noise floor: a gap below it is called by its cause, no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.cli import complaint, invoke, printed, printed_json
from kit.stored_runs import run_records, store
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.noise_floor import FLOOR_FILE, Cause, FloorCell, NoiseFloor, ScoredBy
from refbench.bench.scores.record import Provenance, Record

MEASURED = 24
METRICS = {component.metric: ScoredBy(version="1") for component in COMPONENTS.values()}


def shift_of(points: float) -> dict[str, FloorCell]:
    """Cells that move everything by so many points, with no spread: the floor of every n."""
    cell = FloorCell(n=MEASURED, shift=points / 100, interval=(points / 100, points / 100), standard_error=0)
    return dict.fromkeys((*COMPONENTS, "total"), cell)


def floor(**fields: Any) -> NoiseFloor:
    causes = [
        Cause(name=f"reencode:{crf}", family="reencode", label=f"re-encoding at CRF {crf}", cells=cells)
        for crf, cells in ((10, shift_of(-1)), (23, shift_of(3)), (28, shift_of(6)))
    ]
    seeds = FloorCell(n=MEASURED, standard_error=0.02)
    causes.append(Cause(name="seeds", family="seeds", label="another seed", cells={"total": seeds}))
    defaults: dict[str, Any] = {
        "protocol": "opens2v-1.1",
        "track": "open-domain",
        "method": "measured",
        "variant": "plain",
        "samples": [f"a_{number}" for number in range(MEASURED)],
        "metrics": METRICS,
        "causes": causes,
        "python": "CPython",
        "system": "Linux",
    }
    return NoiseFloor(**(defaults | fields))


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    """Two methods, `b` two points above `a` in every component."""
    store(tmp_path / "s", run_records("a", 0.50))
    store(tmp_path / "s", run_records("b", 0.52))
    return tmp_path / "s"


def below(stores: Path, *words: object) -> list[dict[str, Any]]:
    (held,) = printed_json("compare", stores / "a", stores / "b", *words)["noise_floors"]
    return held["below"]


def test_a_gap_below_the_floor_is_called_by_the_mildest_cause(stores: Path) -> None:
    floor().write(stores / FLOOR_FILE)
    said = {(one["component"], one["cause"]): one for one in below(stores)}
    assert {cause for component, cause in said if component == "facesim"} == {"reencode:23"}
    assert said["facesim", "reencode:23"]["gap"] == pytest.approx(0.02)
    assert said["facesim", "reencode:23"]["floor"] == pytest.approx(0.03)
    assert ("total", "seeds") in said
    text = " ".join(printed("compare", stores / "a", stores / "b").split())
    assert (
        "FaceSim: the gap of 2.00 points is smaller than re-encoding at CRF 23 moves this component (up to "
        "3.00 points between means of 4 samples)"
    ) in text
    assert "re-encoding at CRF 23 moves TotalScore" in text and "; likewise another seed (" in text
    assert "measured on 24 samples of measured" in text


def test_above_the_floor_nothing_is_called_noise(stores: Path) -> None:
    floor(causes=floor().causes[:1]).write(stores / FLOOR_FILE)
    text = " ".join(printed("compare", stores / "a", stores / "b").split())
    assert below(stores) == [] and "is smaller than" not in text
    assert "no gap that it was applied to is below it" in text


def test_a_gap_that_grows_passes_the_floors_one_after_the_other(tmp_path: Path) -> None:
    store(tmp_path, run_records("a", 0.4))
    floor(causes=floor().causes[:3]).write(tmp_path / FLOOR_FILE)
    found = []
    for points in (0.5, 2, 5, 7):
        store(tmp_path, run_records(f"b{points}", 0.4 + points / 100))
        (held,) = printed_json("compare", tmp_path / "a", tmp_path / f"b{points}")["noise_floors"]
        found.append({one["cause"] for one in held["below"] if one["component"] == "gmescore"})
    assert found == [{"reencode:10"}, {"reencode:23"}, {"reencode:28"}, set()]


def test_figures_beside_it_do_not_change(stores: Path) -> None:
    without = printed_json("compare", stores / "a", stores / "b")
    report = printed_json("report", stores, "--out", stores.parent / "r")["scoreboards"]
    floor().write(stores / FLOOR_FILE)
    beside = printed_json("compare", stores / "a", stores / "b")
    assert without["noise_floors"] == [] and beside["noise_floors"]
    assert {**without, "noise_floors": beside["noise_floors"]} == beside
    assert printed_json("report", stores, "--out", stores.parent / "r")["scoreboards"] == report


def test_equal_runs_have_no_gap_to_call(tmp_path: Path) -> None:
    store(tmp_path, run_records("a"))
    store(tmp_path, run_records("b"))
    floor().write(tmp_path / FLOOR_FILE)
    assert below(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": "opens2v-1.0"}, "measured under opens2v-1.0, and this is opens2v-1.1"),
        ({"track": "human-domain"}, "measured on human-domain, and this is open-domain"),
    ],
)
def test_a_floor_of_other_conditions_is_refused(stores: Path, change: dict[str, Any], said: str) -> None:
    floor(**change).write(stores / FLOOR_FILE)
    assert below(stores) == []
    assert "is not applied" in " ".join(printed("compare", stores / "a", stores / "b").split())
    named = ("--noise-floor", stores / FLOOR_FILE)
    assert said in complaint("compare", stores / "a", stores / "b", *named)
    assert said in complaint("report", stores, "--out", stores.parent / "r", *named)
    done = invoke("report", stores, "--out", stores.parent / "r")
    assert said in done.stderr and not list((stores.parent / "r").rglob("*noise-floor*"))


@pytest.mark.parametrize(
    ("made_from", "said"),
    [
        ({"metric_version": "2"}, "facesim version 1 against 2"),
        ({"metric_version": "1", "settings": "abc"}, "facesim settings none against abc"),
        ({"metric_version": "1", "weights": {"w": "mini:1"}}, "facesim other weights"),
    ],
)
def test_another_version_or_setting_keeps_a_component_out_and_is_said(
    tmp_path: Path, made_from: dict[str, Any], said: str
) -> None:
    def scored_otherwise(one: Record) -> Record:
        if one.metric != "facesim" or one.value is None:
            return one
        return one.model_copy(update={"provenance": Provenance(**made_from)})

    store(tmp_path, run_records("a", 0.50))
    store(tmp_path, [scored_otherwise(one) for one in run_records("b", 0.52)])
    floor().write(tmp_path / FLOOR_FILE)
    (held,) = printed_json("compare", tmp_path / "a", tmp_path / "b")["noise_floors"]
    assert {one["component"] for one in held["below"]} == set(COMPONENTS) - {"facesim"}
    assert held["not_applied"] == [
        f"{label}, B was scored otherwise: {said}" for label in ("TotalScore", "FaceSim")
    ]


def test_a_metric_that_was_not_measured_is_said(stores: Path) -> None:
    measured = {name: made for name, made in METRICS.items() if name != "gmescore"}
    floor(metrics=measured).write(stores / FLOOR_FILE)
    assert {one["component"] for one in below(stores)} == set(COMPONENTS) - {"gmescore"}


def test_means_of_several_seeds_have_a_lower_floor_of_seeds(tmp_path: Path) -> None:
    for seeds in ((0,), (0, 1, 2, 3)):
        root = tmp_path / str(len(seeds))
        store(root, run_records("a", 0.50, seeds=seeds))
        store(root, run_records("b", 0.52, seeds=seeds))
        floor().write(root / FLOOR_FILE)
    one, four = (
        next(found["floor"] for found in below(tmp_path / count) if found["cause"] == "seeds")
        for count in ("1", "4")
    )
    assert four == pytest.approx(one / 2)


@pytest.mark.parametrize("place", ["s", "s/a"])
def test_it_is_found_beside_the_store_and_taken_by_name(stores: Path, place: str) -> None:
    elsewhere = stores.parent / "elsewhere.json"
    floor().write(elsewhere)
    assert printed_json("compare", stores / "a", stores / "b")["noise_floors"] == []
    assert below(stores, "--noise-floor", elsewhere)
    floor().write(stores.parent / place / FLOOR_FILE)
    file = stores / "a/open-domain.jsonl"
    (held,) = printed_json("compare", file, stores / "b")["noise_floors"]
    assert held["below"]


def test_a_damaged_floor_does_not_stop_a_comparison(stores: Path) -> None:
    (stores / FLOOR_FILE).write_text('{"schema_version": 7}')
    assert "is no noise floor" in printed("compare", stores / "a", stores / "b").replace("\n", " ")
    named = ("--noise-floor", stores / FLOOR_FILE)
    assert "is no noise floor" in complaint("compare", stores / "a", stores / "b", *named)


def test_the_report_has_a_table_of_its_own(stores: Path) -> None:
    out = stores.parent / "r"
    plain = printed("report", stores, "--out", out)
    page = (out / "report.html").read_text()
    assert "oise floor" not in plain + page
    floor().write(stores / FLOOR_FILE)
    text = " ".join(printed("report", stores, "--out", out).split())
    assert "open-domain: noise floor, points" in text
    assert "b and a: the 2.00 points of TotalScore between them are fewer than re-encoding at CRF 23" in text
    assert "re-encoding at CRF 28" in (out / "report.html").read_text()
    assert "re-encoding at CRF 10" in (out / "tables/open-domain.noise-floor.md").read_text()
    assert (out / "tables/open-domain.noise-floor.tex").is_file()


def test_a_hostile_floor_is_text_in_the_page(stores: Path) -> None:
    bad = "<img src=x onerror=alert(1)>\x1b[2J"
    causes = [Cause(name="x", family="x", label=bad, cells=shift_of(9))]
    floor(causes=causes).write(stores / FLOOR_FILE)
    done = invoke("report", stores, "--out", stores.parent / "r")
    assert "\x1b" not in done.stdout + done.stderr
    assert "<img src=x" not in (stores.parent / "r/report.html").read_text()
