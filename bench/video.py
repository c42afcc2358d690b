"""Videos: the one decoder and the one writer of the project, on PyAV.

Frames are RGB uint8 arrays of shape (height, width, 3), in decoding order, exactly as many as the file shows:
none is repeated or dropped for a variable frame rate. Their pixels are those of decord, which the official
scripts read with, and for the judge's frames those of OpenCV 4.11 (`bench/reading.py`); where they are not,
`Video.remarks` and `docs/reading.md` say so.

A file is hostile until decoded: only regular files and plain containers are opened, never a playlist or a
URL; decoding uses one thread so that a damaged file gives the same answer everywhere; frames are held one at
a time, or within a budget where several readers share them (`streams.SharedStream`), and what a reader may
hold of them is bounded by the size in the header, before memory is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from refbench.bench.errors import SampleError, UserError, one_line, system_reason
from refbench.bench.files import regular_size
from refbench.bench.reading import (
    CUT_OFF,
    Reader,
    RgbConverter,
    StoredFrame,
    picture_streams,
    shown_size,
    unusual,
)
from refbench.bench.streams import Budget, SharedStream, read_ahead

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
# No video of a benchmark comes near it; 200 GB of nothing are not hashed.
LARGEST_VIDEO_BYTES = 8 * 2**30
# One frame: 8K.
LARGEST_FRAME_PIXELS = 7680 * 4320
# All frames that a policy lets its user hold: 32 frames of 4K are 0.9 GB as RGB.
LARGEST_HELD_PIXELS = 32 * 4096 * 2304
LARGEST_FRAME_COUNT = 2_000_000
# What a held frame takes beside its samples; measured on frames of 16×16 pixels: 5,600 bytes.
HELD_FRAME_EXTRA_BYTES = 8192

DEFAULT_CRF = 18


class VideoError(SampleError):
    """A file that cannot be decoded, with the reason in one line."""


@dataclass(frozen=True, kw_only=True)
class FramePolicy:
    """A named rule that says which frames of a video are looked at.

    `indices` maps (frames decoded, frames declared by the container) to ascending indices, repeats allowed;
    None stands for all frames. An index past the end of the file is skipped. `held` is the number of frames
    that its user may have in memory at once, `reader` whose pixels they have.
    """

    name: str
    indices: Callable[[int, int], Sequence[int]] | None
    held: int = 1
    reader: Reader = Reader.DECORD


# Optical flow takes as much memory per pixel as 32 frames.
ALL_FRAMES = FramePolicy(name="all", indices=None, held=32)


def uniform_frames(count: int) -> FramePolicy:
    """`linspace(0, n-1, count)` truncated to int over the n decoded frames; a shorter video repeats frames.

    The rule of FaceSim, GmeScore, NexusScore and Aesthetics with 32 frames (OpenS2V-Nexus v1.1, `eval/`).
    """

    def indices(decoded: int, declared: int) -> Sequence[int]:
        chosen: list[int] = np.linspace(0, decoded - 1, count).astype(int).tolist()
        return chosen

    return FramePolicy(name=f"uniform-{count}", indices=indices, held=count)


def stride_frames(count: int) -> FramePolicy:
    """Frames 0, s, 2s, … with s = max(n // count, 1) and n the container's frame count; missing ones are
    skipped.

    NaturalScore's rule with 16 frames (`eval/get_naturalscore.py`): frames after (count-1)·s are never seen,
    and a video of fewer frames gives fewer images. The pixels are those of OpenCV 4.11, that script's reader:
    every file is BT.601 and a stored turn is not applied. Where the frame rate varies, OpenCV seeks by time,
    past frames and back; here frame i·s is the one with that number.
    """

    def indices(decoded: int, declared: int) -> Sequence[int]:
        stride = max(declared // count, 1)
        return [index * stride for index in range(count)]

    return FramePolicy(name=f"stride-{count}", indices=indices, held=count, reader=Reader.OPENCV)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Facts about a video: size in pixels as shown, frames really decoded, frames the container declares.

    `fps` is 0 where the file names none.
    """

    width: int
    height: int
    frames: int
    declared_frames: int
    fps: float
    codec: str


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What the header of an opened file says: the size of a stored frame in pixels."""

    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What a container says once it is read to its end; see `Probe`."""

    declared_frames: int
    fps: float
    codec: str


class Video:
    """One video file, decoded on demand; with `ahead`, a thread makes so many frames before they are asked
    for.

    With a `budget` the file is decoded once, and what the decoder gave is held within the budget for
    everything that is read of it, until the video is closed.
    """

    def __init__(self, path: Path, ahead: int = 0, budget: Budget | None = None) -> None:
        self.path = path
        self._ahead = ahead
        self._facts: _Facts | None = None
        self._shared = None if budget is None else SharedStream(self._decode, _held_bytes, budget)
        # A frame that is converted is changed meanwhile.
        self._converting = Lock()

    def __repr__(self) -> str:
        return f"Video({self.path.name})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file. Raises VideoError when it cannot be read, is no regular file or too large."""
        self._size()
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise VideoError(f"the video cannot be read: {one_line(error.strerror)}") from None

    @cached_property
    def probe(self) -> Probe:
        """Decode the whole file once, keeping no frame, and say what it holds.

        Raises VideoError for a file that is no video, is damaged, or holds no frame.
        """
        width = height = frames = 0
        for frame in self._stored(held=1):
            if frames == 0:
                width, height = shown_size(frame)
            frames += 1
        if frames == 0:
            raise VideoError("the video holds no frame")
        assert self._facts is not None, "it was read to its end"
        return Probe(
            width=width,
            height=height,
            frames=frames,
            declared_frames=self._facts.declared_frames,
            fps=self._facts.fps,
            codec=self._facts.codec,
        )

    @cached_property
    def glance(self) -> Probe:
        """What the container says and its first frame shows, without decoding the rest: as `probe`, but
        `frames` are those that are declared. Raises VideoError as `probe` does, not for later damage.
        """
        with self._opened() as (container, stream):
            frame = next(iter(self._decoded(container, stream)), None)
            if frame is None:
                raise VideoError("the video holds no frame")
            width, height = shown_size(frame)
            frames = _declared_frames(container, stream)
            fps = float(stream.average_rate or 0)
            return Probe(
                width=width,
                height=height,
                frames=frames,
                declared_frames=frames,
                fps=fps,
                codec=stream.codec_context.name,
            )

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """What is unusual about the file, in sentences: how it is read, and where that is not official.

        Empty for an ordinary file. Cheap: packets are counted, and one frame is decoded. Raises VideoError
        for a file that cannot be opened or shows no frame.
        """
        with self._opened() as (container, stream):
            stored = []
            first = None
            for packet in container.demux(stream):
                # The last packet is empty: it asks the decoder for what it still holds.
                if packet.size:
                    stored.append(StoredFrame.of(packet))
                if len(stored) > LARGEST_FRAME_COUNT:
                    raise VideoError(f"the video has more than {LARGEST_FRAME_COUNT:,} frames")
                if first is None:
                    first = next(iter(packet.decode()), None)
            if first is None:
                raise VideoError("the video holds no frame")
            return unusual(container, stream, first, stored)

    @property
    def missing_end(self) -> str | None:
        """The remark on a file whose frames end before its header says; None for a whole one."""
        return next((remark for remark in self.remarks if remark.endswith(CUT_OFF)), None)

    def frames(self, policy: FramePolicy) -> Iterator[np.ndarray]:
        """The frames that `policy` names, in order, as RGB uint8 (height, width, 3); one is held at a time.

        Raises VideoError, possibly after some frames, for a file that is damaged or changes its frame size,
        and before the first where so many frames of its size would not fit into memory.
        """
        chosen = self._chosen(policy)
        return read_ahead(chosen, self._ahead) if self._ahead else chosen

    def begin(self, after: Video | None = None) -> None:
        """Where decoded frames are shared, decode the file in a thread, once `after` is decoded or closed."""
        if self._shared is not None:
            self._shared.begin(None if after is None else after._shared)

    def close(self) -> None:
        """Let go of the shared frames; what is read after that is decoded for its reader."""
        if self._shared is not None:
            self._shared.close()

    def _chosen(self, policy: FramePolicy) -> Iterator[np.ndarray]:
        if policy.indices is None:
            yield from self._pixels(None, policy)
            return
        probe = self.probe
        wanted = list(policy.indices(probe.frames, probe.declared_frames))
        position = 0
        for index, image in self._numbered(set(wanted), policy):
            while position < len(wanted) and wanted[position] == index:
                yield image
                position += 1
            if position == len(wanted):
                return

    def _numbered(self, wanted: set[int], policy: FramePolicy) -> Iterator[tuple[int, np.ndarray]]:
        yield from zip(sorted(wanted), self._pixels(wanted, policy), strict=False)

    def _pixels(self, wanted: set[int] | None, policy: FramePolicy) -> Iterator[np.ndarray]:
        size: tuple[int, ...] = ()
        converter = RgbConverter(policy.reader)
        empty = True
        for index, frame in enumerate(self._stored(policy.held)):
            empty = False
            if wanted is not None and index not in wanted:
                continue
            with _faults_said(), self._converting:
                image = converter.rgb(frame)
            if size and image.shape != size:
                raise VideoError(f"the frame size changes at frame {index}")
            size = image.shape
            yield image
        if empty:
            raise VideoError("the video holds no frame")

    def _stored(self, held: int) -> Iterator[Any]:
        """The decoded frames: the shared ones, or decoded for this reader, who may hold so many of them."""
        items: Iterator[Any] = self._decode() if self._shared is None else iter(self._shared)
        opened = next(items)
        _check_size(opened.width, opened.height, held)
        yield from items

    def _decode(self) -> Generator[Any, None, None]:
        """Decode the file: its header as `_Opened`, then the frames, as PyAV gives them."""
        with self._opened() as (container, stream):
            yield _Opened(width=stream.codec_context.width, height=stream.codec_context.height)
            yield from self._decoded(container, stream)
            self._facts = _Facts(
                declared_frames=_declared_frames(container, stream),
                fps=float(stream.average_rate or 0),
                codec=stream.codec_context.name,
            )

    def _size(self) -> int:
        try:
            return regular_size(self.path, LARGEST_VIDEO_BYTES)
        except UserError as error:
            fault = str(error).removeprefix(f"{self.path} ")
            raise VideoError(f"the video cannot be decoded: it {fault}") from None

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        import av

        if self._size() == 0:
            raise VideoError("the video file is empty")
        # FFmpeg decodes a few frames to learn of the streams, and a frame may be larger than the header says.
        bound = {"max_pixels": str(LARGEST_FRAME_PIXELS)}
        # As an open file, a name such as "concat:…" is never read as a protocol.
        with (
            _faults_said(),
            self.path.open("rb") as file,
            av.open(
                file, options={"format_whitelist": CONTAINERS, **bound}, metadata_errors="replace"
            ) as container,
        ):
            streams = picture_streams(container)
            if not streams:
                raise VideoError("the file has no video stream")
            stream = streams[0]
            context = stream.codec_context
            if context is None:
                raise VideoError("the video's codec is unknown")
            _check_size(context.width, context.height, 1)
            context.thread_count = 1
            context.options = bound
            yield container, stream

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        for index, frame in enumerate(container.decode(stream)):
            if index >= LARGEST_FRAME_COUNT:
                raise VideoError(f"the video has more than {LARGEST_FRAME_COUNT:,} frames")
            _check_size(frame.width, frame.height, 1)
            if frame.is_corrupt:
                raise VideoError(f"the video is damaged at frame {index}")
            yield frame


def _held_bytes(item: Any) -> int:
    """What a held item of `Video._decode` takes: the samples of a frame as they are stored, and the rest."""
    if isinstance(item, _Opened):
        return 0
    samples: int = sum(plane.buffer_size for plane in item.planes)
    return HELD_FRAME_EXTRA_BYTES + samples


@contextmanager
def _faults_said() -> Iterator[None]:
    """Turns what decoding and converting raise into a VideoError."""
    import av

    try:
        yield
    except (av.FFmpegError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise VideoError(f"the video cannot be decoded: {system_reason(error)}") from None


def _check_size(width: int, height: int, held: int) -> None:
    """Raise VideoError where `held` frames of this size are too much for the memory."""
    pixels = width * height
    if pixels > LARGEST_FRAME_PIXELS:
        raise VideoError(f"frames of {width}×{height} pixels are too large; scale the video down")
    if pixels * held > LARGEST_HELD_PIXELS:
        raise VideoError(
            f"frames of {width}×{height} pixels are too large to hold {held} of them; scale the video down "
            f"to at most {LARGEST_HELD_PIXELS // held:,} pixels per frame"
        )


def _declared_frames(container: Any, stream: Any) -> int:
    """The container's frame count as OpenCV reports it: the header's, else duration × rate, rounded."""
    if stream.frames > 0:
        return int(stream.frames)
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (container.duration or 0) / 1_000_000
    return int(seconds * float(stream.average_rate or 0) + 0.5)


@dataclass(frozen=True, kw_only=True)
class WrittenVideo:
    """What was written: size in pixels and frame count; `padded` says how many columns and rows were
    added.
    """

    width: int
    height: int
    frames: int
    padded: tuple[int, int]

    @property
    def note(self) -> str | None:
        """A sentence about the padding, or None."""
        if self.padded == (0, 0):
            return None
        columns, rows = self.padded
        return f"odd size: padded by {columns} column and {rows} row to {self.width}×{self.height}"


@dataclass(frozen=True, kw_only=True)
class _Encoding:
    """A codec of x264, the layout that it stores, its own options, and what width and height are multiples
    of.
    """

    codec: str
    layout: str
    options: dict[str, str]
    multiple: int


def write_video(
    path: Path, images: Iterable[np.ndarray], fps: float, *, crf: int = DEFAULT_CRF
) -> WrittenVideo:
    """Write RGB uint8 frames (height, width, 3) as H.264, yuv420p, mp4, with a fixed quality (CRF).

    One encoder thread and no macroblock tree: the same frames give the same bytes. An odd width or height,
    which 4:2:0 cannot hold, is padded by repeating the last column or row. Raises SampleError for no frames,
    frames of another type or size, and a rate that is not positive.
    """
    # x264's macroblock tree adds floats in an order that follows memory alignment (the same frames gave five
    # files in fourteen runs).
    options = {"crf": str(crf), "preset": "medium", "mbtree": "0"}
    return _write(
        path, images, fps, _Encoding(codec="libx264", layout="yuv420p", options=options, multiple=2)
    )


def write_lossless_video(path: Path, images: Iterable[np.ndarray], fps: float) -> WrittenVideo:
    """As `write_video`, but every frame is read back as it was, whatever its size: H.264 in RGB.

    For copies of which only the frames matter: few players show them.
    """
    options = {"qp": "0", "preset": "ultrafast"}
    return _write(
        path, images, fps, _Encoding(codec="libx264rgb", layout="rgb24", options=options, multiple=1)
    )


def _write(path: Path, images: Iterable[np.ndarray], fps: float, encoding: _Encoding) -> WrittenVideo:
    import av

    rate = Fraction(fps).limit_denominator(1001) if 0 < fps < 10_000 else None
    if rate is None or rate <= 0:
        raise SampleError(f"a frame rate of {fps} cannot be written")
    size: tuple[int, ...] = ()
    padding = (0, 0)
    count = 0
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream(encoding.codec, rate=rate)
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise SampleError(
                    f"frame {count} is {image.dtype} {image.shape}, not uint8 (height, width, 3)"
                )
            if not size:
                size = image.shape
                padding = (size[1] % encoding.multiple, size[0] % encoding.multiple)
                stream.width, stream.height = size[1] + padding[0], size[0] + padding[1]
                stream.pix_fmt = encoding.layout
                stream.codec_context.thread_count = 1
                # x264's AVX-512 code differs from its C code.
                stream.options = {**encoding.options, "x264-params": "asm=MMX2,SSE2"}
            if image.shape != size:
                raise SampleError(f"frame {count} has shape {image.shape}, the first had {size}")
            padded = np.pad(image, ((0, padding[1]), (0, padding[0]), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))
            count += 1
        if count == 0:
            raise SampleError("the method returned no frames")
        container.mux(stream.encode(None))
    return WrittenVideo(width=size[1] + padding[0], height=size[0] + padding[1], frames=count, padded=padding)
