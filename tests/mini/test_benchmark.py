"""The track `mini`: the official format, subjects of its own, and the renderer's own videos of it."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from kit.cli import complaint, printed, printed_json
from refbench.bench import dataset as tracks
from refbench.bench.dataset import OFFICIAL_TRACKS, DeclaredTrack, domain_of, load_track
from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.scores.columns import facesim_not_applicable, nexus_not_applicable
from refbench.bench.video import Video
from refbench.mini.benchmark import mini_samples, write_mini_dataset
from refbench.mini.track import MINI
from refbench.mini.world.identity import Place, Subject, code_of, person, split_of, thing
from refbench.mini.world.render import render
from refbench.mini.world.scene import TRAINING_PEOPLE, random_scene


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini") / "dataset"
    write_mini_dataset(folder)
    return folder


def shown_subjects() -> list[Subject]:
    return [
        reference.shows
        for sample in mini_samples().values()
        for reference in sample.references
        if isinstance(reference.shows, Subject)
    ]


def test_the_official_reader_takes_all_48_samples(written: Path) -> None:
    track = load_track("mini", written)
    assert (track.name, track.domain, len(track.samples)) == ("mini", "open-domain", 48)
    assert Counter(sample.category for sample in track.samples) == dict.fromkeys(
        OFFICIAL_TRACKS["open-domain"].category_counts, 6
    )
    for sample in track.samples:
        assert 1 <= len(sample.references) <= 3
        kinds = [reference.kind for reference in sample.references]
        own = mini_samples()[sample.id]
        roles = {"human": "person", "face": "person", "thing": "object", "place": "scene"}
        assert kinds == [roles[reference.role] for reference in own.references]
        assert all(np.asarray(reference.open_plain_rgb()).std() > 10 for reference in sample.references)
    row = json.loads((written / "Mini_Eval.json").read_text())["faceobj_2"]
    assert list(row) == ["img_paths", "prompt", "synthesis_flag", "class_label"]


def test_every_component_finds_what_it_needs_in_the_official_categories(written: Path) -> None:
    for sample in load_track("mini", written).samples:
        has_face = sample.category in {"singlehuman", "singleface", "faceobj", "humanobj"}
        assert (facesim_not_applicable(sample) is None) == has_face, sample.id
        faces_only = {reference.role for reference in mini_samples()[sample.id].references} == {"face"}
        assert (nexus_not_applicable(sample) is None) == (not faces_only)


def test_the_bytes_are_the_same_each_time(written: Path, tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }

    (tmp_path / "mine.txt").write_text("mine")
    assert "48 samples" in printed("mini", "dataset", "--out", tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    (tmp_path / "mine.txt").unlink()
    assert digests(tmp_path) == digests(written)
    assert len(digests(written)) == 1 + sum(len(one.references) for one in mini_samples().values())


def test_no_subject_is_in_training_or_in_two_samples() -> None:
    subjects = shown_subjects()
    codes = [code_of(subject.what) for subject in subjects]
    assert len(set(codes)) == len(codes) and len({subject.id for subject in subjects}) == len(subjects)
    assert {split_of(subject.what) for subject in subjects} == {"benchmark"}
    trained = {code_of(person("training", number).what) for number in range(0, TRAINING_PEOPLE, 10)}
    trained |= {code_of(thing("training", number).what) for number in range(200)}
    assert not trained & set(codes)
    places = [one.shows for sample in mini_samples().values() for one in sample.references]
    assert any(isinstance(place, Place) for place in places)


def test_prompts_ask_for_things_that_no_reference_shows() -> None:
    asked = [actor for sample in mini_samples().values() for actor in sample.scene.actors if actor.hat]
    assert len(asked) >= 6
    assert all(getattr(actor.subject.what, "hat", None) is None for actor in asked)
    assert len({sample.prompt for sample in mini_samples().values()}) == 48


def test_world_truth_draws_the_scene_of_each_sample(written: Path) -> None:
    track = load_track("mini", written)
    method = methods.get("world-truth")()
    generator = method.load(Environment(weights=None))
    for sample in track.samples[::7]:
        assert method.refuses(sample) is None
        made = generator.generate(sample, seed=0)
        assert not isinstance(made, Path)
        expected = render(mini_samples()[sample.id].scene).video_FHWC
        assert np.array_equal(np.stack(list(made.images)), expected)
        assert made.fps == method.card().fps
        assert expected.shape[:3] == (method.card().num_frames, method.card().height, method.card().width)


def test_world_truth_refuses_samples_of_another_track() -> None:
    other = Sample(id="singleobj_1", category="singleobj", prompt="A cup.", references=())
    method = methods.get("world-truth")()
    assert "no sample of the track mini" in str(method.refuses(other))
    with pytest.raises(SampleError, match="no sample of the track mini"):
        method.load(Environment(weights=None)).generate(other, seed=0)


def test_the_track_from_the_command_line(written: Path, tmp_path: Path) -> None:
    listed = printed_json("tracks", "--dataset", written)
    assert listed["mini"]["samples"] == 48
    assert listed["mini"]["references_found"] == listed["mini"]["references"]
    assert "samples" not in listed["open-domain"]
    words = ("--track", "mini", "--dataset", written, "--limit", 2, "--out", tmp_path / "runs")
    printed("generate", "world-truth", *words)
    video = Video(tmp_path / "runs/world-truth/mini/seed-0/singleobj_1.mp4")
    assert (video.probe.width, video.probe.height, video.probe.frames) == (64, 64, 9)


def test_a_data_set_of_another_kind_is_one_line(written: Path, tmp_path: Path) -> None:
    words = ("generate", "noise", "--out", tmp_path / "runs")
    assert "has no Open-Domain_Eval.json" in complaint(*words, "--dataset", written)
    (tmp_path / "empty").mkdir()
    line = complaint(*words, "--track", "mini", "--dataset", tmp_path / "empty")
    assert line.endswith("has no Mini_Eval.json: refbench mini dataset --out DIR writes it")


def test_nothing_of_it_counts_as_official() -> None:
    assert "mini" not in OFFICIAL_TRACKS
    assert domain_of("mini") == "open-domain"
    assert "unknown track 'mini'" in complaint("leaderboard", "--track", "mini")
    assert "unknown track 'mini'" in complaint("import-scores", "scores", "--name", "m", "--track", "mini")


def test_a_package_that_fails_costs_its_own_track_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("broken", "refbench.no_such_module:TRACK", tracks.TRACKS_GROUP),
        EntryPoint("other", "refbench.mini.track:SAMPLES_PER_CATEGORY", tracks.TRACKS_GROUP),
        EntryPoint("mini", "refbench.mini.track:MINI", tracks.TRACKS_GROUP),
    ]
    monkeypatch.setattr(tracks, "entry_points", lambda group: points)
    tracks.declared_tracks.cache_clear()
    try:
        assert list(tracks.declared_tracks()) == [*OFFICIAL_TRACKS, "mini"]
        assert isinstance(tracks.declared_tracks()["mini"], DeclaredTrack)
        assert len(MINI.sample_ids) == 48
    finally:
        tracks.declared_tracks.cache_clear()


def test_a_training_scene_never_shows_a_place_of_the_benchmark() -> None:
    shown = {random_scene("training", random.Random(seed)).place for seed in range(200)}
    of_mini = {sample.scene.place for sample in mini_samples().values()}
    assert not shown & of_mini
