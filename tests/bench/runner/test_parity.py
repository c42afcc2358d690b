"""`refbench parity`: official figures against ours, with figures and tiny weights that the test makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.cli import complaint, invoke, printed_json
from refbench.bench.runner.parity import TOLERANCES, ParityFigure
from refbench.bench.scores.columns import COMPONENTS

TWO = ("faceobj_2", "singleface_1")


def figure(official: float | None, ours: float | None, reason: str | None = None) -> ParityFigure:
    return ParityFigure(
        metric="facesim",
        sample="a_1",
        official=official,
        ours=ours,
        reason=reason,
        tolerance=0.01,
        provenance=None,
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny weights of one metric alone."""
    pytest.importorskip("torch", reason="the learned metrics need the extra 'metrics'")
    from refbench.metrics.small.aesthetics import write_tiny

    folder = tmp_path / "tiny"
    write_tiny(folder)
    return folder


@pytest.fixture
def official(tiny: Path, videos: Path, dataset: Path, tmp_path: Path) -> Path:
    """Official files of two videos: scores of tiny weights, and of a metric whose weights are not here."""
    words = ("evaluate", videos, "--name", "m", "--dataset", dataset, "--weights", tiny)
    invoke(
        *words,
        "--metrics",
        "aesthetics,motion-amplitude",
        "--samples",
        ",".join(TWO),
        "--out",
        tmp_path / "r",
    )
    invoke("export", tmp_path / "r", "--out", tmp_path / "official")
    folder = next((tmp_path / "official").rglob("aesthetic_score.json")).parent
    (folder / "facesim.json").write_text(json.dumps({TWO[1]: {"cur_score": 0.5}}))
    (folder / "naturalscore_1.json").write_text(json.dumps(dict.fromkeys(TWO, "4")))
    return folder


def words_of(videos: Path, official: Path, dataset: Path, tiny: Path, out: Path) -> tuple[Any, ...]:
    places = {"--videos": videos, "--scores": official, "--dataset": dataset, "--weights": tiny, "-o": out}
    return ("parity", *(word for pair in places.items() for word in pair))


def test_equal_figures_are_found_equal_and_tiny_weights_named(
    videos: Path, official: Path, dataset: Path, tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "parity.json"
    words = words_of(videos, official, dataset, tiny, out)
    result = invoke(*words, "--metrics", "aesthetics,motion-amplitude")
    assert "4 of 4 compared figures are equal" in result.stdout
    assert "aesthetics: these weights are no released ones" in result.stderr
    report = json.loads(out.read_text())
    assert [one["difference"] for one in report["figures"]] == [0.0] * 4
    assert report["not_released_weights"] == ["aesthetics"]
    made_from = report["figures"][0]["provenance"]
    assert made_from["weights"] and made_from["video"] and made_from["device"] and report["packages"]["numpy"]


def test_a_figure_that_differs_and_weights_that_are_missing_are_said(
    videos: Path, official: Path, dataset: Path, tiny: Path, tmp_path: Path
) -> None:
    file = official / "aesthetic_score.json"
    scores = json.loads(file.read_text())
    scores[TWO[0]]["aes_score"] += 2 * TOLERANCES["aesthetics"].value
    file.write_text(json.dumps(scores))
    out = tmp_path / "parity.json"
    result = invoke(*words_of(videos, official, dataset, tiny, out), expect=1)
    assert "3 of 4 compared figures are equal" in result.stdout
    assert f"refbench weights pull --metric facesim --weights {tiny}" in result.stdout
    assert "naturalscore: not asked: a judge's answer is drawn anew" in result.stdout
    report = json.loads(out.read_text())
    verdicts = {(one["metric"], one["sample"]): one["verdict"] for one in report["figures"]}
    assert verdicts["aesthetics", TWO[0]] == "differs" and verdicts["aesthetics", TWO[1]] == "equal"
    # FaceSim has no official score of the first video: without weights it is not known whether ours has.
    assert {verdicts["facesim", sample] for sample in TWO} == {"not scored"}
    assert {verdicts["naturalscore", sample] for sample in TWO} == {"not asked"}
    assert report["weights_to_pull"] == ["facesim"]
    assert str(tmp_path) not in out.read_text()


@pytest.mark.parametrize(
    ("one", "verdict"),
    [
        (figure(0.5, 0.505), "equal"),
        (figure(0.5, 0.52), "differs"),
        (figure(None, 0.5), "official has none"),
        (figure(0.5, None, "failed: no face"), "not scored"),
        (figure(None, None, "failed: no face"), "neither has one"),
        (figure(None, None, "missing_weights: gone"), "not scored"),
        (figure(0.5, None, "not asked: a judge"), "not asked"),
    ],
)
def test_verdicts(one: ParityFigure, verdict: str) -> None:
    assert one.verdict == verdict


def test_every_component_has_a_tolerance_below_its_range() -> None:
    assert set(TOLERANCES) == {component.metric for component in COMPONENTS.values()}
    for component in COMPONENTS.values():
        assert 0 < TOLERANCES[component.metric].value < 0.3 * (component.best - component.worst)


def test_what_is_missing_is_one_line(videos: Path, dataset: Path, tmp_path: Path) -> None:
    assert "eval/demo_result of the repository PKU-YuanGroup/OpenS2V-Nexus" in complaint("parity")
    (tmp_path / "none").mkdir()
    words = ("parity", "--videos", videos, "--dataset", dataset, "--scores")
    assert "none of the official score files" in complaint(*words, tmp_path / "none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "gmescore.json").write_text(json.dumps({"multiface_9": {"gme_score": 0.5}}))
    assert "holds no video <sample id>.mp4" in complaint(*words, tmp_path / "other")
    (tmp_path / "other" / "gmescore.json").write_text(json.dumps({TWO[0]: {"gme_score": 0.5}}))
    assert "has no official scores of facesim" in complaint(
        *words, tmp_path / "other", "--metrics", "facesim"
    )
    assert "did you mean facesim" in complaint(*words, tmp_path / "other", "--metrics", "facesin")


def test_the_public_demonstration(shared: Path, tmp_path: Path) -> None:
    data = shared / "data/opens2v_eval"
    words = words_of(data / "videos", data / "official_scores", data, tmp_path, tmp_path / "parity.json")
    answer = printed_json(*words, "--metrics", "motion-amplitude")
    assert [one["difference"] for one in answer["figures"]] == [0.0, 0.0]
