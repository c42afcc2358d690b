"""What voters are given: the page and its media under names that say nothing, in one folder.

Videos are copied packet by packet without their metadata and sound; what browsers do not play is encoded
again. References are copied as small pictures. `refbench vote` serves such a folder, `--export` hands it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from refbench.bench.errors import SampleError, UserError
from refbench.bench.files import write_text
from refbench.bench.video import ALL_FRAMES, Video, write_video
from refbench.reports.votes.ballot import Ballot, BallotVideo
from refbench.reports.votes.page import PagePair, PageReference, render_vote_page
from refbench.reports.votes.sources import Sources

PAGE_FILE = "index.html"
MEDIA_FOLDER = "media"
# What Chromium, Firefox and Safari all play.
PLAYED_CODEC = "h264"
PLAYED_FORMATS = ("yuv420p", "yuvj420p")
# Close to the picture that is there; the file is looked at, and not scored.
CRF = 16
LONGEST_SIDE_PX = 512
MADE_FRAMES = 32
NOISE_BLOCK_PX = 16


@dataclass(frozen=True, kw_only=True)
class Package:
    """A written package: its folder and the files in it, page first."""

    folder: Path
    files: tuple[Path, ...]


def write_package(ballot: Ballot, sources: Sources, folder: Path, *, served: bool) -> Package:
    """Write page and media of a ballot into an empty folder; `served`: the page sends its answers to where it
    came from, else it keeps them and saves a file.

    Raises UserError where a video is missing, another than the ballot's, or cannot be copied.
    """
    media = folder / MEDIA_FOLDER
    media.mkdir(parents=True)
    files = []
    for video in sorted(ballot.videos, key=lambda one: one.id):
        file = media / f"{video.id}.mp4"
        try:
            _write_media(video, sources.file(video), file)
        except SampleError as error:
            raise UserError(f"{sources.file(video)} cannot be shown: {error}") from None
        files.append(file)
    references = _write_references(ballot, sources, media)
    files += sorted(media.glob("*.jpg"))
    samples = {sample.id: sample for sample in sources.track.samples}
    pairs = [
        PagePair(
            id=pair.id,
            prompt=samples[pair.sample].prompt,
            references=references[pair.sample],
            first=pair.first,
            second=pair.second,
        )
        for pair in ballot.pairs
    ]
    page = folder / PAGE_FILE
    write_text(
        page,
        render_vote_page(ballot.digest, ballot.track, pairs, ballot.arrangements, served=served),
    )
    return Package(folder=folder, files=(page, *files))


def _write_references(ballot: Ballot, sources: Sources, media: Path) -> dict[str, tuple[PageReference, ...]]:
    written: dict[str, tuple[PageReference, ...]] = {}
    shown = {pair.sample for pair in ballot.pairs}
    for number, sample in enumerate(one for one in sources.track.samples if one.id in shown):
        entries = []
        for position, reference in enumerate(sample.references):
            name: str | None = f"reference-{number + 1}-{position + 1}.jpg"
            try:
                picture = reference.open_on_white()
            except SampleError:
                name = None
            else:
                picture.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
                picture.save(media / str(name), quality=90)
            entries.append(PageReference(file=name, label=reference.label or reference.kind))
        written[sample.id] = tuple(entries)
    return written


def _write_media(video: BallotVideo, source: Path, file: Path) -> None:
    probe = Video(source).glance
    fps = probe.fps or 8.0
    if video.content != "method":
        count = max(2, min(probe.frames, MADE_FRAMES))
        write_video(file, _made_frames(video, probe.width, probe.height, count), fps)
    elif not _copy_packets(source, file):
        write_video(file, Video(source).frames(ALL_FRAMES), fps, crf=CRF)


def _made_frames(video: BallotVideo, width: int, height: int, count: int) -> Iterator[np.ndarray]:
    """Frames of noise in blocks (fine noise makes large files), or black ones."""
    generator = np.random.default_rng(int(video.id, 16))
    rows, columns = -(-height // NOISE_BLOCK_PX), -(-width // NOISE_BLOCK_PX)
    for _ in range(count):
        if video.content == "black":
            yield np.zeros((height, width, 3), np.uint8)
        else:
            blocks = generator.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
            large = blocks.repeat(NOISE_BLOCK_PX, axis=0).repeat(NOISE_BLOCK_PX, axis=1)
            yield np.ascontiguousarray(large[:height, :width])


def _copy_packets(source: Path, file: Path) -> bool:
    """Copy the video stream alone, without metadata; False where browsers would not play it, or the packets
    do not fit into an mp4.
    """
    import av

    try:
        with source.open("rb") as opened, av.open(opened) as container:
            stream = next(iter(container.streams.video), None)
            context: Any = stream.codec_context if stream is not None else None
            if context is None or context.name != PLAYED_CODEC or context.pix_fmt not in PLAYED_FORMATS:
                return False
            with av.open(str(file), "w", format="mp4", options={"movflags": "+faststart"}) as target:
                copied = target.add_stream_from_template(stream)
                copied.metadata.clear()
                for packet in container.demux(stream):
                    if packet.dts is None:
                        continue
                    packet.stream = copied
                    target.mux(packet)
    except (av.FFmpegError, OSError, ValueError):
        file.unlink(missing_ok=True)
        return False
    return next(islice(Video(file).frames(ALL_FRAMES), 1), None) is not None
