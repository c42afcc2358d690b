"""Videos and pictures of the site where they lie: links relative to its folder, nothing is copied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refbench.bench.sample import Reference
from refbench.reports.shown_videos import relative_link
from refbench.reports.viewer.data import Link


@dataclass(frozen=True, kw_only=True)
class LinkedMedia:
    """Files linked from a page in `folder`."""

    folder: Path

    def video(self, file: Path) -> Link:
        """A link to the file itself."""
        return Link(video=relative_link(file, self.folder))

    def picture(self, reference: Reference) -> str:
        """A link to the picture itself, empty where it is missing."""
        return relative_link(reference.file, self.folder) if reference.file.is_file() else ""
