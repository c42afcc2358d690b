"""The decoder and the writer: official frame rules, hostile files, bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.clips import moving_square
from refbench.bench.errors import SampleError
from refbench.bench.video import (
    ALL_FRAMES,
    Probe,
    Video,
    VideoError,
    stride_frames,
    uniform_frames,
    write_video,
)

DEMO_VIDEOS = ("faceobj_14.mp4", "singleface_3.mp4")


@pytest.mark.parametrize("name", DEMO_VIDEOS)
def test_frames_equal_what_the_official_scripts_decode(
    name: str, shared: Path, golden: Callable[[str], Any]
) -> None:
    goldens = golden("opens2v_eval/natural.json")
    video = Video(shared / "data/opens2v_eval/videos" / name)
    assert video.digest == goldens[name]["file_sha256"]
    probe = video.probe
    assert (probe.width, probe.height, probe.frames, probe.fps) == (832, 480, 69, 15.0)
    uniform = [zlib.crc32(frame) for frame in video.frames(uniform_frames(32))]
    assert uniform == goldens["imageio_32"]["videos"][name]["rgb_crc32"]
    strided = [
        zlib.crc32(np.ascontiguousarray(frame[..., ::-1])) for frame in video.frames(stride_frames(16))
    ]
    assert strided == goldens[name]["full_size_bgr_crc32"]


def test_uniform_indices_equal_the_official_ones(golden: Callable[[str], Any]) -> None:
    rule = uniform_frames(32).indices
    assert rule is not None
    for count, expected in golden("opens2v_eval/aesthetic.json")["frame_indices_32"].items():
        assert list(rule(int(count), 0)) == expected


def test_stride_indices_and_short_videos(
    golden: Callable[[str], Any], make_clip: Callable[..., Path]
) -> None:
    rule = stride_frames(16).indices
    assert rule is not None
    for case in golden("opens2v_eval/natural.json")["short_videos"]:
        assert list(rule(0, case["cv2_frame_count"])) == case["asked"]
        clip = make_clip(frames=case["n_frames_in_the_file"])
        assert len(list(Video(clip).frames(stride_frames(16)))) == case["frames_returned"]


@given(st.integers(1, 400), st.integers(1, 64))
def test_uniform_indices_are_ascending_and_inside(frames: int, count: int) -> None:
    rule = uniform_frames(count).indices
    assert rule is not None
    indices = list(rule(frames, 0))
    assert len(indices) == count
    assert indices == sorted(indices)
    assert indices[0] == 0
    assert indices[-1] == (frames - 1 if count > 1 else 0)


def test_chosen_frames_are_those_of_the_whole_video(make_clip: Callable[..., Path]) -> None:
    video = Video(make_clip(frames=7))
    everything = list(video.frames(ALL_FRAMES))
    assert len(everything) == video.probe.frames == video.probe.declared_frames == 7
    rule = uniform_frames(16)
    assert rule.indices is not None
    for image, index in zip(video.frames(rule), rule.indices(7, 7), strict=True):
        assert np.array_equal(image, everything[index])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    frames = list(moving_square(frames=5))
    written = write_video(tmp_path / "a.mp4", frames, 12.5, crf=1)
    video = Video(tmp_path / "a.mp4")
    assert (written.width, written.height, written.frames, written.note) == (64, 48, 5, None)
    assert video.probe.fps == 12.5
    assert video.probe.codec == "h264"
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    smooth = [np.full((48, 64, 3), 40 * index, np.uint8) for index in range(5)]
    write_video(tmp_path / "b.mp4", smooth, 8, crf=1)
    for image, original in zip(Video(tmp_path / "b.mp4").frames(ALL_FRAMES), smooth, strict=True):
        assert np.abs(image.astype(int) - original).max() <= 3


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    """Also where memory lies differently each time, which x264's floating-point parts would notice."""
    contents = set()
    generator = np.random.default_rng(0)
    for attempt in range(8):
        clutter = [bytes(int(size)) for size in generator.integers(1_000, 300_000, 20)]
        write_video(tmp_path / f"{attempt}.mp4", moving_square(frames=12, height=96, width=160), 16)
        contents.add((tmp_path / f"{attempt}.mp4").read_bytes())
        del clutter
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("width", "height", "padded"), [(63, 47, (1, 1)), (63, 48, (1, 0)), (64, 47, (0, 1))]
)
def test_odd_sizes_are_padded_by_one_pixel_and_said(
    tmp_path: Path, width: int, height: int, padded: tuple[int, int]
) -> None:
    written = write_video(tmp_path / "odd.mp4", moving_square(width=width, height=height), 8)
    assert written.padded == padded
    assert "padded" in str(written.note)
    probe = Video(tmp_path / "odd.mp4").probe
    assert (probe.width, probe.height) == (width + padded[0], height + padded[1])


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        ([], 8, "no frames"),
        ([np.zeros((4, 4, 3), np.float32)], 8, "not uint8"),
        ([np.zeros((4, 4), np.uint8)], 8, "not uint8"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((8, 4, 3), np.uint8)], 8, "the first had"),
        ([np.zeros((4, 4, 3), np.uint8)], 0, "frame rate"),
        ([np.zeros((4, 4, 3), np.uint8)], float("nan"), "frame rate"),
    ],
)
def test_frames_that_cannot_be_written(tmp_path: Path, frames: list[Any], fps: float, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        write_video(tmp_path / "a.mp4", frames, fps)


def _audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_files_without_pictures_have_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "folder.mp4").mkdir()
    _audio_only(tmp_path / "audio.mp4")
    for name, message in (
        ("empty.mp4", "is empty"),
        ("text.mp4", "cannot be decoded"),
        ("list.mp4", "cannot be decoded"),
        ("folder.mp4", "cannot be decoded"),
        ("audio.mp4", "no video stream"),
        ("absent.mp4", "cannot be decoded"),
    ):
        for look in (lambda video: video.probe, lambda video: list(video.frames(ALL_FRAMES))):
            with pytest.raises(VideoError, match=message):
                look(Video(tmp_path / name))


def test_a_header_without_frames_has_a_reason(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "zero.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    with pytest.raises(VideoError):
        _ = Video(tmp_path / "zero.mp4").probe


def test_truncated_files_are_an_error_not_a_shorter_video(make_clip: Callable[..., Path]) -> None:
    clip = make_clip(frames=30, height=96, width=128)
    content = clip.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        clip.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(VideoError):
            list(Video(clip).frames(ALL_FRAMES))


def test_a_stored_rotation_is_applied_as_players_do(tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 255
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    video = Video(tmp_path / "turned.mp4")
    assert (video.probe.width, video.probe.height) == (48, 64)
    frame = next(video.frames(ALL_FRAMES))
    assert frame.shape == (64, 48, 3)
    # 90 degrees counter-clockwise: the bright left half becomes the lower half.
    assert frame[:20].mean() < 20
    assert frame[-20:].mean() > 235


def test_variable_rates_neither_repeat_nor_drop_frames(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "variable.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, image in enumerate(moving_square(frames=9)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = index * index * 40
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = Video(tmp_path / "variable.mp4")
    assert video.probe.frames == 9
    assert len(list(video.frames(ALL_FRAMES))) == 9


def test_too_large_frames_are_refused_before_they_are_converted(
    make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refbench.bench.video.LARGEST_FRAME_PIXELS", 64 * 48 - 1)
    with pytest.raises(VideoError, match="too large"):
        list(Video(make_clip()).frames(ALL_FRAMES))


def test_frames_are_bounded_by_pixels_times_frames_held(
    make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that lets its user hold 32 frames is refused what one of a single frame may have."""
    clip = make_clip(frames=3)
    monkeypatch.setattr("refbench.bench.video.LARGEST_HELD_PIXELS", 31 * 64 * 48)
    monkeypatch.setattr(Video, "_decoded", lambda *_: pytest.fail("the header alone must tell"))
    facts = Probe(width=64, height=48, frames=3, declared_frames=3, fps=8.0, codec="h264")
    monkeypatch.setattr(Video, "probe", facts)
    for policy in (ALL_FRAMES, uniform_frames(32)):
        with pytest.raises(VideoError, match="64×48 pixels are too large to hold 32 of them; scale"):
            list(Video(clip).frames(policy))
    monkeypatch.undo()
    assert len(list(Video(clip).frames(stride_frames(16)))) == 3


def test_a_video_of_8000_by_8000_pixels_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """184 KB that took 5.7 GB."""
    monkeypatch.setattr(Video, "_decoded", lambda *_: pytest.fail("the header alone must tell"))
    video = Video(Path(__file__).parents[1] / "files/hostile/8000x8000.mp4")
    for look in (lambda: video.probe, lambda: video.glance, lambda: list(video.frames(ALL_FRAMES))):
        with pytest.raises(VideoError, match="8000×8000 pixels are too large; scale the video down"):
            look()


def test_only_regular_files_of_a_videos_size_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of these may be waited for, read to its end, or hashed."""
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    (tmp_path / "folder.mp4").mkdir()
    with (tmp_path / "sparse.mp4").open("wb") as file:
        file.truncate(200 * 10**9)
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("it must not be hashed"))
    for name, message in (
        ("pipe.mp4", "it is a named pipe, not a file"),
        ("zero.mp4", "it is a device, not a file"),
        ("folder.mp4", "it is a folder, not a file"),
        ("sparse.mp4", "it is larger than 8 GiB"),
        ("absent.mp4", "it does not exist"),
    ):
        video = Video(tmp_path / name)
        looks: list[Callable[[], object]] = [
            lambda video=video: video.digest,
            lambda video=video: video.probe,
            lambda video=video: video.glance,
            lambda video=video: video.remarks,
            lambda video=video: list(video.frames(ALL_FRAMES)),
        ]
        for look in looks:
            with pytest.raises(VideoError, match=f"the video cannot be decoded: {message}"):
                look()


def test_endless_files_end(make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refbench.bench.video.LARGEST_FRAME_COUNT", 5)
    with pytest.raises(VideoError, match="more than 5 frames"):
        _ = Video(make_clip(frames=6)).probe


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_long_video_is_never_held_whole(tmp_path: Path) -> None:
    """600 frames of 640×480 are 550 MB as RGB; reading them all may add 80 MB."""
    write_video(tmp_path / "long.mp4", (np.full((480, 640, 3), i % 255, np.uint8) for i in range(600)), 30)
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from refbench.bench.video import ALL_FRAMES, Video, uniform_frames\n"
        # Not ru_maxrss: of a started process it includes the parent's memory.
        "def peak():\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "video = Video(Path(sys.argv[1]))\n"
        "next(iter(video.frames(ALL_FRAMES)))\n"
        "before = peak()\n"
        "assert sum(1 for _ in video.frames(ALL_FRAMES)) == 600\n"
        "assert sum(1 for _ in video.frames(uniform_frames(500))) == 500\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "long.mp4")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 80 * 1024
