"""Tracks and suites: the official files, and every kind of bad input as one line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refbench.bench.dataset import OFFICIAL_TRACKS, load_suite, load_track
from refbench.bench.errors import SampleError, UserError
from refbench.bench.sample import Reference, Sample, category_of, kind_of, shuffle_references
from refbench.bench.scores.columns import COMPONENTS, facesim_not_applicable, nexus_not_applicable


def test_official_tracks_hold_the_official_ids(shared: Path) -> None:
    for name, official in OFFICIAL_TRACKS.items():
        track = load_track(name, shared / "data/opens2v_eval")
        assert sorted(sample.id for sample in track.samples) == sorted(official.sample_ids)


def test_facesim_applies_to_the_official_samples(shared: Path) -> None:
    golden = json.loads((shared / "goldens/opens2v_eval/facesim.json").read_text())["benchmark_lists"]
    for name, title in (
        ("open-domain", "Open-Domain"),
        ("human-domain", "Human-Domain"),
        ("single-domain", "Single-Domain"),
    ):
        samples = load_track(name, shared / "data/opens2v_eval").samples
        chosen = [sample for sample in samples if facesim_not_applicable(sample) is None]
        assert len(chosen) == golden[title]["scored"]
        lines = sorted(f"{s.id}\t{next(r.path for r in s.references if r.kind == 'person')}" for s in chosen)
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        assert digest == golden[title]["chosen_paths_sha256"]


def test_nexus_never_applies_to_39_open_domain_samples(shared: Path) -> None:
    samples = load_track("open-domain", shared / "data/opens2v_eval").samples
    left_out = [sample.category for sample in samples if nexus_not_applicable(sample) is not None]
    assert (len(left_out), left_out.count("singleface"), left_out.count("multiface")) == (39, 30, 9)


def test_a_small_data_set_is_read(dataset: Path) -> None:
    track = load_track("open-domain", dataset)
    sample = track.sample("faceobj_10")
    assert sample is not None
    assert sample.category == "faceobj"
    assert [reference.kind for reference in sample.references] == ["person", "object"]
    assert all(reference.file.is_file() for reference in sample.references)
    assert track.sample("faceobj_99") is None


def test_the_environment_names_the_data_set(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFBENCH_DATASET", raising=False)
    with pytest.raises(UserError, match="REFBENCH_DATASET"):
        load_track("open-domain", None)
    monkeypatch.setenv("REFBENCH_DATASET", str(dataset))
    assert load_track("human-domain", None).samples


def test_older_releases_name_the_single_domain_file_differently(dataset: Path) -> None:
    (dataset / "Single-Domain_Eval.json").rename(dataset / "SingleObject_Eval.json")
    assert len(load_track("single-domain", dataset).samples) == 3


GOOD_ROW = {"img_paths": ["Images/a/man/1.png"], "prompt": "p", "class_label": ["Man"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "broken JSON"),
        ("[" * 100_000, "broken JSON"),
        ("[]", "expected an object"),
        ("{}", "expected an object"),
        (json.dumps({"a_1": []}), "a_1"),
        (json.dumps({"a_1": GOOD_ROW | {"prompt": 3}}), "prompt"),
        (json.dumps({"a_1": GOOD_ROW | {"img_paths": ["../secret.png"]}}), "leaves the data set"),
        (json.dumps({"a_1": GOOD_ROW | {"img_paths": ["/etc/passwd"]}}), "leaves the data set"),
        (json.dumps({"a_1": GOOD_ROW | {"img_paths": ["C:\\secret.png"]}}), "leaves the data set"),
        (json.dumps({"a_1": GOOD_ROW | {"img_paths": ["a\\..\\..\\b.png"]}}), "leaves the data set"),
        (json.dumps({"a_1": GOOD_ROW | {"img_paths": ["a\0b.png"]}}), "leaves the data set"),
        (json.dumps({"a_1": GOOD_ROW | {"class_label": ["Man", "Woman"]}}), "2 class labels for 1 images"),
        (json.dumps({"../a": GOOD_ROW}), "an id may hold"),
        (f'{{"a_1": {json.dumps(GOOD_ROW)}, "a_1": {json.dumps(GOOD_ROW)}}}', "appears twice"),
    ],
)
def test_bad_sample_lists_are_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "Open-Domain_Eval.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_track("open-domain", tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_track("open-domain", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"Open-Domain_Eval\.json"):
        load_track("open-domain", tmp_path)
    with pytest.raises(UserError, match="unknown track"):
        load_track("opendomain", tmp_path)
    (tmp_path / "Open-Domain_Eval.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_track("open-domain", tmp_path)


def write_suite(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "my suite.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_suite_is_its_own_track(tmp_path: Path) -> None:
    path = write_suite(
        tmp_path,
        {"id": "a", "prompt": "p", "references": ["r/1.png"], "labels": ["Dog"], "kinds": ["object"]},
        "",
        {
            "id": "b_1",
            "prompt": "q",
            "references": [{"path": "r/2.png", "label": "Ann", "kind": "person"}, "r/3.png"],
            "category": "duo",
        },
    )
    track = load_suite(path)
    assert track.name.startswith("suite-my-suite-")
    assert track.domain == "open-domain"
    assert [sample.category for sample in track.samples] == ["a", "duo"]
    assert [reference.kind for reference in track.samples[1].references] == ["person", "object"]
    assert facesim_not_applicable(track.samples[1]) is None
    assert facesim_not_applicable(track.samples[0]) is not None


def test_people_of_a_suite_come_from_labels_where_nothing_else_says_it(tmp_path: Path) -> None:
    rows = [
        {"id": "x", "prompt": "p", "references": ["1.png", "2.png"], "labels": ["a young Woman", "Hat"]},
        {"id": "y", "prompt": "p", "references": ["1.png"], "labels": ["man"], "kinds": ["object"]},
    ]
    track = load_suite(write_suite(tmp_path, *rows))
    assert [[one.kind for one in sample.references] for sample in track.samples] == [
        ["person", "object"],
        ["object"],
    ]
    assert facesim_not_applicable(track.samples[0]) is None
    assert "taken as people because of their labels: a young Woman" in track.notes[0]
    # The track's name is that of the file's words: nothing that was scored before is lost.
    assert track.name == load_suite(write_suite(tmp_path, *rows)).name
    assert track.name.endswith("-5591efc7")


def test_people_of_a_suite_come_from_a_folder_at_the_beginning_of_the_path(tmp_path: Path) -> None:
    rows = [{"id": "x", "prompt": "p", "references": ["woman/1.png", "scene/2.png", "hats/3.png"]}]
    (sample,) = load_suite(write_suite(tmp_path, *rows)).samples
    assert [one.kind for one in sample.references] == ["person", "scene", "object"]
    assert facesim_not_applicable(sample) is None


def test_a_suite_has_no_category_of_one_by_default(tmp_path: Path) -> None:
    ids = ["cup", "hat", "dog_1", "dog_2", "car"]
    rows: list[Any] = [{"id": one, "prompt": "p"} for one in ids]
    rows[4]["category"] = "car"
    track = load_suite(write_suite(tmp_path, *rows))
    assert [sample.category for sample in track.samples] == ["other", "other", "dog", "dog", "car"]
    assert "2 samples without a category of several are together in 'other'" in track.notes[0]


def test_a_suites_label_follows_its_content(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "p", "references": ["r/1.png"]}
    name = load_suite(write_suite(tmp_path, row)).name
    assert load_suite(write_suite(tmp_path, "", row)).name == name
    assert load_suite(write_suite(tmp_path, row | {"prompt": "q"})).name != name


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{]", "line 1: broken JSON"),
        ({"id": "a"}, "prompt"),
        ({"id": "a", "prompt": "p", "surprise": 1}, "surprise"),
        ({"id": "a", "prompt": "p", "references": ["1.png"], "labels": []}, "labels: 0 for 1"),
        ({"id": "a", "prompt": "p", "references": ["1.png"], "kinds": ["ghost"]}, "kinds"),
        ({"id": "a/b", "prompt": "p"}, "an id may hold"),
        ({"id": "a", "prompt": "p", "references": ["../1.png"]}, "leaves the data set"),
        ("", "the suite is empty"),
    ],
)
def test_bad_suites_name_the_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_suite(write_suite(tmp_path, row))


def test_a_suite_with_duplicate_ids_is_refused(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "p"}
    with pytest.raises(UserError, match="line 2: the id 'a' appears twice"):
        load_suite(write_suite(tmp_path, row, row))


@given(st.sampled_from(["singleobj", "multi_part", "faceobj"]), st.integers(0, 999))
def test_categories_come_from_ids(category: str, number: int) -> None:
    assert category_of(f"{category}_{number}") == category


def test_kinds_come_from_official_folders() -> None:
    assert kind_of("Images/humanobj/human/crop_woman/celebrity/4.jpg") == "person"
    assert kind_of("Images/humanobj/environment/special/14.jpg") == "scene"
    assert kind_of("Images/singleobject/cup/52.jpg") == "object"
    assert kind_of("man/1.png") == "object"


def _sample(sample_id: str, paths: list[str]) -> Sample:
    references = tuple(Reference(path=path, root=Path(), label="x", kind="object") for path in paths)
    return Sample(id=sample_id, category=category_of(sample_id), prompt="p", references=references)


@given(st.integers(0, 50), st.integers(2, 12), st.integers(1, 4))
def test_shuffling_is_a_derangement_within_categories(seed: int, size: int, categories: int) -> None:
    samples = [_sample(f"c{c}_{n}", [f"{c}/{n}.png"]) for c in range(categories) for n in range(size)]
    shuffled = shuffle_references(samples, seed)
    assert [sample.id for sample in shuffled] == [sample.id for sample in samples]
    donors = [donor(sample, samples) for sample in shuffled]
    assert sorted(one.id for one in donors) == sorted(sample.id for sample in samples)
    for sample, one in zip(shuffled, donors, strict=True):
        assert one.id != sample.id
        assert one.category == sample.category
    assert shuffle_references(samples, seed) == shuffled


def donor(shuffled: Sample, samples: list[Sample]) -> Sample:
    """The sample whose references these are."""
    return next(one for one in samples if one.references == shuffled.references)


def test_shuffling_avoids_shared_images_and_lone_categories() -> None:
    twins = [_sample("a_1", ["x"]), _sample("a_2", ["x"]), _sample("a_3", ["y"]), _sample("a_4", ["y"])]
    # One draw keeps a shared image for about two seeds of three: the best of many is needed.
    for seed in range(40):
        for sample in shuffle_references(twins, seed):
            assert sample.references[0].path != {"a_1": "x", "a_2": "x", "a_3": "y", "a_4": "y"}[sample.id]
    lone = [_sample("a_1", ["x"]), _sample("b_1", ["y"]), _sample("b_2", ["z"])]
    assert all(donor(sample, lone).id != sample.id for sample in shuffle_references(lone, 0))
    with pytest.raises(SampleError, match="one sample"):
        shuffle_references([_sample("a_1", ["x"])], 0)


def test_digests_follow_what_a_metric_uses(dataset: Path) -> None:
    sample = load_track("open-domain", dataset).samples[0]
    before = {uses: sample.digest(uses) for uses in [("video",), ("prompt",), ("references",)]}
    other = Sample(id=sample.id, category=sample.category, prompt="another", references=sample.references)
    assert other.digest(("video",)) == before["video",]
    assert other.digest(("references",)) == before["references",]
    assert other.digest(("prompt",)) != before["prompt",]
    pixels = sample.references_digest()
    sample.references[0].file.write_bytes(b"other bytes")
    assert sample.references_digest() != pixels


def test_references_open_as_the_protocol_and_as_generators_do(tmp_path: Path) -> None:
    from PIL import Image

    transparent = Image.new("RGBA", (4, 6), (255, 0, 0, 0))
    transparent.save(tmp_path / "alpha.png")
    rotated = Image.new("RGB", (4, 6), (10, 20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("CMYK", (4, 6)).save(tmp_path / "cmyk.jpg")

    def reference(name: str) -> Reference:
        return Reference(path=name, root=tmp_path, label="", kind="object")

    assert reference("alpha.png").open_plain_rgb().getpixel((0, 0)) == (255, 0, 0)
    assert reference("alpha.png").open_on_white().getpixel((0, 0)) == (255, 255, 255)
    assert reference("turned.jpg").open_plain_rgb().size == (4, 6)
    assert reference("turned.jpg").open_on_white().size == (6, 4)
    assert reference("cmyk.jpg").open_on_white().mode == "RGB"
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    for name, message in (("broken.png", "cannot be read"), ("absent.png", "is missing")):
        with pytest.raises(SampleError, match=message):
            reference(name).open_on_white()


def test_every_component_has_a_rule_and_a_range() -> None:
    assert len(COMPONENTS) == 7
    for component in COMPONENTS.values():
        assert component.worst < component.best
