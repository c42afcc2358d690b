"""What travels with a job to a machine that does not share a file system with the driver, and back.

A file is named by where the driver sees it and by its SHA-256. A machine that sees a file of these bytes at
that path reads it there; another is sent the bytes, checks their digest and keeps them for later jobs. A
finished video comes back as bytes with its digest, and the driver writes it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

from refbench.bench.errors import SampleError, UserError, one_line
from refbench.bench.files import leaves_its_folder, partial_path, regular_size, replacing
from refbench.bench.runner.executors import Job, Result
from refbench.bench.runner.generating import GenerationJob, GenerationOutcome
from refbench.bench.runner.scoring import ScoringJob, ScoringOutcome
from refbench.bench.sample import Reference, Sample
from refbench.bench.video import LARGEST_VIDEO_BYTES

# In place of the digest of a file that the driver does not see: a reference image may be missing.
MISSING = "missing"
# Of what was sent, a worker keeps so much.
LARGEST_KEPT_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class SentFile:
    """A file as the driver sees it: its absolute path, and its SHA-256 or MISSING."""

    path: Path
    digest: str


@dataclass(frozen=True, kw_only=True)
class Parcel(Generic[Job]):
    """A job with absolute paths, and the files that it reads."""

    job: Job
    files: tuple[SentFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SentPlugin:
    """A plugin's file with its bytes."""

    path: Path
    content: bytes

    @property
    def digest(self) -> str:
        """The SHA-256 of its bytes."""
        return hashlib.sha256(self.content).hexdigest()


def sent_plugins(files: Iterable[Path]) -> tuple[SentPlugin, ...]:
    """The plugins as they travel. Raises UserError for one that cannot be read."""
    try:
        return tuple(SentPlugin(path=file.absolute(), content=file.read_bytes()) for file in files)
    except OSError as error:
        raise UserError(f"a plugin cannot be read: {one_line(error)}") from None


def placed_plugins(plugins: Iterable[SentPlugin], folder: Path) -> list[Path]:
    """Where the plugins are on this machine: at their own path where it holds the same bytes, else below
    `folder`, where they are written.
    """
    places = []
    for plugin in plugins:
        if digest_of_file(plugin.path) == plugin.digest:
            places.append(plugin.path)
            continue
        place = folder / plugin.digest / plugin.path.name
        if not place.is_file():
            with replacing(place) as partial:
                partial.write_bytes(plugin.content)
        places.append(place)
    return places


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a regular file's bytes, or MISSING where there is none that can be read."""
    try:
        regular_size(path, LARGEST_VIDEO_BYTES)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (UserError, OSError):
        return MISSING


class SeenDigests:
    """Digests of files, each read once while its size and time stay."""

    def __init__(self) -> None:
        self._digests: dict[tuple[Path, int, int], str] = {}

    def of(self, path: Path) -> str:
        """As `digest_of_file`."""
        try:
            status = path.stat()
        except (OSError, ValueError):
            return MISSING
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = digest_of_file(path)
        return self._digests[key]


class NodeFiles:
    """The files of jobs on a worker's machine, of which those that were sent lie below `folder`."""

    def __init__(self, folder: Path, most_bytes: int = LARGEST_KEPT_BYTES) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._seen = SeenDigests()
        # Digest → bytes of what was sent, the latest used last.
        self._kept: OrderedDict[str, int] = OrderedDict()

    @property
    def made_here(self) -> Path:
        """The folder for what jobs make."""
        return self._folder / "made"

    def lacking(self, files: Iterable[SentFile]) -> tuple[str, ...]:
        """The digests of those files that are neither seen at their path nor kept."""
        absent = dict.fromkeys(
            file.digest
            for file in files
            if file.digest != MISSING
            and file.digest not in self._kept
            and self._seen.of(file.path) != file.digest
        )
        return tuple(absent)

    def keep(self, digest: str, content: bytes, needed: Collection[str] = ()) -> None:
        """Keep what was sent, in place of what was used longest ago and is not `needed` now.

        Raises OSError where the bytes are not those of the digest.
        """
        if hashlib.sha256(content).hexdigest() != digest:
            raise OSError(f"a file arrived damaged: its SHA-256 is not {digest[:12]}…")
        for old in list(self._kept):
            if sum(self._kept.values()) + len(content) <= self._most_bytes:
                break
            if old not in needed:
                del self._kept[old]
                shutil.rmtree(self._folder / old, ignore_errors=True)
        with replacing(self._folder / digest / "content") as partial:
            partial.write_bytes(content)
        self._kept[digest] = len(content)

    def root_of(self, file: SentFile, root: Path, name: str) -> Path:
        """The folder below which the file is called `name`: `root` where it is seen there, else one of ours.

        Raises SampleError for a name that leads out of the folder.
        """
        if self._seen.of(file.path) == file.digest:
            return root
        if leaves_its_folder(name):
            raise SampleError(f"the path {one_line(name, 120)!r} leaves the data set's folder")
        if file.digest == MISSING:
            # Another file of its name is here: the driver has none.
            return self._folder / "none"
        self._kept.move_to_end(file.digest)
        place = self._folder / file.digest / "named"
        named = place / name
        if not named.exists():
            named.parent.mkdir(parents=True, exist_ok=True)
            os.link(self._folder / file.digest / "content", named)
        return place


class Shipping(Generic[Job, Result]):
    """How jobs and results of one kind travel; these read no file and make none."""

    def parcel(self, job: Job) -> Parcel[Job]:
        """Driver: the job as it is sent."""
        return Parcel(job=job)

    def placed(self, parcel: Parcel[Job], files: NodeFiles) -> Job:
        """Worker: the job with the paths of this machine; its files are here."""
        return parcel.job

    def packed(self, result: Result) -> tuple[Result, bytes | None]:
        """Worker: a result, and the bytes of the file that it made."""
        return result, None

    def unpacked(self, job: Job, result: Result, content: bytes | None) -> Result:
        """Driver: a result whose file is written where the driver wants it."""
        return result


class ScoringShipping(Shipping[ScoringJob, ScoringOutcome]):
    """A video and its references go; numbers come back."""

    def __init__(self) -> None:
        self._digests = SeenDigests()

    def __reduce__(self) -> tuple[Any, ...]:
        return ScoringShipping, ()

    def parcel(self, job: ScoringJob) -> Parcel[ScoringJob]:
        """See Shipping.parcel."""
        sent = replace(job, video=job.video.absolute(), sample=_absolute(job.sample))
        paths = [sent.video, *(reference.file for reference in sent.sample.references)]
        return Parcel(job=sent, files=_sent(paths, self._digests))

    def placed(self, parcel: Parcel[ScoringJob], files: NodeFiles) -> ScoringJob:
        """See Shipping.placed."""
        job, sent = parcel.job, {file.path: file for file in parcel.files}
        name = job.video.name
        video = files.root_of(sent[job.video], job.video.parent, name) / name
        return replace(job, video=video, sample=_placed_sample(job.sample, sent, files))


class GenerationShipping(Shipping[GenerationJob, GenerationOutcome]):
    """References go; a video comes back as bytes."""

    def __init__(self) -> None:
        self._digests = SeenDigests()

    def __reduce__(self) -> tuple[Any, ...]:
        return GenerationShipping, ()

    def parcel(self, job: GenerationJob) -> Parcel[GenerationJob]:
        """See Shipping.parcel."""
        sent = replace(job, sample=_absolute(job.sample))
        paths = [reference.file for reference in sent.sample.references]
        return Parcel(job=sent, files=_sent(paths, self._digests))

    def placed(self, parcel: Parcel[GenerationJob], files: NodeFiles) -> GenerationJob:
        """See Shipping.placed."""
        job, sent = parcel.job, {file.path: file for file in parcel.files}
        video = files.made_here / job.video.name
        return replace(job, video=video, sample=_placed_sample(job.sample, sent, files))

    def packed(self, result: GenerationOutcome) -> tuple[GenerationOutcome, bytes | None]:
        """See Shipping.packed."""
        if result.partial is None:
            return result, None
        content = result.partial.read_bytes()
        result.partial.unlink()
        return result, content

    def unpacked(
        self, job: GenerationJob, result: GenerationOutcome, content: bytes | None
    ) -> GenerationOutcome:
        """See Shipping.unpacked. Raises UserError where the video cannot be written."""
        if content is None:
            return result
        partial = partial_path(job.video)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UserError(f"{job.video} cannot be written: {one_line(error)}") from None
        return replace(result, partial=partial)


def _absolute(sample: Sample) -> Sample:
    references = tuple(replace(one, root=one.root.absolute()) for one in sample.references)
    return replace(sample, references=references)


def _sent(paths: Iterable[Path], digests: SeenDigests) -> tuple[SentFile, ...]:
    return tuple(SentFile(path=path, digest=digests.of(path)) for path in dict.fromkeys(paths))


def _placed_sample(sample: Sample, sent: Mapping[Path, SentFile], files: NodeFiles) -> Sample:
    def placed(reference: Reference) -> Reference:
        root = files.root_of(sent[reference.file], reference.root, reference.path)
        return replace(reference, root=root)

    return replace(sample, references=tuple(map(placed, sample.references)))
