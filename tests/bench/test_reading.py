"""How unusual files are read, against what decord 0.6 and OpenCV 4.11 returned of them, and what is said.

`tests/files/readers` was written by `tests/kit/official_readers.py`.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from kit.official_readers import crc
from refbench.bench.reading import Reader
from refbench.bench.runner.evaluate import PreparedEvaluation, evaluate
from refbench.bench.scores.store import read_records
from refbench.bench.video import ALL_FRAMES, FramePolicy, Video, VideoError, stride_frames, write_video

READERS = Path(__file__).parents[1] / "files/readers"
OFFICIAL: dict[str, dict[str, Any]] = json.loads((READERS / "official.json").read_text())

# Of each file the sentences that are said of it, by a part of them.
SAID = {
    "plain.mp4": (),
    "bt709.mp4": (),
    "bt709_full_range.mp4": (),
    "ten_bits.mp4": ("10 bits per channel: read as 8, as decord does, but for its last row",),
    "ten_bits_422_bt709.mp4": ("10 bits per channel: read as 8, as decord does",),
    "interlaced.mp4": ("interlaced: read without separating the fields, as decord does",),
    "turned.mp4": ("turned by 90 degrees counter-clockwise by its header, as decord does; the official",),
    "mirrored.mp4": ("turned by 180 degrees counter-clockwise, as decord does, and not mirrored back",),
    "not_square.mp4": ("pixels are not square (4:3): frames are left as stored, as decord does",),
    "variable.mp4": ("variable frame rate: each frame counts once, as for decord; the official judge's",),
    "edited.mp4": ("36 frames are declared and 30 shown (an edit list, or a damaged index)",),
    "cut.mkv": ("the frames end at 0.83 s of the 1.50 s that the file declares: it may be cut off",),
    "two_streams.mp4": ("2 video streams: the first is read; decord takes the one of the higher bit rate",),
    "odd.webm": ("yuv420p of 95×63 pixels: decord places the colours otherwise",),
    "transparent.mov": ("transparency is dropped, as decord does",),
    "av1.mp4": ("AV1, which the official readers cannot decode",),
}
# Where frames are not decord's: all, the last row of all, the surplus that repeats, those of another stream.
NOT_DECORD = {"av1.mp4", "odd.webm", "two_streams.mp4", "edited.mp4", "ten_bits.mp4"}
# Where the judge's frames are not OpenCV's: it seeks by time, or cannot decode.
NOT_OPENCV = {"av1.mp4", "variable.mp4"}


def all_frames(name: str) -> list[np.ndarray]:
    return list(Video(READERS / name).frames(ALL_FRAMES))


def test_every_file_is_looked_at() -> None:
    assert {path.name for path in READERS.iterdir() if path.suffix != ".json"} == set(SAID)
    assert set(SAID) <= set(OFFICIAL)


@pytest.mark.parametrize("name", SAID)
def test_what_is_unusual_is_said(name: str) -> None:
    remarks = Video(READERS / name).remarks
    assert len(remarks) == len(SAID[name])
    for remark, part in zip(remarks, SAID[name], strict=True):
        assert part in remark


@pytest.mark.parametrize("name", sorted(set(SAID) - NOT_DECORD))
def test_frames_are_those_of_decord(name: str) -> None:
    assert [crc(frame) for frame in all_frames(name)] == OFFICIAL[name]["decord_rgb_crc32"]


def test_more_than_eight_bits_are_those_of_decord_but_for_its_last_row() -> None:
    frames = all_frames("ten_bits.mp4")
    assert [crc(frame[:-1]) for frame in frames] == OFFICIAL["ten_bits.mp4"]["decord_rgb_crc32_but_last_row"]


def test_an_edit_list_hides_what_it_hides_and_nothing_is_repeated() -> None:
    """decord returns the shown frames, and then the last of them again for each hidden one."""
    frames = [crc(frame) for frame in all_frames("edited.mp4")]
    official = OFFICIAL["edited.mp4"]["decord_rgb_crc32"]
    assert (len(frames), len(official)) == (30, 36)
    assert official == frames + [frames[-1]] * 6


@pytest.mark.parametrize("name", sorted(set(SAID) - NOT_OPENCV))
def test_the_judge_sees_what_opencv_4_11_decodes(name: str) -> None:
    """Every file as BT.601, whatever its tag, and unturned; reads past the end are skipped."""
    official = [digest for digest in OFFICIAL[name]["opencv_bgr_crc32"] if digest is not None]
    frames = Video(READERS / name).frames(stride_frames(16))
    assert [crc(frame_HWC[..., ::-1]) for frame_HWC in frames] == official


def test_the_judges_jpegs_of_a_real_clip_tagged_bt709_are_the_official_ones(shared: Path) -> None:
    from refbench.metrics.naturalscore import judge_jpegs

    name = "gm1252760410-365677148_part2.mp4"
    video = Video(shared / "data/opens2v_5m_demo/videos/dataset1" / name)
    assert [zlib.crc32(jpeg) for jpeg in judge_jpegs(video)] == OFFICIAL[name]["jpeg_crc32"]
    assert [crc(frame) for frame in video.frames(ALL_FRAMES)] == OFFICIAL[name]["decord_rgb_crc32"]
    assert video.remarks == ()


def test_files_of_our_own_and_of_the_benchmark_are_ordinary(
    make_clip: Callable[..., Path], shared: Path
) -> None:
    assert Video(make_clip(fps=12.5)).remarks == ()
    assert Video(make_clip(frames=1)).remarks == ()
    assert Video(make_clip(width=63, height=47)).remarks == ()
    for path in (shared / "data/opens2v_eval/videos").glob("*.mp4"):
        assert Video(path).remarks == ()


def test_an_angle_that_is_no_quarter_is_not_rounded(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "tilted.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(60)
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = Video(tmp_path / "tilted.mp4")
    assert next(video.frames(ALL_FRAMES)).shape == (48, 64, 3)
    assert (video.probe.width, video.glance.width) == (64, 64)
    assert video.remarks == ("turned by no quarter by its header: left as stored, as decord does",)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        _ = Video(tmp_path / "song.mp4").probe


@pytest.fixture
def unusual_videos(videos: Path) -> Path:
    """The six clips of the small data set, one of them interlaced."""
    shutil.copyfile(READERS / "interlaced.mp4", videos / "singleobj_1.mp4")
    return videos


def test_records_plan_and_run_say_it(
    unusual_videos: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated() -> Any:
        return evaluate(
            unusual_videos, dataset=dataset, name="m", metrics="motion-amplitude", out=tmp_path / "results"
        )

    done = evaluated()
    sentence = "interlaced: read without separating the fields, as decord does"
    assert done.plan.remarks == [f"singleobj_1: {sentence}"]
    assert f"singleobj_1: {sentence}" in capsys.readouterr().err
    details = {record.sample: record.details for record in done.records}
    assert details.pop("singleobj_1")["reading"] == [sentence]
    # Of ordinary files the record is what it always was.
    assert all(set(others) == {"pairs", "mean_flow_magnitude"} for others in details.values())
    assert not evaluated().plan.jobs


def test_a_record_from_before_is_made_again_where_the_file_is_unusual(
    unusual_videos: Path, dataset: Path, tmp_path: Path
) -> None:
    """Its pixels may have been others then; the records of ordinary files stay current."""
    first = evaluate(
        unusual_videos, dataset=dataset, name="m", metrics="motion-amplitude", out=tmp_path / "results"
    )
    older = []
    for record in read_records(first.store):
        content = json.loads(record.model_dump_json())
        content["details"].pop("reading", None)
        older.append(json.dumps(content))
    first.store.write_text("\n".join(older) + "\n")
    plan = PreparedEvaluation(first_again(unusual_videos, dataset, tmp_path)).plan()
    assert [job.sample.id for job in plan.jobs] == ["singleobj_1"]
    assert plan.per_metric["motion-amplitude"].cached == 5


def first_again(videos: Path, dataset: Path, folder: Path) -> Any:
    """The same evaluation, to be planned."""
    from refbench.bench.dataset import as_track
    from refbench.bench.runner.evaluate import Evaluation

    return Evaluation(
        videos=videos,
        track=as_track("open-domain", dataset),
        name="m",
        metrics="motion-amplitude",
        out=folder / "results",
    )


def test_a_reference_of_sixteen_bits_is_said_by_metrics_that_see_it(
    videos: Path, dataset: Path, plugin: Path, tmp_path: Path
) -> None:
    from PIL import Image

    deep = np.full((32, 24), 30_000, np.uint16)
    Image.fromarray(deep).save(dataset / "Images/singleobject/cup/1.png")
    done = evaluate(
        videos,
        dataset=dataset,
        name="m",
        metrics="dummy-brightness,motion-amplitude",
        plugins=[plugin],
        out=tmp_path / "results",
    )
    saying = {(record.sample, record.metric) for record in done.records if record.reading}
    assert saying == {("singleobj_1", "dummy-brightness")}
    (remark,) = done.plan.remarks
    assert remark.startswith("singleobj_1: reference Images/singleobject/cup/1.png: grey of more than 8 bits")


def test_smooth_chroma_moves_colours_at_edges_and_nothing_grey(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    grey = np.repeat(chance.integers(0, 256, (3, 24, 32, 1), dtype=np.uint8), 3, axis=3)
    coloured = np.full((3, 24, 32, 3), 60, np.uint8)
    coloured[:, :, 15:] = (200, 30, 90)

    def largest_difference(images: np.ndarray) -> int:
        write_video(tmp_path / "a.mp4", images, 8, crf=10)
        policies = [
            FramePolicy(name="all", indices=None, reader=reader)
            for reader in (Reader.DECORD, Reader.SMOOTH_CHROMA)
        ]
        plain, smooth = (
            np.array(list(Video(tmp_path / "a.mp4").frames(policy)), dtype=int) for policy in policies
        )
        assert plain.shape == smooth.shape == images.shape
        return int(np.abs(plain - smooth).max())

    assert largest_difference(grey) <= 2
    assert largest_difference(coloured) > 10
