"""videos: a folder of finished mp4 files, made by any program or service.

For closed models, for other people's results, and for code that cannot run beside this project. The files are
taken byte for byte, so that the scores are those of the videos themselves. Nothing is expected of the scores:
they are those of the model that made the videos.

Layout: `<folder>/<sample id>.mp4` is seed 0; where `<folder>/seed-<n>/` exists, it alone holds seed n. The
flat layout is that of the videos OpenS2V-Nexus publishes and evaluates (`eval/` of v1.1, commit 210eb08).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError
from refbench.bench.method import Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.sample import Sample


@dataclass(frozen=True, kw_only=True)
class VideosOptions:
    """Options of `videos`."""

    folder: Path
    """Folder of the mp4 files; a leading `~` is the home folder."""


@methods.register
class Videos(Method):
    """Takes finished videos; generates nothing."""

    name = "videos"
    summary = "a folder of finished videos: <id>.mp4, or seed-<n>/<id>.mp4"
    Options = VideosOptions

    def card(self) -> MethodCard:
        """The method card: how the videos were made is not known here."""
        return MethodCard(name=self.name, summary=self.summary, options=self.option_values())

    def load(self, environment: Environment) -> Generator:
        """Check the folder; UserError when it is not there."""
        folder: Path = self.options.folder.expanduser()
        if not folder.is_dir():
            raise UserError(f"the folder of videos {folder} does not exist; give --set folder=DIR")
        return VideosGenerator(folder=folder)


@dataclass(frozen=True, kw_only=True)
class VideosGenerator(Generator):
    """Finds the finished videos in their folder."""

    folder: Path

    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Path:
        """The path of the sample's mp4; SampleError when the folder has none for this seed."""
        seed_folder = self.folder / f"seed-{seed}"
        if seed_folder.is_dir():
            path = seed_folder / f"{sample.id}.mp4"
        elif seed == 0:
            path = self.folder / f"{sample.id}.mp4"
        else:
            raise SampleError(
                f"{self.folder} has no folder seed-{seed}; files directly in it are seed 0 only"
            )
        if not path.is_file():
            raise SampleError(f"{path.parent} has no {path.name}")
        return path
