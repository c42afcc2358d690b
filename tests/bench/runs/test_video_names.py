"""Videos under other people's names: what is plainly meant is read, all else is named or refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.cli import Run
from refbench.bench.dataset import Track
from refbench.bench.errors import UserError
from refbench.bench.runs.folder import VideoFolder, scan_videos
from refbench.bench.runs.video_names import NamePattern
from refbench.bench.sample import Sample

IDS = ("faceobj_1", "faceobj_2", "faceobj_14")
TRACK = Track(
    name="mine",
    samples=tuple(Sample(id=one, category="faceobj", prompt="p", references=()) for one in IDS),
    domain="open-domain",
)
# The first bytes of an MP4 and of a WebM file.
MP4 = b"\x00\x00\x00\x20ftypisom"
WEBM = b"\x1a\x45\xdf\xa3" + b"\x00" * 8


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(WEBM if name.endswith("webm") else MP4)
    return root


def found(folder: VideoFolder, root: Path) -> dict[tuple[str, int], str]:
    return {key: path.relative_to(root).as_posix() for key, path in folder.videos.items()}


def refusal(root: Path, pattern: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        scan_videos(root, TRACK, pattern)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_extension_is_what_the_content_says(tmp_path: Path) -> None:
    names = ("faceobj_1.MP4", "faceobj_2.webm", "faceobj_14")
    (tmp_path / "notes").write_text("no video")
    (tmp_path / "._faceobj_1.mp4").write_bytes(b"\x00\x05\x16\x07")
    got = scan_videos(folder_of(tmp_path, *names), TRACK)
    assert found(got, tmp_path) == dict(zip([(one, 0) for one in IDS], names, strict=True))
    assert got.unknown == ()


@pytest.mark.parametrize(
    ("form", "seeds"),
    [("{}_seed{}.mp4", (42, 7)), ("{}-{}.mp4", (0, 1)), ("{}_{}.mov", (3, 4)), ("{}-seed-{}.MP4", (1, 2))],
)
def test_names_of_one_form_with_seeds_are_read(tmp_path: Path, form: str, seeds: tuple[int, int]) -> None:
    folder_of(tmp_path, *(form.format(one, seed) for one in IDS for seed in seeds), "grid.mp4")
    got = scan_videos(tmp_path, TRACK)
    assert got.seeds == tuple(sorted(seeds))
    assert set(got.videos) == {(one, seed) for one in IDS for seed in seeds}
    assert got.unknown == ("grid.mp4",)
    assert "file names read as {id}" in got.remarks[0]


def test_a_pattern_says_what_is_meant(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/faceobj_1.mp4", "b/s5 faceobj_2 final.MP4", "b/faceobj_14.mp4", "faceobj_2.mp4")
    got = scan_videos(tmp_path, TRACK, "*/{id}.mp4")
    assert found(got, tmp_path) == {
        ("faceobj_1", 0): "a/faceobj_1.mp4",
        ("faceobj_14", 0): "b/faceobj_14.mp4",
    }
    assert sorted(got.unknown) == ["b/s5 faceobj_2 final.MP4", "faceobj_2.mp4"]
    got = scan_videos(tmp_path, TRACK, "b/s{seed} {id} *")
    assert (list(got.videos), got.seeds) == ([("faceobj_2", 5)], (5,))
    assert "fits --pattern 'x{id}'; there are: faceobj_2.mp4" in refusal(tmp_path, "x{id}")
    for wrong in ("{seed}.mp4", "{id}{id}", "{name}.mp4", "{id}{seed}{seed}"):
        assert "--pattern takes one {id}" in refusal(tmp_path, wrong)


def test_an_id_that_begins_another_is_not_mistaken(tmp_path: Path) -> None:
    pattern = NamePattern.of("{id}_{seed}.mp4", IDS)
    assert pattern.read("faceobj_1_4.mp4") == ("faceobj_1", 4)
    assert pattern.read("faceobj_14_1.mp4") == ("faceobj_14", 1)
    assert pattern.read("faceobj_14.mp4") is None
    # `faceobj_14` is a sample, so it is no `faceobj` with seed 14 nor `faceobj_1` with a 4.
    assert list(scan_videos(folder_of(tmp_path, "faceobj_14.mp4"), TRACK).videos) == [("faceobj_14", 0)]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["faceobj_1.mp4", "seed-1/faceobj_1.mp4"], "holds videos (faceobj_1.mp4) beside seed-1"),
        (["faceobj_1.mp4", "faceobj_2_seed4.mp4"], "several forms, {id}.mp4, {id}_seed{seed}.mp4"),
        (["faceobj_1-4.mp4", "faceobj_2_seed4.mp4"], "--pattern '{id}-{seed}.mp4'"),
        (["faceobj_1.mp4", "faceobj_1.webm"], "two videos of faceobj_1, seed 0"),
        (["seed-1/faceobj_1.mp4", "seed_01/faceobj_1.mp4"], "seed-1 and seed_01 are both seed 1"),
        (["FaceObj_14.mp4", "face_obj2.mp4"], "FaceObj_14.mp4 (near faceobj_14), face_obj2.mp4 (near face"),
        (["deep/a/faceobj_1.mp4"], "deep/a: give that folder, or to evaluate --pattern"),
        (["._faceobj_1.mp4", "readme.txt"], "holds no mp4 or other video"),
    ],
)
def test_what_is_ambiguous_is_refused_in_one_line(tmp_path: Path, names: list[str], told: str) -> None:
    assert told in refusal(folder_of(tmp_path / "videos", *names))


def test_other_spellings_of_seed_folders_are_seed_folders(tmp_path: Path) -> None:
    folder_of(tmp_path, "seed1/faceobj_1.mp4", "Seed_2/faceobj_1.mp4", "overview.mp4")
    got = scan_videos(tmp_path, TRACK)
    assert (got.seeds, got.unknown) == ((1, 2), ("overview.mp4",))


def test_everything_that_is_not_used_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path, "faceobj_1.mp4", "extra.mp4", "more/faceobj_2.mp4", "faceobj_14/0001.png")
    os.mkfifo(tmp_path / "faceobj_2.mp4")
    (tmp_path / "faceobj_2.gif").write_bytes(b"GIF89a")
    got = scan_videos(tmp_path, TRACK)
    assert list(got.videos) == [("faceobj_1", 0)]
    assert set(got.unknown) == {
        "extra.mp4",
        "faceobj_14 (a folder)",
        "faceobj_2.gif (GIF is not read)",
        "faceobj_2.mp4 (no regular file)",
        "more/faceobj_2.mp4",
    }


def test_the_command_reads_a_pattern(
    refbench: Run, dataset: Path, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    make_clip("videos/a/faceobj_2 s5.mp4", speed=5)
    make_clip("videos/faceob_2.mp4", speed=5)
    command = ("evaluate", tmp_path / "videos", "--name", "mine", "--dataset", dataset)
    assert "faceob_2.mp4 (near faceobj_2)" in refbench(*command, expect=2).stderr
    done = refbench(*command, "--pattern", "*/{id} s{seed}.mp4")
    assert "1/6" in done.stdout
    assert "not scored, no sample of open-domain has this name: faceob_2.mp4 (near faceobj_2)" in done.stderr


@pytest.mark.parametrize("form", ["{}.mp4", "{}_seed3.mp4"])
def test_videos_under_extensions_that_are_not_read_are_named(tmp_path: Path, form: str) -> None:
    left_out = ["faceobj_14.wmv", "faceobj_2.mp4.part", "faceobj_2.ts"]
    folder_of(tmp_path, form.format("faceobj_1"), *left_out)
    (tmp_path / "faceobj_14.wmv").write_bytes(b"\x30\x26\xb2\x75")
    # What lies beside videos is no video.
    for beside in ("faceobj_1.json", "faceobj_2.txt", "notes.md"):
        (tmp_path / beside).write_text("{}")
    got = scan_videos(tmp_path, TRACK)
    assert len(got.videos) == 1
    assert got.unknown == tuple(f"{name} ({Path(name).suffix} is not read)" for name in left_out)


def test_an_id_within_a_longer_name_is_near(tmp_path: Path) -> None:
    folder_of(tmp_path, "my-model-v2_faceobj_14_final.mp4", "large-model-faceobj_1.mp4")
    told = refusal(tmp_path)
    assert "large-model-faceobj_1.mp4 (near faceobj_1)" in told
    assert "my-model-v2_faceobj_14_final.mp4 (near faceobj_14)" in told
