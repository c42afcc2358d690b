"""`refbench noise-floor` end to end, on a metric that needs no network."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.cli import Run, complaint, invoke, printed
from kit.clips import SMALL_IDS, moving_square
from kit.stored_runs import run_records, store
from refbench.bench.errors import SampleError
from refbench.bench.runner.altered_videos import READERS, Reencoded, Resized, Sources
from refbench.bench.scores.noise_floor import FloorCell, NoiseFloor, read_noise_floor
from refbench.bench.scores.record import Provenance, Record
from refbench.bench.scores.store import read_records
from refbench.bench.video import ALL_FRAMES, FramePolicy, Video, write_lossless_video, write_video

MOTION = ("--metrics", "motion-amplitude", "--device", "cpu")
# Kills its own process in the middle, once.
KILLER = """
import os, pathlib, signal
from refbench.metrics import motion_amplitude

MARK = pathlib.Path(__file__).with_name("killed")
scored = []
original = motion_amplitude.MotionAmplitudeScorer.score

def score(self, sample, video):
    scored.append(sample)
    if len(scored) == 15 and not MARK.exists():
        MARK.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, sample, video)

motion_amplitude.MotionAmplitudeScorer.score = score
"""


def measure(videos: Path, dataset: Path, out: Path, *words: object) -> NoiseFloor:
    invoke("noise-floor", videos, "--dataset", dataset, "--out", out, *MOTION, *words)
    return read_noise_floor(out)


def motion(floor: NoiseFloor) -> dict[str, FloorCell]:
    return {cause.name: cause.cells["motion_amplitude"] for cause in floor.causes}


def moving_floor(cell: FloorCell) -> float:
    floor = cell.floor(6)
    assert floor is not None, cell.reason
    return floor


@pytest.mark.parametrize("size", [(48, 64), (33, 51)])
def test_a_lossless_copy_is_read_back_as_it_was_by_every_reader(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    images = list(moving_square(height=size[0], width=size[1]))
    write_lossless_video(tmp_path / "a.mp4", images, 8)
    video = Video(tmp_path / "a.mp4")
    assert video.remarks == () and video.glance.fps == 8
    for reader, _ in READERS.values():
        policy = FramePolicy(name="all", indices=None, reader=reader)
        assert all(np.array_equal(*pair) for pair in zip(images, video.frames(policy), strict=True))


def test_copies_differ_as_they_say(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    original = Video(make_clip("o.mp4"))
    frames = np.array(list(original.frames(ALL_FRAMES)), dtype=int)
    errors = []
    for crf in (0, 23, 40):
        Reencoded(crf=crf).write(original, tmp_path / "c.mp4")
        copy = np.array(list(Video(tmp_path / "c.mp4").frames(ALL_FRAMES)), dtype=int)
        errors.append(np.abs(copy - frames).mean())
    assert errors == sorted(errors) and errors[0] < errors[-1]
    Resized(scale=0.5).write(original, tmp_path / "r.mp4")
    shown = Video(tmp_path / "r.mp4").probe
    assert (shown.width, shown.height, shown.frames) == (32, 24, len(frames))
    (tmp_path / "n.mp4").write_bytes(b"no video")
    with pytest.raises(SampleError):
        Reencoded(crf=0).write(Video(tmp_path / "n.mp4"), tmp_path / "x.mp4")


def test_a_decoder_that_changes_no_pixel_has_the_floor_0(videos: Path, dataset: Path, tmp_path: Path) -> None:
    """H.264 of eight bits without a colour tag: both official readers give the same pixels."""
    cells = motion(measure(videos, dataset, tmp_path / "f.json", "--sources", "decoder"))
    assert moving_floor(cells["decoder:opencv"]) == 0
    assert moving_floor(cells["decoder:smooth"]) > 0


def test_the_floor_of_re_encoding_grows_with_crf(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for number, sample_id in enumerate(SMALL_IDS):
        write_video(tmp_path / f"v/{sample_id}.mp4", moving_square(frames=5, seed=number, speed=1), 8, crf=0)
    crfs = (0, 18, 28, 40)
    sources = ",".join(f"reencode:{crf}" for crf in crfs)
    cells = motion(measure(tmp_path / "v", dataset, tmp_path / "f.json", "--sources", sources))
    assert list(cells) == [f"reencode:{crf}" for crf in crfs]
    floors = [moving_floor(cell) for cell in cells.values()]
    assert floors == sorted(floors) and floors[0] < floors[-1]
    largest = [cell.one_video.largest for cell in cells.values() if cell.one_video is not None]
    assert all(one > floor / 4 for one, floor in zip(largest, floors, strict=True))


def test_what_cannot_be_measured_is_said_with_its_reason(videos: Path, dataset: Path, tmp_path: Path) -> None:
    words = ("noise-floor", videos, "--dataset", dataset, "--out", tmp_path / "f.json")
    said = printed(*words, "--sources", "reencode:23,device,judge,seeds")
    floor = read_noise_floor(tmp_path / "f.json")
    cells = {cause.name: cause.cells for cause in floor.causes}
    reencoded = cells["reencode:23"]
    assert reencoded["motion_amplitude"].reason is None
    assert "missing_weights" in str(reencoded["facesim"].reason)
    assert str(reencoded["total"].reason).startswith("no TotalScore without Aesthetics")
    assert "key" in str(reencoded["naturalscore"].reason)
    assert {cell.reason for cell in cells["device"].values()} == {"none of the metrics runs on a GPU"}
    assert {cell.reason for cell in cells["judge"].values()} == {"no judge's answers in the records"}
    assert "one seed" in str(cells["seeds"]["motion_amplitude"].reason)
    assert "one seed" in said and "OPENAI_API_KEY" in said
    # The file can be shown to anybody.
    text = (tmp_path / "f.json").read_text()
    assert str(tmp_path) not in text and floor.method == "videos" and floor.frames == "64×48, 5 frames"


def test_a_paid_judge_is_asked_by_name_only(
    videos: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    words = ("noise-floor", videos, "--dataset", dataset, "--dry-run", "--sources", "reencode:23,reencode:28")
    assert "naturalscore is not measured: not asked: its judge's answers cost money" in printed(*words)
    asked = printed(*words, "--metrics", "naturalscore")
    # Six samples, each once and in two copies, three answers each.
    assert "up to 54 requests" in " ".join(asked.split())
    assert not (Path.cwd() / "results").exists()


def test_killed_in_the_middle_it_goes_on_to_the_same_floor(
    videos: Path, dataset: Path, tmp_path: Path, refbench: Run
) -> None:
    whole = measure(videos, dataset, tmp_path / "whole.json", "--sources", "decoder,reencode")
    (tmp_path / "killer.py").write_text(KILLER)
    words = ("noise-floor", videos, "--dataset", dataset, "--out", tmp_path / "f.json", *MOTION)
    command = refbench.command(*words, "--sources", "decoder,reencode", "--plugin", tmp_path / "killer.py")
    first = subprocess.run(command, cwd=refbench.folder, capture_output=True, text=True, timeout=120)
    assert first.returncode == -signal.SIGKILL and not (tmp_path / "f.json").exists()
    (work,) = (tmp_path / ".f").iterdir()
    before = read_records(next(work.rglob("*.jsonl")))
    assert 6 <= len(before) < 14 * 6
    second = subprocess.run(command, cwd=refbench.folder, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert f"{len(before)} scores are there already" in second.stderr
    # Nothing was scored twice.
    assert len(read_records(next(work.rglob("*.jsonl")))) == 8 * 6
    assert read_noise_floor(tmp_path / "f.json") == whole
    assert not (work / "videos").exists()


def test_stopped_while_copies_are_written_no_half_copy_stays(
    videos: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    write = Reencoded.write

    def stopping(self: Reencoded, original: Video, path: Path) -> None:
        write(self, original, path)
        written.append(path)
        if len(written) == 4:
            raise RuntimeError("stopped")

    monkeypatch.setattr(Reencoded, "write", stopping)
    sources = ("--sources", "reencode:23")
    words = ("noise-floor", videos, "--dataset", dataset, "--out", tmp_path / "f.json", *MOTION, *sources)
    with pytest.raises(RuntimeError, match="stopped"):
        invoke(*words)
    (copies,) = [folder for folder in tmp_path.glob(".f/*/videos/seed-*") if folder.name != "seed-0"]
    assert len(list(copies.iterdir())) == 3
    assert moving_floor(motion(measure(videos, dataset, tmp_path / "f.json", *sources))["reencode:23"]) > 0
    assert len(written) == 4 + 3


def test_another_source_costs_only_itself(videos: Path, dataset: Path, tmp_path: Path) -> None:
    measure(videos, dataset, tmp_path / "f.json", "--sources", "reencode:23")
    words = ("noise-floor", videos, "--dataset", dataset, "--out", tmp_path / "f.json", *MOTION)
    done = invoke(*words, "--sources", "reencode:23,resize:0.5")
    assert "12 scores are there already" in done.stderr
    assert len(read_records(next(tmp_path.glob(".f/*/results/*/*.jsonl")))) == 18
    assert "also holds reencode, resize" in complaint(*words, "--sources", "decoder")
    assert "choose another --out" in complaint(*words, "--protocol", "opens2v-1.0")
    # The work lies in a hidden folder: it is no result.
    assert not [file for file in tmp_path.rglob("*.jsonl") if ".f" not in file.parts]


def test_samples_are_drawn_from_all_categories_by_a_seed(videos: Path, dataset: Path, tmp_path: Path) -> None:
    def drawn(name: str, *words: object) -> list[str]:
        return measure(videos, dataset, tmp_path / name, "--sources", "decoder:opencv", *words).samples

    five = drawn("a.json", "--samples", 5)
    assert len({sample.rpartition("_")[0] for sample in five}) == 5
    assert drawn("b.json", "--samples", 5) == five
    others = {tuple(drawn(f"{seed}.json", "--samples", 5, "--sample-seed", seed)) for seed in range(6)}
    assert len(others) == 2


def test_a_copy_that_cannot_be_written_is_a_reason(
    videos: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Resized.write

    def failing(self: Resized, original: Video, path: Path) -> None:
        if original.path.name.startswith("faceobj"):
            raise SampleError("no")
        write(self, original, path)

    monkeypatch.setattr(Resized, "write", failing)
    sources = ("--sources", "reencode:0,resize:0.5")
    cells = motion(measure(videos, dataset, tmp_path / "f.json", *sources))
    assert cells["reencode:0"].n == 6
    assert (cells["resize:0.5"].n, cells["resize:0.5"].reason) == (4, "4 samples are too few")


def test_a_damaged_video_is_left_out(videos: Path, dataset: Path, tmp_path: Path) -> None:
    (videos / "singleobj_1.mp4").write_bytes(b"\0\0\0\x18ftypisom" + b"x" * 100)
    words = ("--sources", "reencode:23,decoder", "--samples", 6)
    cells = motion(measure(videos, dataset, tmp_path / "f.json", *words))
    assert {(cell.n, cell.reason) for cell in cells.values()} == {(5, None)}


def test_seeds_of_a_folder_and_of_a_store(
    make_clip: Callable[..., Path], dataset: Path, tmp_path: Path
) -> None:
    for number, sample_id in enumerate(SMALL_IDS):
        for seed in (3, 5):
            make_clip(f"run/seed-{seed}/{sample_id}.mp4", seed=number + 100 * seed, speed=seed, frames=5)
    floor = measure(tmp_path / "run", dataset, tmp_path / "f.json", "--sources", "seeds")
    (cause,) = floor.causes
    cell = cause.cells["motion_amplitude"]
    assert (cell.n, cell.shift, cause.note) == (6, None, "seeds 3, 5")
    assert moving_floor(cell) > 0
    words = ("--name", "mine", "--dataset", dataset, "--out", tmp_path / "results", *MOTION)
    invoke("evaluate", tmp_path / "run", *words)
    invoke("noise-floor", tmp_path / "results", "--sources", "seeds")
    stored = read_noise_floor(tmp_path / "results/noise-floor.json")
    assert stored.causes[0].cells["motion_amplitude"].standard_error == cell.standard_error
    assert stored.method == "mine"
    words = ("--scores", tmp_path / "results", "--sources", "seeds,reencode:23")
    both = motion(measure(tmp_path / "run/seed-3", dataset, tmp_path / "both.json", *words))
    assert both["seeds"] == stored.causes[0].cells["motion_amplitude"]
    assert both["reencode:23"].shift is not None


def test_a_store_alone_says_what_takes_videos(tmp_path: Path) -> None:
    store(tmp_path, run_records(seeds=(0, 1)))
    invoke("noise-floor", tmp_path)
    floor = read_noise_floor(tmp_path / "noise-floor.json")
    reasons = {cause.name: cause.cells["gmescore"].reason for cause in floor.causes}
    assert reasons["seeds"] is None
    assert all("give their folder" in str(reasons[name]) for name in ("reencode:23", "device", "resize:0.5"))
    assert "goes with a folder of videos" in complaint("noise-floor", tmp_path, "--samples", 3)


def test_where_nothing_is_measured_nothing_is_written(tmp_path: Path) -> None:
    store(tmp_path, run_records())
    said = complaint("noise-floor", tmp_path, "--sources", "seeds,judge")
    assert said.startswith("nothing could be measured, and no file is written: judge: ")
    assert "seeds: the store has one seed of m" in said
    assert not (tmp_path / "noise-floor.json").exists()


def test_seeds_that_were_scored_in_two_ways_are_no_repetitions(tmp_path: Path) -> None:
    def older(one: Record) -> Record:
        if one.metric != "gmescore" or one.seed == 1 or one.value is None:
            return one
        return one.model_copy(update={"provenance": Provenance(metric_version="0")})

    store(tmp_path, [older(one) for one in run_records(seeds=(0, 1))])
    invoke("noise-floor", tmp_path, "--sources", "seeds")
    (cause,) = read_noise_floor(tmp_path / "noise-floor.json").causes
    assert cause.cells["gmescore"].reason == "scored otherwise in the store: version 1 against 0"
    assert cause.cells["aesthetics"].reason is None
    assert str(cause.cells["total"].reason).startswith("no TotalScore without GmeScore")


def test_weights_that_change_in_the_middle_end_the_measurement(
    videos: Path, dataset: Path, tmp_path: Path
) -> None:
    measure(videos, dataset, tmp_path / "f.json", "--sources", "reencode:23")
    file = next(tmp_path.glob(".f/*/results/*/*.jsonl"))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["provenance"]["dtype"] = "float16"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("noise-floor", videos, "--dataset", dataset, "--out", tmp_path / "f.json", *MOTION)
    assert "was scored in two ways" in complaint(*words, "--sources", "reencode:23")


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ("reencod", "did you mean reencode"),
        ("reencode:52", "a CRF is 0 to 51"),
        ("reencode:-1", "a CRF is 0 to 51"),
        ("resize:nan", "a factor above 0"),
        ("resize:9", "a factor above 0"),
        ("decoder:vlc", "unknown decoder"),
        ("seeds:3", "takes no value"),
        (" , ", "names nothing"),
    ],
)
def test_unknown_sources_are_one_line(videos: Path, dataset: Path, sources: str, said: str) -> None:
    assert said in complaint("noise-floor", videos, "--dataset", dataset, "--sources", sources)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--metrics", "copy-paste"), "fills no component"),
        (("--metrics", "facesim"), "was asked for and cannot run"),
        (("--metrics", "motion-amplitude", "--set", "gmescore.x=1"), "which is not measured"),
        (("--protocol", "opens2v-9"), "unknown protocol"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    videos: Path, dataset: Path, words: tuple[Any, ...], said: str
) -> None:
    assert said in complaint("noise-floor", videos, "--dataset", dataset, *words)


def test_the_usual_sources() -> None:
    names = [one.name for one in Sources.parse(None).alterations]
    assert names == [
        *("decoder:opencv", "decoder:smooth"),
        *(f"reencode:{crf}" for crf in (0, 10, 18, 23, 28)),
        *(f"resize:{scale}" for scale in (0.9, 0.75, 0.5)),
    ]
    assert Sources.parse("resize,reencode:23,reencode:5").families == ("reencode", "resize")


def test_where_a_gpu_scored_the_processor_scores_once_more(
    videos: Path, dataset: Path, tmp_path: Path
) -> None:
    """There is no GPU here, so the records say that there was one; the second scoring is real."""
    pytest.importorskip("transformers", reason="tiny weights need the extra 'metrics'")
    from refbench.metrics.small.aesthetics import write_tiny

    write_tiny(tmp_path / "w")
    words = ("noise-floor", videos, "--dataset", dataset, "--out", tmp_path / "f.json")
    words += ("--weights", tmp_path / "w", "--metrics", "aesthetics", "--device", "cpu")
    invoke(*words, "--sources", "reencode:23")
    file = next(tmp_path.glob(".f/*/results/*/*.jsonl"))
    file.write_text(file.read_text().replace('"device":"cpu"', '"device":"cuda:0"'))
    invoke(*words, "--sources", "reencode:23,device")
    cause = read_noise_floor(tmp_path / "f.json").causes[1]
    cell = cause.cells["aesthetics"]
    assert (cause.label, cell.n, cell.reason) == ("scoring on cpu instead of cuda:0", 6, None)
    # The same processor scored both, so nothing may differ.
    assert moving_floor(cell) == 0
    stored = read_records(next(tmp_path.glob(".f/*/on-cpu/*/*.jsonl")))
    assert {one.provenance.device for one in stored} == {"cpu"} and len(stored) == 6
