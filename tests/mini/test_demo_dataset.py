"""The drawn data set: that the loaders and rules for the official one apply to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refbench.bench.dataset import OFFICIAL_TRACKS, load_track
from refbench.bench.sample import Reference
from refbench.bench.scores.columns import facesim_not_applicable, nexus_not_applicable
from refbench.mini.demo import write_demo_dataset

FACESIM_CATEGORIES = {"singlehuman", "singleface", "faceobj", "humanobj"}


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent") / "demo"
    write_demo_dataset(folder)
    return folder


def all_references(demo: Path) -> list[Reference]:
    return [
        reference
        for track in OFFICIAL_TRACKS
        for sample in load_track(track, demo).samples
        for reference in sample.references
    ]


@pytest.mark.parametrize("track", list(OFFICIAL_TRACKS))
def test_every_track_loads_with_all_its_categories(demo: Path, track: str) -> None:
    samples = load_track(track, demo).samples
    official = OFFICIAL_TRACKS[track]
    assert {sample.category for sample in samples} == set(official.category_counts)
    assert {sample.id for sample in samples} <= set(official.sample_ids)


def test_the_smaller_tracks_repeat_ids_and_prompts_of_the_open_domain(demo: Path) -> None:
    open_domain = load_track("open-domain", demo)
    assert len(open_domain.samples) == 12
    for track in ("human-domain", "single-domain"):
        for sample in load_track(track, demo).samples:
            original = open_domain.sample(sample.id)
            assert original is not None
            assert sample.prompt == original.prompt
            assert len(sample.references) == 1


def test_rows_have_the_official_fields(demo: Path) -> None:
    for official in OFFICIAL_TRACKS.values():
        for row in json.loads((demo / official.files[0]).read_text(encoding="utf-8")).values():
            assert list(row) == ["img_paths", "prompt", "synthesis_flag", "class_label"]
            assert isinstance(row["synthesis_flag"], str)
            assert len(row["img_paths"]) == len(row["class_label"])
            assert all(path.startswith("Images/") for path in row["img_paths"])


def test_the_kind_of_a_reference_follows_from_its_folder(demo: Path) -> None:
    kinds = {reference.label: reference.kind for reference in all_references(demo)}
    people = {label for label, kind in kinds.items() if kind == "person"}
    scenes = {label for label, kind in kinds.items() if kind == "scene"}
    assert people == {"Man", "Woman"}
    assert scenes == {"Park", "Seaside", "Livingroom"}


def test_facesim_applies_to_the_official_categories(demo: Path) -> None:
    for sample in load_track("open-domain", demo).samples:
        assert (facesim_not_applicable(sample) is None) == (sample.category in FACESIM_CATEGORIES), sample.id
    assert all(facesim_not_applicable(sample) is None for sample in load_track("human-domain", demo).samples)


def test_nexus_leaves_out_single_faces_only(demo: Path) -> None:
    left_out = {
        sample.category
        for sample in load_track("open-domain", demo).samples
        if nexus_not_applicable(sample) is not None
    }
    assert left_out == {"singleface"}


def test_every_reference_is_a_picture_of_something(demo: Path) -> None:
    for reference in all_references(demo):
        picture = np.asarray(reference.open_on_white())
        assert max(picture.shape) in (512, 640), reference.path
        assert picture.std() > 15, reference.path


def test_subjects_stand_on_white(demo: Path) -> None:
    for reference in all_references(demo):
        if reference.kind != "scene":
            picture = np.asarray(reference.open_on_white())
            assert (picture[0, [0, -1]] > 250).all(), reference.path


def test_jpeg_and_transparent_png_are_among_the_references(demo: Path) -> None:
    modes = {}
    for reference in all_references(demo):
        with Image.open(reference.file) as image:
            modes[reference.path] = (image.format, image.mode)
    assert set(modes.values()) == {("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "RGBA")}
    for path, (_, mode) in modes.items():
        if mode == "RGBA":
            with Image.open(demo / path) as image:
                assert image.getchannel("A").getextrema() == (0, 255)


def colours(reference: Reference) -> set[int]:
    """The colours of a picture, white left out, as 24-bit numbers."""
    picture_HWC = np.asarray(reference.open_plain_rgb()).astype(int)
    return set(np.unique(picture_HWC @ [65536, 256, 1]).tolist()) - {0xFFFFFF}


def test_a_face_crop_shows_the_person_of_the_full_picture(demo: Path) -> None:
    crops = {sample.id: colours(sample.references[0]) for sample in load_track("human-domain", demo).samples}
    for sample in load_track("single-domain", demo).samples:
        if sample.category == "singlehuman":
            full = colours(sample.references[0])
            shared = {sample_id: len(full & crop) / len(full) for sample_id, crop in crops.items()}
            # Skin, hair and clothes agree; strangers share a tint here and there.
            assert shared.pop(sample.id) > 0.3
            assert max(shared.values()) < 0.2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(demo: Path, tmp_path: Path) -> None:
    first = digests(demo)
    write_demo_dataset(tmp_path / "same")
    assert digests(tmp_path / "same") == first
    write_demo_dataset(tmp_path / "other", seed=1)
    other = digests(tmp_path / "other")
    assert other.keys() == first.keys()
    changed = {path for path in first if other[path] != first[path]}
    assert {path for path in first if "man/" in path} <= changed
    assert not any(path.endswith(".json") for path in changed)


def test_writing_again_mends_what_is_there_and_touches_nothing_else(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "Open-Domain_Eval.json").write_text("broken")
    (folder / "Images/singleobject/cup/1.jpg").unlink()
    write_demo_dataset(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "notes.txt").unlink()
    assert digests(folder) == digests(demo)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert [path.name for path in demo.parent.iterdir()] == ["demo"]
