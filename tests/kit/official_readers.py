"""Writes `tests/files/readers`: small unusual videos, and what the official scripts' readers return of them.

`python official_readers.py files FOLDER` writes the videos and needs PyAV. `python official_readers.py
digests FOLDER` writes `official.json` and needs decord 0.6.0 and OpenCV 4.11.0, which do not go together with
this project's packages:

    pip install decord==0.6.0 opencv-python-headless==4.11.0.86 'numpy<2'

Videos given after the folder are digested as well, under their names.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT, FRAMES, RATE = 96, 64, 36, 24
TICK = Fraction(1, 12288)
# FFmpeg's numbers: BT.709 and full range.
BT709, FULL_RANGE = 1, 2
ONE, LAST = 1 << 16, 1 << 30
SAR = Fraction(4, 3)


def picture(index: int, width: int, height: int) -> np.ndarray:
    """Colours with edges that move: what a shift of the chroma by half a pixel changes."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([(3 * x + 5 * index) % 256, (4 * y + 2 * index) % 256, (x + y) % 256], -1)
    image[8:20, (5 + index) % 40 : (5 + index) % 40 + 12] = (255, 20, 30)
    image[30:40, 4 : 6 + index] = (0, 200, 30)
    return image.astype(np.uint8)


def write(
    path: Path,
    codec: str = "libx264",
    layout: str = "yuv420p",
    options: dict[str, str] | None = None,
    prepare: Callable[[Any], object] = lambda stream: None,
    pts: Callable[[int], int] = lambda index: 512 * index,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    frames: int = FRAMES,
    streams: int = 1,
) -> None:
    """One small video; the second of two streams is larger than the first."""
    import av

    with av.open(str(path), "w") as container:
        made = []
        for number in range(streams):
            stream: Any = container.add_stream(codec, rate=RATE)
            stream.width, stream.height = size[0] * (number + 1), size[1] * (number + 1)
            stream.pix_fmt = layout
            stream.options = {"crf": "24"} if options is None else options
            stream.codec_context.thread_count = 1
            stream.codec_context.time_base = TICK
            prepare(stream)
            made.append(stream)
        for index in range(frames):
            for stream in made:
                rgb = av.VideoFrame.from_ndarray(picture(index, stream.width, stream.height), format="rgb24")
                frame = rgb.reformat(format=layout)
                frame.pts, frame.time_base = pts(index), TICK
                container.mux(stream.encode(frame))
        for stream in made:
            container.mux(stream.encode(None))


def colours(space: int, range_: int = 1) -> Callable[[Any], None]:
    """Tags the stream."""

    def prepare(stream: Any) -> None:
        stream.codec_context.colorspace = space
        stream.codec_context.color_range = range_

    return prepare


def patched(source: Path, target: Path, box: bytes, offset: int, form: str, *values: int) -> None:
    """A copy of an mp4 with other numbers in one box."""
    content = bytearray(source.read_bytes())
    struct.pack_into(form, content, content.index(box) + offset, *values)
    target.write_bytes(content)


def write_files(folder: Path) -> None:
    """All videos, each unusual in one way."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "plain.mp4"
    write(plain)
    write(folder / "bt709.mp4", prepare=colours(BT709))
    write(folder / "bt709_full_range.mp4", prepare=colours(BT709, FULL_RANGE))
    write(folder / "ten_bits.mp4", layout="yuv420p10le")
    write(folder / "ten_bits_422_bt709.mp4", layout="yuv422p10le", prepare=colours(BT709))
    write(folder / "interlaced.mp4", options={"crf": "24", "x264-params": "tff=1"})
    write(folder / "turned.mp4", prepare=lambda stream: stream.set_display_rotation(90))
    write(folder / "not_square.mp4", prepare=lambda stream: setattr(stream, "sample_aspect_ratio", SAR))
    write(folder / "variable.mp4", options={"crf": "24", "g": "6"}, pts=lambda index: 40 * index * index)
    write(folder / "two_streams.mp4", streams=2)
    write(folder / "odd.webm", codec="libvpx-vp9", size=(95, 63), options={"crf": "30"})
    write(folder / "av1.mp4", codec="libsvtav1", options={"crf": "40", "preset": "8"})
    write(folder / "transparent.mov", codec="qtrle", layout="argb", options={}, size=(32, 16), frames=4)
    # The matrix of tkhd and the media time of elst (both of version 0).
    mirror = (-ONE, 0, 0, 0, ONE, 0, WIDTH * ONE, 0, LAST)
    patched(plain, folder / "mirrored.mp4", b"tkhd", 44, ">9i", *mirror)
    patched(plain, folder / "edited.mp4", b"elst", 16, ">i", 1024 + 6 * 512)
    whole = folder / "cut.mkv"
    write(whole)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])


def decord_frames(path: Path) -> list[np.ndarray] | str:
    """All frames as the official scripts read them, or the error."""
    import decord

    try:
        reader = decord.VideoReader(str(path))
        return [reader[index].asnumpy() for index in range(len(reader))]
    except decord.DECORDError as error:
        return str(error).strip().splitlines()[-1][-80:]


def opencv_frames(path: Path, count: int = 16) -> list[np.ndarray | None]:
    """What the judge's script reads: BGR, None for a read that fails."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    stride = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // count, 1)
    frames = []
    for index in range(count):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index * stride)
        there, frame = capture.read()
        frames.append(frame if there else None)
    return frames


def judge_jpeg(bgr: np.ndarray) -> bytes:
    """The picture that the judge's script sends."""
    import cv2

    height, width = bgr.shape[:2]
    size = (int(width * 512 / height), 512) if height >= width else (512, int(height * 512 / width))
    return bytes(cv2.imencode(".jpg", cv2.resize(bgr, size, interpolation=cv2.INTER_AREA))[1].tobytes())


def crc(array: np.ndarray | bytes) -> int:
    """CRC-32 of the contiguous bytes."""
    return zlib.crc32(array if isinstance(array, bytes) else np.ascontiguousarray(array))


def digests_of(path: Path) -> dict[str, Any]:
    """CRC-32 of what both readers return; `but_last_row` of decord's frames without it."""
    decord_made = decord_frames(path)
    opencv_made = opencv_frames(path)
    readable = [frame for frame in opencv_made if frame is not None]
    digests: dict[str, Any] = {"opencv_bgr_crc32": [None if f is None else crc(f) for f in opencv_made]}
    digests["jpeg_crc32"] = [crc(judge_jpeg(frame)) for frame in readable]
    if isinstance(decord_made, str):
        return {"decord_error": decord_made, **digests}
    digests["decord_rgb_crc32"] = [crc(frame) for frame in decord_made]
    digests["decord_rgb_crc32_but_last_row"] = [crc(frame[:-1]) for frame in decord_made]
    return digests


def main() -> None:
    """See the docstring of the module."""
    what, folder, *others = sys.argv[1], Path(sys.argv[2]), *map(Path, sys.argv[3:])
    if what == "files":
        write_files(folder)
        return
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in (".mp4", ".mkv", ".mov", ".webm")]
    content = {path.name: digests_of(path) for path in (*paths, *others)}
    (folder / "official.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
