"""Import and export of the official score files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.cli import printed, printed_json
from kit.records import record
from refbench.bench.dataset import load_track
from refbench.bench.errors import UserError
from refbench.bench.scores.aggregate import scoreboard
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.official_files import export_scores, import_scores
from refbench.bench.scores.protocol import OFFICIAL_PROTOCOLS, official_result
from refbench.bench.scores.protocol import OPENS2V_1_1 as V11
from refbench.bench.scores.record import Record


def write_files(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture
def demo_files(golden: Callable[[str], Any]) -> dict[str, Any]:
    """The nine files that the reference ships as its demonstration, for two videos."""
    files: dict[str, Any] = golden("opens2v_eval/merge_cases.json")["cases"][-1]["files"]
    assert len(files) == 9
    return files


def test_the_nine_official_files_give_the_official_total(shared: Path) -> None:
    imported = import_scores(shared / "data/opens2v_eval/official_scores", "demo", "open-domain")
    board = scoreboard(imported.records, V11)
    assert board.total == 0.5959962472265614
    assert len(imported.files) == 9
    track = load_track("open-domain", shared / "data/opens2v_eval")
    with_samples = import_scores(shared / "data/opens2v_eval/official_scores", "demo", "open-domain", track)
    assert scoreboard(with_samples.records, V11).total == 0.5959962472265614


def test_the_same_from_the_repository_alone(tmp_path: Path, demo_files: dict[str, Any]) -> None:
    folder = write_files(tmp_path / "scores", demo_files)
    (board,) = printed_json("import-scores", folder, "--name", "demo", "--out", tmp_path / "results")
    assert board["total_score"] == 0.5959962472265614
    assert board["strict_total_score"] < 0.01
    components = board["components"]
    assert (components["facesim"]["expected"], components["facesim"]["scored"]) == (90, 1)
    # Without the data set only singleface is known to be left out; nine multiface samples
    # would need their references.
    assert components["nexusscore"]["expected"] == 150
    assert components["aesthetics"]["reasons"] == {"missing_video": 178}


def test_records_and_reasons_of_an_import(tmp_path: Path, demo_files: dict[str, Any]) -> None:
    demo_files["aesthetic_score.json"]["not_a_sample"] = {"aes_score": 5.0}
    imported = import_scores(write_files(tmp_path, demo_files), "demo", "open-domain")
    assert imported.unknown_ids == ("not_a_sample",)
    by_key = {(r.sample, r.metric): r for r in imported.records}
    assert by_key["faceobj_14", "motion-amplitude"].value == 0.35025984048843384
    assert by_key["faceobj_14", "facesim"].reason == "failed: absent from the official file"
    assert by_key["singleface_3", "nexusscore"].reason_kind == "not_applicable"
    assert by_key["singleobj_1", "facesim"].reason_kind == "not_applicable"
    natural = by_key["singleface_3", "naturalscore"]
    assert natural.value == pytest.approx(10 / 3)
    assert natural.details == {"runs": {"1": "3", "2": "3", "3": "4"}}
    assert str(natural.provenance.source).startswith("naturalscore_1.json+naturalscore_2.json+")


def test_a_track_leaves_out_what_is_not_its_own(tmp_path: Path, demo_files: dict[str, Any]) -> None:
    imported = import_scores(write_files(tmp_path, demo_files), "demo", "human-domain")
    assert imported.unknown_ids == ("faceobj_14",)
    board = scoreboard(imported.records, V11)
    assert board.samples == 60
    assert {c.component: c.scored for c in board.components}["aesthetics"] == 1


@pytest.mark.parametrize("protocol", OFFICIAL_PROTOCOLS, ids=lambda p: p.name)
def test_ordinary_golden_folders_import_to_the_golden_totals(
    tmp_path: Path, golden: Callable[[str], Any], protocol: Any
) -> None:
    """With ids of the track only, records reproduce the official result for whole folders of scores."""
    case = golden("opens2v_eval/merge_cases.json")["cases"][0]
    files = {name: content for name, content in case["files"].items() if name != "motionscore.json"}
    known = {
        name: {video: entry for video, entry in content.items() if _is_open_domain(video)}
        for name, content in files.items()
    }
    board = scoreboard(import_scores(write_files(tmp_path, known), "m", "open-domain").records, protocol)
    official = known | {"motionscore.json": known["motion_amplitude.json"]}
    expected = official_result(official, protocol, "Open-Domain")
    assert board.total == pytest.approx(expected["total_score"], abs=1e-12)


def test_a_component_of_zeros_alone_is_zero_as_officially(
    tmp_path: Path, golden: Callable[[str], Any]
) -> None:
    """All NexusScores dropped: officially their mean is 0, not missing, and there is a TotalScore."""
    case = next(c for c in golden("opens2v_eval/merge_cases.json")["cases"] if c["name"] == "all_nexus_zero")
    known = {
        name: {video: entry for video, entry in content.items() if _is_open_domain(video)}
        for name, content in case["files"].items()
        if name != "motionscore.json"
    }
    assert known["nexusscore.json"]
    board = scoreboard(import_scores(write_files(tmp_path, known), "m", "open-domain").records, V11)
    nexus = next(result for result in board.components if result.component == "nexusscore")
    assert (nexus.value, nexus.counted) == (0, 0)
    assert nexus.dropped == nexus.scored > 0
    assert nexus.interval == (0, 0)
    assert board.total == pytest.approx(official_result(known, V11, "Open-Domain")["total_score"], abs=1e-12)


def _is_open_domain(video: str) -> bool:
    from refbench.bench.dataset import OFFICIAL_TRACKS

    return video in OFFICIAL_TRACKS["open-domain"].sample_ids


def test_motion_of_version_1_0_is_found_in_its_own_file(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"motionscore.json": {"faceobj_1": {"motion_fb": 0.25}}})
    records = {r.sample: r for r in import_scores(folder, "m", "open-domain").records}
    assert records["faceobj_1"].value == 0.25
    assert records["faceobj_1"].metric == "motion-amplitude"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "none of the official score files"),
        ({"facesim.json": [1]}, "expected an object of videos"),
        ({"naturalscore_1.json": {"faceobj_1": "error"}}, "could not convert string to float: 'error'"),
        ({"naturalscore_1.json": {"faceobj_1": ["4"]}}, "naturalscore"),
        ({"naturalscore_1.json": {"faceobj_1": "nan"}}, "no finite number"),
        ({"aesthetic_score.json": {"faceobj_1": {"aes_score": None}}}, "has null, no finite number"),
        ({"gmescore.json": {"faceobj_1": {"gme_score": "0.5"}}}, "no finite number"),
        ({"motion_amplitude.json": {"faceobj_1": {"other": 1}}}, "no finite number"),
        ({"nexusscore.json": {"faceobj_1": {"nexus_score": True}}}, "no finite number"),
    ],
)
def test_what_stops_the_official_merge_is_a_user_error(
    tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_scores(write_files(tmp_path / "scores", files), "m", "open-domain")
    assert "\n" not in str(caught.value)


def test_broken_files_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        import_scores(tmp_path / "nowhere", "m", "open-domain")
    (tmp_path / "facesim.json").write_text("{")
    with pytest.raises(UserError, match="broken JSON"):
        import_scores(tmp_path, "m", "open-domain")


def without(record: Record) -> Any:
    """What an import keeps of a record, whatever file it came from."""
    return record.model_dump(exclude={"provenance"})


def test_what_is_exported_imports_to_the_same_records(tmp_path: Path, demo_files: dict[str, Any]) -> None:
    first = import_scores(write_files(tmp_path / "in", demo_files), "m", "open-domain").records
    exported = export_scores(first, tmp_path / "out")
    assert not exported.notes
    second = import_scores(tmp_path / "out", "m", "open-domain").records
    assert list(map(without, second)) == list(map(without, first))
    # motion_lk is the one official figure that records do not keep: no protocol uses it.
    for name, content in demo_files.items():
        written = json.loads((tmp_path / "out" / name).read_text())
        expected = {
            video: {k: v for k, v in entry.items() if k not in ("motion_lk", "arc_score")}
            if isinstance(entry, dict)
            else entry
            for video, entry in content.items()
        }
        assert written == expected
    merged = json.loads((tmp_path / "out/Open-Domain.json").read_text())
    assert merged == official_result(demo_files, V11, "Open-Domain")


def test_no_merged_file_where_a_component_is_missing(tmp_path: Path, demo_files: dict[str, Any]) -> None:
    del demo_files["gmescore.json"]
    records = import_scores(write_files(tmp_path / "in", demo_files), "m", "open-domain").records
    exported = export_scores(records, tmp_path / "out")
    assert not (tmp_path / "out/Open-Domain.json").exists()
    assert exported.notes == ["no merged file: nothing scored for GmeScore"]


@pytest.mark.parametrize(
    ("variant", "told"),
    [
        ("plain", None),
        ("generated-shuffled", "no merged file: the run is the variant generated-shuffled"),
        ("tiny-weights", "no merged file: generated with tiny weights"),
    ],
)
def test_only_a_plain_run_has_the_leaderboards_file(tmp_path: Path, variant: str, told: str | None) -> None:
    records = [
        record(component.metric, sample, component.best, variant=variant)
        for component in COMPONENTS.values()
        for sample in ("singlehuman_1", "singlehuman_2")
    ]
    exported = export_scores(records, tmp_path)
    assert exported.notes == ([] if told is None else [told])
    assert (tmp_path / "Open-Domain.json").exists() == (told is None)
    assert (tmp_path / "motion_amplitude.json").is_file()


def test_export_gives_every_method_track_and_seed_its_folder(
    tmp_path: Path, demo_files: dict[str, Any]
) -> None:
    folder = write_files(tmp_path / "in", demo_files)
    for name in ("one", "two"):
        printed("import-scores", folder, "--name", name, "--out", tmp_path / "r")
    printed("export", tmp_path / "r", "-o", tmp_path / "out")
    for name in ("one", "two"):
        assert (tmp_path / "out" / name / "open-domain/Open-Domain.json").is_file()


def test_an_export_does_not_depend_on_the_order_of_the_records(tmp_path: Path) -> None:
    """Sums of other orders differ in their last digits: the merged file must be one and the same."""
    metrics = [(component.metric, component.worst, component.best) for component in COMPONENTS.values()]
    records = [
        record(
            sample=f"faceobj_{number}", metric=metric, value=worst + (best - worst) * (0.1 * number % 0.97)
        )
        for number in range(1, 13)
        for metric, worst, best in metrics
    ]
    written = []
    for name, ordered in (("a", records), ("b", records[::-1]), ("c", records[30:] + records[:30])):
        exported = export_scores(ordered, tmp_path / name)
        assert exported.notes == []
        written.append({file.name: file.read_bytes() for file in exported.files})
    assert written[0] == written[1] == written[2]
    assert list(json.loads(written[0]["facesim.json"]))[:3] == ["faceobj_1", "faceobj_2", "faceobj_3"]


def test_ids_outside_the_track_are_counted_beside_the_figure(
    tmp_path: Path, demo_files: dict[str, Any]
) -> None:
    extra = {"aesthetic_score.json": {**demo_files["aesthetic_score.json"], "mine_1": {"aes_score": 7.0}}}
    folder = write_files(tmp_path / "scores", {**demo_files, **extra})
    words = ("import-scores", folder, "--name", "demo", "--out", tmp_path / "results")
    (board,) = printed_json(*words)
    told = "1 id of the score files left out, not of open-domain (the official merge counts every id): mine_1"
    assert told in board["notes"]
    assert f"note: {told}" in printed(*words)


def test_scores_that_an_import_found_in_the_store_are_named(
    tmp_path: Path, demo_files: dict[str, Any]
) -> None:
    words = ("--name", "demo", "--out", tmp_path / "results")
    printed("import-scores", write_files(tmp_path / "all", demo_files), *words)
    one = {"aesthetic_score.json": demo_files["aesthetic_score.json"]}
    text = printed("import-scores", write_files(tmp_path / "one", one), *words)
    assert "the store held these scores before, they count too: 1 of facesim, 2 of gmescore" in text
