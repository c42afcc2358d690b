"""Writing the viewer's site: from stores and runs to a folder that opens from disk or any web server."""

from __future__ import annotations

import os
import pkgutil
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.errors import UserError
from refbench.bench.scores.protocol import get_protocol
from refbench.bench.scores.store import Store
from refbench.reports.files import write_files
from refbench.reports.report import build_report
from refbench.reports.shown_videos import existing_runs, known_tracks
from refbench.reports.stored_runs import read_stored_runs
from refbench.reports.viewer.data import Media, script_text, site_data
from refbench.reports.viewer.media import LinkedMedia
from refbench.reports.viewer.names import make_names
from refbench.reports.viewer.previews import MEDIA_FOLDER, MEGABYTE, Estimate, Previews
from refbench.reports.viewer.shown import ShownTrack, shown_tracks

PAGE = "index.html"
DATA_FILE = "data.js"
DETAILS_FOLDER = "details"
DETAILS_FILE = re.compile(r"[0-9]+-[0-9]+\.js")
LOOK = "look.css"
# In the order in which the page loads the scripts.
SITE_FILES = (
    PAGE,
    "viewer.css",
    "icon.svg",
    "page.js",
    "state.js",
    "player.js",
    "radar.js",
    "overview.js",
    "samples.js",
    "found.js",
    "sample.js",
    "pair.js",
    "main.js",
)
DEFAULT_PREVIEW_PX = 320
DEFAULT_LIMIT_MB = 1000.0


@dataclass(frozen=True, kw_only=True)
class Site:
    """A written site: its page, every file that it opens (its own, videos, pictures), and what it shows.

    `left_out` are files of the stores that could not be read; `videos` counts those that are shown,
    `missing` rows without one.
    """

    page: Path
    files: tuple[Path, ...]
    tracks: tuple[ShownTrack, ...]
    left_out: tuple[str, ...]
    videos: int
    missing: int
    estimate: Estimate | None


def _silent(done: int, total: int) -> None:
    """Say nothing."""


def view(
    stores: Store | Iterable[Store],
    *,
    runs: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "view",
    protocol: str | None = None,
    dataset: Path | str | None = None,
    suite: Path | str | None = None,
    bundle: bool = False,
    anonymous: bool = False,
    preview_size_px: int = DEFAULT_PREVIEW_PX,
    limit_mb: float = DEFAULT_LIMIT_MB,
    on_estimate: Callable[[Estimate], None] | None = None,
    on_preview: Callable[[int, int], None] = _silent,
) -> Site:
    """Write the site of score stores below `out`.

    `runs` is the folder that `generate` and `run` write; without it the site has no videos. With `bundle`
    small previews are copied into the site, and `on_estimate` hears before what they will take; else videos
    are linked where they lie. With `anonymous` methods have letters.

    Raises UserError when a store does not exist or holds no record, `runs`, `dataset` or `suite` do not
    exist or fit no record, no run of `runs` has a score, a bundle is larger than `limit_mb`, an anonymous
    site would link videos by names, or `out` cannot be written.
    """
    if protocol is not None:
        get_protocol(protocol)
    if bundle and runs is None:
        raise UserError("--bundle copies videos: say with --runs DIR where they are")
    if anonymous and runs is not None and not bundle:
        raise UserError("--anonymous needs --bundle: links to run folders would show the methods' names")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder with --out")
    stored = read_stored_runs(stores)
    made = build_report(stored, protocol)
    run_root = existing_runs(Path(runs)) if runs is not None else None
    tracks = shown_tracks(
        made, run_root, known_tracks([one.track for one in made.tracks], dataset, suite), anonymous=anonymous
    )
    videos = [
        video.file
        for track in tracks
        for method in track.methods
        for video in method.videos
        if video.file is not None
    ]
    if run_root is not None and not videos:
        raise UserError(f"{run_root} has no video of any scored run: {_why_none(tracks)}")
    infos = stored.run_infos.values()
    names = make_names(
        [method.run for track in tracks for method in track.methods],
        anonymous=anonymous,
        also=[name for info in infos for name in (info.method, info.card.name if info.card else "")],
    )
    media: Media = LinkedMedia(folder=folder)
    estimate = None
    if bundle:
        references = [
            reference for track in tracks for sample in track.samples for reference in sample.references
        ]
        previews = Previews(
            folder=folder,
            size_px=preview_size_px,
            limit_bytes=round(limit_mb * MEGABYTE),
            videos=videos,
            references=references,
        )
        estimate = previews.estimate
        if on_estimate is not None:
            on_estimate(estimate)
        previews.make(on_preview)
        media = previews
    data = site_data(tracks, names, media, made.left_out)
    contents: dict[str, str | bytes] = {name: _site_file(name) for name in SITE_FILES}
    contents[LOOK] = _package_file("refbench.reports", f"templates/{LOOK}")
    contents[DATA_FILE] = script_text("refbenchData", data.main)
    contents |= {
        f"{DETAILS_FOLDER}/{key}.js": script_text("refbenchDetails", key, rows)
        for key, rows in data.details.items()
    }
    _remove_former(folder / DETAILS_FOLDER)
    written = write_files(folder, contents)
    rows = [track["rows"] for track in data.main["tracks"]]
    links = {link for row in rows for column in ("video", "poster") for link in row[column] if link}
    shown = sum(1 for row in rows for link in row["video"] if link)
    return Site(
        page=written[0],
        files=(*written, *_linked(folder, bundle, links, videos, tracks)),
        tracks=tuple(tracks),
        left_out=made.left_out,
        videos=shown,
        missing=sum(len(row["video"]) for row in rows) - shown,
        estimate=estimate,
    )


def _linked(
    folder: Path, bundle: bool, links: Iterable[str], videos: Iterable[Path], tracks: Iterable[ShownTrack]
) -> list[Path]:
    """The files outside of the site, or its previews, that it opens."""
    if bundle:
        media = folder / MEDIA_FOLDER
        return sorted(media.iterdir()) if media.is_dir() else []
    references = {
        reference.file for track in tracks for sample in track.samples for reference in sample.references
    }
    return [*dict.fromkeys(videos), *sorted(file for file in references if file.is_file())]


def _why_none(tracks: Iterable[ShownTrack]) -> str:
    remarks = [text for track in tracks for method in track.methods for text in method.remarks]
    return remarks[0].removeprefix("no videos: ") if remarks else "no record has a video there"


def _remove_former(details: Path) -> None:
    """Details of an earlier site in the same folder, which could name what this one hides."""
    with suppress(OSError):
        for file in details.iterdir():
            if DETAILS_FILE.fullmatch(file.name):
                file.unlink()


def _site_file(name: str) -> bytes:
    return _package_file("refbench.reports.viewer", f"site/{name}")


def _package_file(package: str, name: str) -> bytes:
    # Through the package's own loader: an installed package need not lie in a folder.
    content = pkgutil.get_data(package, name)
    assert content is not None, "every loader of Python source can read data"
    return content
