"""How decoded frames become RGB as in the readers of the official scripts, and which files are unusual.

OpenS2V-Nexus v1.1 reads videos with decord 0.6 (its own FFmpeg, 4.1) and, for NaturalScore, with OpenCV 4.11
(FFmpeg 5.1). On H.264 4:2:0 files of eight bits without a colour tag both give the same pixels; elsewhere
they do not. `docs/reading.md` lists every difference that is known; `tests/files/readers/` holds small files
with digests of what the two returned.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

# FFmpeg's numbers of transfer functions whose values mean more light than a screen of today shows.
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
ATTACHED_PICTURE = 0x400
# How the sentence on a file ends whose frames stop before its header says.
CUT_OFF = "it may be cut off"
# Chroma layouts of eight bits whose conversion changed between FFmpeg 4.1 and today's.
MOVED_LAYOUTS = ("yuv440p", "yuvj440p", "yuv410p")

# FFmpeg's own flags for a conversion that interpolates chroma and rounds to the nearest.
SMOOTH_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


class Reader(Enum):
    """Whose pixels are made: an official reader's, or those of a decoder that interpolates between the
    samples of colour, of which 4:2:0 has a quarter (FFmpeg with accurate rounding, torchcodec).
    """

    DECORD = "decord 0.6"
    OPENCV = "OpenCV 4.11"
    SMOOTH_CHROMA = "FFmpeg, chroma interpolated"


class RgbConverter:
    """Turns the decoded frames of one video into RGB arrays.

    Both readers convert interlaced frames as whole ones, which FFmpeg 8 would not do by itself. As decord, a
    stored turn is applied, colours follow the file's tag, and chroma of more than eight bits lies half a line
    low; as OpenCV 4.11, turn and tag are ignored: every file is BT.601. Smooth chroma is as decord otherwise.
    """

    def __init__(self, reader: Reader) -> None:
        from av.video.reformatter import VideoReformatter

        self._reader = reader
        # One for all frames: a frame that converts itself keeps the converter as long as it is held.
        self._reformatter = VideoReformatter()
        self._graph: Any = None
        self._graph_input: tuple[object, ...] = ()

    def rgb(self, frame: Any) -> np.ndarray:
        """The frame as RGB uint8 (height, width, 3), an array of its own."""
        image: np.ndarray
        if self._reader is Reader.OPENCV:
            from av.video.reformatter import Colorspace

            plain = self._filtered(frame, _progressive("unspecified"))
            bgr = self._reformatter.reformat(
                plain, format="bgr24", src_colorspace=Colorspace.ITU601, interpolation="BICUBIC"
            )
            image = bgr.to_ndarray()[..., ::-1]
        elif self._reader is Reader.SMOOTH_CHROMA:
            smooth = self._filtered(frame, ("scale", f"flags={SMOOTH_FLAGS}"), ("format", "pix_fmts=rgb24"))
            image = np.rot90(smooth.to_ndarray(), quarter_turns(frame))
        else:
            special = frame.interlaced_frame or bits_per_channel(frame) > 8
            plain = self._filtered(frame, _progressive("bottom")) if special else frame
            rgb = self._reformatter.reformat(plain, format="rgb24")
            image = rgb.to_ndarray()
            if rgb is plain:
                # Stored as RGB: the array lies in the frame, which others read too.
                image = image.copy()
            image = np.rot90(image, quarter_turns(frame))
        return np.ascontiguousarray(image)

    def _filtered(self, frame: Any, *filters: tuple[str, str]) -> Any:
        """The frame after these filters of FFmpeg, each a name with its arguments; a reader's are the same
        for all frames.
        """
        import av.filter

        form = (frame.width, frame.height, frame.format.name)
        if form != self._graph_input:
            self._graph, self._graph_input = av.filter.Graph(), form
            source = self._graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base or Fraction(1, 1000),
            )
            chain = [source, *(self._graph.add(*one) for one in filters), self._graph.add("buffersink")]
            for before, after in pairwise(chain):
                before.link_to(after)
            self._graph.configure()
        self._graph.push(frame)
        return self._graph.pull()


def _progressive(chroma_location: str) -> tuple[str, str]:
    """The filter that keeps the samples and says that the frame is progressive and where its chroma lies."""
    return "setparams", f"field_mode=prog:chroma_location={chroma_location}"


def shown_size(frame: Any) -> tuple[int, int]:
    """(width, height) in pixels after the stored turn."""
    turned = quarter_turns(frame) % 2 == 1
    return (frame.height, frame.width) if turned else (frame.width, frame.height)


def quarter_turns(frame: Any) -> int:
    """Stored turns counter-clockwise, 0 to 3; other angles are not applied, nor are mirrors."""
    turns = round(frame.rotation / 90)
    # The angle comes from a matrix and is cut to whole degrees.
    return turns % 4 if abs(frame.rotation - 90 * turns) <= 1 else 0


def bits_per_channel(frame: Any) -> int:
    """The most bits that a channel has."""
    return max((component.bits for component in frame.format.components), default=8)


@dataclass(frozen=True, kw_only=True)
class StoredFrame:
    """When a frame is shown and for how long, in seconds; None where the file does not say. `hidden`: an edit
    list leaves it out.
    """

    time: Fraction | None
    duration: Fraction
    hidden: bool

    @classmethod
    def of(cls, packet: Any) -> StoredFrame:
        """What a packet says of the frame in it."""
        return cls(
            time=None if packet.pts is None else packet.pts * packet.time_base,
            duration=(packet.duration or 0) * packet.time_base,
            hidden=packet.is_discard,
        )


def unusual(container: Any, stream: Any, first_frame: Any, stored: Sequence[StoredFrame]) -> tuple[str, ...]:
    """Sentences on what is read otherwise than in an ordinary file, or otherwise than officially.

    `stored` are all frames of the stream.
    """
    said = (
        _of_streams(container),
        _of_times(container, stream, stored),
        _of_pixels(first_frame),
        _of_display(stream, first_frame),
    )
    return tuple(sentence for part in said for sentence in part)


def _of_streams(container: Any) -> Iterator[str]:
    streams = picture_streams(container)
    if len(streams) > 1:
        yield f"{len(streams)} video streams: the first is read; decord takes the one of the higher bit rate"
    # Also the name of its decoder, libdav1d.
    if "av1" in streams[0].codec_context.name:
        yield "AV1, which the official readers cannot decode"


def _of_times(container: Any, stream: Any, stored: Sequence[StoredFrame]) -> Iterator[str]:
    shown = [frame for frame in stored if not frame.hidden]
    count = max(stream.frames, len(stored))
    if count != len(shown):
        yield (
            f"{count} frames are declared and {len(shown)} shown (an edit list, or a damaged index): these "
            "are read; decord counts the others too and repeats frames in their place"
        )
    times = sorted(frame.time for frame in shown if frame.time is not None)
    if len(times) < max(len(shown), 2):
        return
    steps = [later - earlier for earlier, later in pairwise(times)]
    # Two ticks: containers round times, Matroska to a thousandth of a second.
    if max(steps) - min(steps) > max(2 * stream.time_base, sum(steps) / len(steps) / 4):
        yield (
            "variable frame rate: each frame counts once, as for decord; the official judge's reader seeks "
            "by time and may show other frames"
        )
    # Matroska declares no number of frames; there a length that is not reached is all that tells.
    end = times[-1] + max(*steps, *(frame.duration for frame in shown))
    declared = Fraction(container.duration or 0, 1_000_000)
    if stream.frames == 0 and len(container.streams) == 1 and declared - end > max(steps):
        yield (
            f"the frames end at {float(end):.2f} s of the {float(declared):.2f} s that the file declares: "
            f"{CUT_OFF}"
        )


def _of_pixels(frame: Any) -> Iterator[str]:
    layout = frame.format.name
    bits = bits_per_channel(frame)
    quartered = layout.startswith(("yuv420", "yuvj420", "yuva420", "p0"))
    if bits > 8:
        rgb = layout.startswith(("rgb", "bgr", "gbr"))
        but = ", but for its last row" if quartered else ", to within 2 levels" if rgb else ""
        yield f"{bits} bits per channel: read as 8, as decord does{but}"
    elif layout in MOVED_LAYOUTS or (quartered and (frame.width % 2 or frame.height % 2)):
        yield (
            f"{layout} of {frame.width}×{frame.height} pixels: decord places the colours otherwise, which "
            "moves levels at edges"
        )
    if frame.interlaced_frame:
        yield "interlaced: read without separating the fields, as decord does"
    if layout.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya")):
        yield "transparency is dropped, as decord does"
    if transfer := HDR_TRANSFERS.get(int(frame.color_trc)):
        yield f"high dynamic range ({transfer}): values are taken without tone mapping, as decord does"


def _of_display(stream: Any, frame: Any) -> Iterator[str]:
    turn = f"turned by {quarter_turns(frame) * 90} degrees counter-clockwise"
    if is_mirrored(frame):
        did = "left as stored" if quarter_turns(frame) == 0 else turn
        yield f"a mirror picture by its header: {did}, as decord does, and not mirrored back"
    elif quarter_turns(frame):
        yield f"{turn} by its header, as decord does; the official judge's reader leaves it as stored"
    elif abs(frame.rotation) > 1:
        yield "turned by no quarter by its header: left as stored, as decord does"
    ratio = stream.sample_aspect_ratio or Fraction(1)
    if ratio != 1:
        yield (
            f"pixels are not square ({ratio.numerator}:{ratio.denominator}): frames are left as stored, as "
            "decord does"
        )


def picture_streams(container: Any) -> list[Any]:
    """The streams of moving pictures: cover pictures are left out."""
    return [stream for stream in container.streams.video if not int(stream.disposition) & ATTACHED_PICTURE]


def is_mirrored(frame: Any) -> bool:
    """Whether the stored matrix holds a reflection."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
    return bool(a * d - b * c < 0)
