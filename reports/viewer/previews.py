"""Small copies of videos and references, so that one folder holds the whole site and can be published.

A preview is the video with all its frames at its own rate, at most `size_px` on its longer side, in H.264;
its poster is the middle frame. Files are named after the digest of what they show and of the settings: the
same video is made once, an interrupted bundle goes on where it stopped, and no name tells who made a video.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from refbench.bench.console import count_text
from refbench.bench.errors import SampleError, UserError, one_line
from refbench.bench.files import replacing
from refbench.bench.sample import Reference
from refbench.bench.video import ALL_FRAMES, Video, write_video
from refbench.reports.viewer.data import Link

if TYPE_CHECKING:
    from PIL import Image

MEDIA_FOLDER = "media"
PREVIEW_CRF = 28
JPEG_QUALITY = 82
# So many videos, spread over all, are made first; the size of the rest follows from theirs.
PROBES = 6
MEGABYTE = 1_000_000
# Raised when the recipe of previews changes: older files are then made again.
RECIPE = "1"
OWN_FILE = re.compile(r"[0-9a-f]{32}\.(mp4|jpg)")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a bundle will take, from a few previews made in full: videos, pictures, and bytes of both."""

    videos: int
    pictures: int
    size_bytes: int

    @property
    def sentence(self) -> str:
        """`about 12 MB: previews of 48 videos, 20 pictures`."""
        return (
            f"about {self.size_bytes / MEGABYTE:.3g} MB: previews of {count_text(self.videos, 'video')}, "
            f"{count_text(self.pictures, 'picture')}"
        )


@dataclass
class Previews:
    """The bundle of a site in `folder`. `limit_bytes` bounds what previews may take."""

    folder: Path
    size_px: int
    limit_bytes: int
    videos: Sequence[Path]
    references: Sequence[Reference]
    _links: dict[Path, Link] = field(default_factory=dict)
    _pictures: dict[Path, str] = field(default_factory=dict)

    @cached_property
    def estimate(self) -> Estimate:
        """What all will take. Raises UserError where that is more than the limit."""
        videos = list(dict.fromkeys(self.videos))
        pictures = list({reference.file: reference for reference in self.references}.values())
        with TemporaryDirectory() as scratch:
            trial = Previews(
                folder=Path(scratch), size_px=self.size_px, limit_bytes=0, videos=(), references=()
            )
            size = _mean_size(videos, trial._make_video, Path(scratch)) * len(videos)
        with TemporaryDirectory() as scratch:
            trial = Previews(
                folder=Path(scratch), size_px=self.size_px, limit_bytes=0, videos=(), references=()
            )
            size += _mean_size(pictures, trial._make_picture, Path(scratch)) * len(pictures)
        made = Estimate(videos=len(videos), pictures=len(pictures), size_bytes=round(size))
        if made.size_bytes > self.limit_bytes:
            raise UserError(
                f"the bundle would take {made.sentence}, more than the limit of "
                f"{self.limit_bytes / MEGABYTE:g} MB: raise --bundle-limit, or lower --preview-size"
            )
        return made

    def make(self, on_part: Callable[[int, int], None]) -> None:
        """Make all previews and pictures, and remove former ones that this site does not show.

        A video that cannot be decoded is said in its place. Raises UserError once the limit is passed.
        """
        taken = 0
        videos = list(dict.fromkeys(self.videos))
        for done, file in enumerate(videos, 1):
            self._links[file] = self._make_video(file)
            taken += self._size_of(self._links[file].video) + self._size_of(self._links[file].poster)
            self._check(taken)
            on_part(done, len(videos))
        for reference in self.references:
            if reference.file not in self._pictures:
                self._pictures[reference.file] = self._make_picture(reference)
                taken += self._size_of(self._pictures[reference.file])
                self._check(taken)
        shown = {Path(link).name for link in self._all_links()}
        media = self.folder / MEDIA_FOLDER
        for file in list(media.iterdir()) if media.is_dir() else ():
            if OWN_FILE.fullmatch(file.name) and file.name not in shown:
                file.unlink()

    def video(self, file: Path) -> Link:
        """The preview of a video, after `make`."""
        return self._links[file]

    def picture(self, reference: Reference) -> str:
        """The small copy of a reference, empty where it cannot be read, after `make`."""
        return self._pictures[reference.file]

    def _all_links(self) -> Iterator[str]:
        for link in self._links.values():
            yield from (link.video, link.poster)
        yield from self._pictures.values()

    def _size_of(self, link: str) -> int:
        return (self.folder / link).stat().st_size if link else 0

    def _check(self, taken_bytes: int) -> None:
        if taken_bytes > self.limit_bytes:
            raise UserError(
                f"the bundle has reached the limit of {self.limit_bytes / MEGABYTE:g} MB: "
                "raise --bundle-limit, or lower --preview-size"
            )

    def _make_video(self, file: Path) -> Link:
        """Write the preview and the poster of a video where they are not there yet."""
        video = Video(file)
        try:
            name = self._name(video.digest)
            preview, poster = self._path(f"{name}.mp4"), self._path(f"{name}.jpg")
            fps = video.glance.fps or 24.0
            if not (preview.is_file() and poster.is_file()):
                self._encode(video, fps, preview, poster)
        except SampleError as error:
            return Link(missing=one_line(error))
        folder = MEDIA_FOLDER
        return Link(video=f"{folder}/{preview.name}", poster=f"{folder}/{poster.name}", fps=fps)

    def _encode(self, video: Video, fps: float, preview: Path, poster: Path) -> None:
        from PIL import Image

        middle = video.glance.frames // 2
        shown: list[Image.Image] = []

        def small() -> Iterator[np.ndarray]:
            for index, frame in enumerate(video.frames(ALL_FRAMES)):
                image = fitted(Image.fromarray(frame), self.size_px)
                # The header may promise more frames than there are.
                if index <= middle:
                    shown[:] = [image]
                yield np.asarray(image)

        with replacing(preview) as partial:
            write_video(partial, small(), fps, crf=PREVIEW_CRF)
        with replacing(poster) as partial:
            shown[0].save(partial, format="JPEG", quality=JPEG_QUALITY)

    def _make_picture(self, reference: Reference) -> str:
        try:
            image = fitted(reference.open_on_white(), self.size_px)
        except SampleError:
            return ""
        # By its pixels: a file's bytes may hold its maker's name or place.
        path = self._path(f"{self._name(hashlib.sha256(image.tobytes()).hexdigest())}.jpg")
        if not path.is_file():
            with replacing(path) as partial:
                image.save(partial, format="JPEG", quality=JPEG_QUALITY)
        return f"{MEDIA_FOLDER}/{path.name}"

    def _name(self, digest: str) -> str:
        recipe = f"{RECIPE} {self.size_px} {digest}"
        return hashlib.sha256(recipe.encode()).hexdigest()[:32]

    def _path(self, name: str) -> Path:
        path = self.folder / MEDIA_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def fitted(image: Image.Image, size_px: int) -> Image.Image:
    """An RGB image scaled down so that its longer side has at most `size_px`, to even sides; never up."""
    scale = size_px / max(image.size)
    if scale >= 1:
        return image
    # H.264's colours have half the pixels in both directions.
    width, height = (max(2, 2 * round(side * scale / 2)) for side in image.size)
    return image.resize((width, height))


def _mean_size(all_of_them: Sequence[T], make: Callable[[T], object], folder: Path) -> float:
    """Mean bytes that `make` writes below a folder for one of these, from a few spread over all."""
    chosen = all_of_them[:: max(1, len(all_of_them) // PROBES)][:PROBES]
    for one in chosen:
        make(one)
    written = sum(_sizes(folder.rglob("*")))
    return written / len(chosen) if chosen else 0.0


def _sizes(paths: Iterable[Path]) -> Iterator[int]:
    return (path.stat().st_size for path in paths if path.is_file())
