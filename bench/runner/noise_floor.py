"""Measure a noise floor: a sample of videos, copies of them that are altered in one way, and their scores.

In the work folder the originals and their copies stand as the seeds of one run (0 the original, a number for
each copy), so that one evaluation scores all of them with every metric loaded once, and goes on where it was
stopped. Copies are removed once they are scored; their scores stay, so that another source costs only itself.
"""

from __future__ import annotations

import hashlib
import math
import platform
import random
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from refbench.bench.console import count_text, inform
from refbench.bench.dataset import Track
from refbench.bench.devices import auto_devices, is_gpu
from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError, one_line
from refbench.bench.files import replacing, write_text
from refbench.bench.metric import Metric
from refbench.bench.provenance import digest_of, package_versions, python_version, source_commit
from refbench.bench.runner.altered_videos import (
    DEVICE,
    JUDGE,
    SEEDS,
    Alteration,
    Sources,
)
from refbench.bench.runner.evaluate import Evaluation, PreparedEvaluation
from refbench.bench.runner.plan import METRIC_SETS, abilities
from refbench.bench.runner.progress import Progress
from refbench.bench.runner.scoring import make_metric, need_torch
from refbench.bench.runs.folder import ERROR_SUFFIX, scan_videos
from refbench.bench.runs.video_names import is_video, videos_below
from refbench.bench.sample import Sample
from refbench.bench.scores.aggregate import group_records
from refbench.bench.scores.noise_floor import (
    TOTAL,
    Cause,
    FloorCell,
    NoiseFloor,
    ScoredBy,
    directed_cells,
    exchangeable_cells,
    judge_repetitions,
    unmeasured,
)
from refbench.bench.scores.protocol import Protocol, protocol_of
from refbench.bench.scores.record import MISSING_WEIGHTS, PLAIN, Record
from refbench.bench.scores.results import latest_records, only_run
from refbench.bench.scores.store import Store, read_latest, store_path
from refbench.bench.video import Probe, Video

DEFAULT_SAMPLES = 24
ORIGINAL = 0
NAME = "noise-floor"
MEASURED_PACKAGES = ("av", "opencv-python", "numpy", "torch", "transformers", "onnxruntime")
NEEDS_VIDEOS = "it takes the videos: give their folder"
PAID = "not asked: its judge's answers cost money; name it in --metrics"
SEED_LABEL = "another seed"
JUDGE_LABEL = "asking the judge again"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured, on which videos, and where the work lies.

    `samples` is how many are drawn by `sample_seed`; `scores` a store with several seeds of the same samples
    (None: those of the folder, if it has several); the rest is as for an `Evaluation`.
    """

    videos: Path
    track: Track
    sources: Sources
    work: Path
    protocol: str | None = None
    name: str | None = None
    pattern: str | None = None
    samples: int = DEFAULT_SAMPLES
    sample_seed: int = 0
    scores: Store | None = None
    metrics: str | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    workers: int = 1
    devices: str = "auto"
    weights: Path | None = None
    plugins: tuple[Path, ...] = ()


def is_store(path: Path) -> bool:
    """Whether a path is a score store rather than a folder of videos."""
    if path.suffix == ".jsonl":
        return True
    if not path.is_dir() or any(is_video(file) for file in path.iterdir()):
        return False
    return any(path.rglob("*.jsonl")) and not any(videos_below(path))


def floor_of_store(
    store: Store,
    sources: Sources,
    *,
    protocol: str | None = None,
    track: str | None = None,
    variant: str | None = None,
) -> NoiseFloor:
    """What the records of a store tell without any video: other seeds, and the judge's single answers.

    Raises UserError where the store holds several runs of that track and variant, or none.
    """
    groups = group_records(latest_records(store))
    run = only_run(groups, str(store), track=track, variant=variant)
    records = groups[run]
    chosen = protocol_of(run.track, protocol)
    causes = [
        *(
            Cause(
                name=one.name,
                family=one.family,
                label=one.label,
                cells=unmeasured(chosen, run.track, NEEDS_VIDEOS),
            )
            for one in sources.alterations
        ),
        *([_unmeasured_cause(DEVICE, chosen, run.track, NEEDS_VIDEOS)] if DEVICE in sources.families else []),
        *_cause_of_judge(sources, records, chosen),
        *_cause_of_seeds(sources, records, chosen, _scored_by(records)),
    ]
    return NoiseFloor(
        protocol=chosen.name,
        track=run.track,
        method=run.method,
        variant=run.variant,
        samples=sorted({record.sample for record in records}),
        metrics=_scored_by(records),
        causes=causes,
        **_software(),
    )


class PreparedMeasurement:
    """A measurement whose inputs are read and checked: it can be forecast, and carried out."""

    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement
        self.folder = scan_videos(measurement.videos, measurement.track, measurement.pattern)
        self.protocol = protocol_of(measurement.track.name, measurement.protocol)
        if not self.folder.videos:
            raise UserError(f"{measurement.videos} holds no video of {measurement.track.name}")
        self.seed = min(seed for _, seed in self.folder.videos)
        self.samples = self._drawn()
        self.skipped: dict[str, str] = {}
        self.metrics = self._metrics()
        self.seeded = self._seeded()
        self.work = measurement.work / self._key()[:16]

    @property
    def method(self) -> str:
        """Whose videos they are."""
        info = self.folder.info
        return self.measurement.name or (info.method if info else self.measurement.videos.resolve().name)

    @property
    def variant(self) -> str:
        """Which variant of it."""
        return self.folder.info.variant if self.folder.info is not None else PLAIN

    @property
    def sources(self) -> Sources:
        """What is measured."""
        return self.measurement.sources

    @cached_property
    def other_seeds(self) -> tuple[int, ...]:
        """The folder's further seeds that are scored."""
        if SEEDS not in self.sources.families or self.measurement.scores is not None:
            return ()
        return tuple(seed for seed in self.folder.seeds if seed != self.seed)

    @property
    def copies(self) -> int:
        """Videos that are scored beside each original."""
        return len(self.sources.alterations) + len(self.other_seeds)

    @cached_property
    def copies_bytes(self) -> int:
        """About what the copies take on disk."""
        if (shown := self._shown) is None:
            return 0
        size = sum(
            one.size_bytes(shown.frames, shown.width, shown.height) for one in self.sources.alterations
        )
        return math.ceil(size * len(self.samples))

    @cached_property
    def _shown(self) -> Probe | None:
        """What the first video that can be opened says of itself."""
        for sample in self.samples:
            with suppress(SampleError):
                return Video(self.folder.videos[sample.id, self.seed]).glance
        return None

    def forecast(self) -> list[str]:
        """What is going to be done, before it is: videos, scores, space, and what the judge will be asked."""
        videos = len(self.samples) * (1 + self.copies)
        held = sum(len(one) for one in self._held.values())
        of_all = len({sample for sample, _ in self.folder.videos})
        copies = "1 copy" if self.copies == 1 else f"{self.copies} copies"
        lines = [
            f"{count_text(len(self.samples), 'sample')} of {of_all} (drawn by seed "
            f"{self.measurement.sample_seed}), {copies} of each: {count_text(videos, 'video')} × "
            f"{count_text(len(self.metrics), 'metric')}, {videos / of_all:.1f} times the videos of an "
            f"evaluation; {held} scores are there already",
            f"copies take about {max(self.copies_bytes / 1e6, 1):,.0f} MB in {self.work}, and go when they "
            "are scored",
        ]
        lines += [text for metric in self.metrics if (text := metric.forecast(videos))]
        return [*lines, *(f"{name} is not measured: {why}" for name, why in self.skipped.items())]

    def run(self) -> NoiseFloor:
        """Score what is not scored yet, and put the floor together. Interrupted, the same call goes on."""
        originals = self._scored_originals()
        self._write_copies()
        if any(folder != self._folder_of(ORIGINAL) for folder in self._videos.glob("seed-*")):
            self._evaluate(self._videos, self.work / "results")
        held = self._held
        self._see_alike(record for records in held.values() for record in records)
        causes = [
            Cause(
                name=one.name,
                family=one.family,
                label=one.label,
                cells=self._said(directed_cells(originals, held.get(_number(one.name), []), self.protocol)),
            )
            for one in self.sources.alterations
        ]
        causes += self._cause_of_device(originals)
        causes += _cause_of_judge(self.sources, originals, self.protocol)
        causes += self._cause_of_seeds(originals, held)
        shutil.rmtree(self._videos, ignore_errors=True)
        shown = self._shown
        return NoiseFloor(
            protocol=self.protocol.name,
            track=self.measurement.track.name,
            method=self.method,
            variant=self.variant,
            samples=[sample.id for sample in self.samples],
            sample_seed=self.measurement.sample_seed,
            videos=digest_of(self._digests),
            frames=None if shown is None else f"{shown.width}×{shown.height}, {shown.frames} frames",
            metrics=_scored_by(originals),
            causes=causes,
            **_software(),
        )

    def _seeded(self) -> list[Record]:
        """The records of the store that was named for its seeds; none without one. Raises UserError."""
        store = self.measurement.scores
        if store is None or SEEDS not in self.sources.families:
            return []
        groups = group_records(latest_records(store))
        same = {key: records for key, records in groups.items() if key.variant == self.variant}
        return groups[only_run(same or groups, str(store), track=self.measurement.track.name, variant=None)]

    def _drawn(self) -> list[Sample]:
        """Samples with a video, from each category in turn, by chance within it; in the track's order."""
        by_category: dict[str, list[Sample]] = {}
        for sample in self.measurement.track.samples:
            if (sample.id, self.seed) in self.folder.videos:
                by_category.setdefault(sample.category, []).append(sample)
        chance = random.Random(self.measurement.sample_seed)
        for waiting in by_category.values():
            chance.shuffle(waiting)
        drawn: set[str] = set()
        while any(by_category.values()) and len(drawn) < self.measurement.samples:
            for waiting in by_category.values():
                if waiting and len(drawn) < self.measurement.samples:
                    drawn.add(waiting.pop().id)
        return [sample for sample in self.measurement.track.samples if sample.id in drawn]

    def _metrics(self) -> list[Metric]:
        """The metrics of the protocol's components that can run; `skipped` says why others cannot.

        Raises UserError for one that was asked for by name and cannot, and for one that fills no component.
        """
        columns = self.protocol.weighted_columns(self.measurement.track.domain)
        of_protocol = [column.component.metric for column in columns]
        asked = self.measurement.metrics
        named = None if asked is None or asked.strip() in METRIC_SETS else _names(asked)
        for name in named or ():
            if name not in of_protocol:
                raise UserError(
                    f"{one_line(name, 60)} fills no component of {self.protocol.name} on "
                    f"{self.measurement.track.name}: {', '.join(of_protocol)}"
                )
        options = self.measurement.options
        idle = set(options) - set(named or of_protocol)
        if idle:
            raise UserError(f"options are given for {', '.join(sorted(idle))}, which is not measured")
        chosen = []
        for name in of_protocol:
            if named is not None and name not in named:
                self.skipped[name] = "not among --metrics"
                continue
            metric = make_metric(name, options.get(name))
            cannot = metric.unavailable(Environment(weights=self.measurement.weights))
            if cannot is not None and named is not None:
                raise UserError(f"{name} was asked for and cannot run: {cannot}")
            if cannot is not None:
                self.skipped[name] = f"{MISSING_WEIGHTS}: {cannot}"
            elif named is None and metric.forecast(1) is not None:
                self.skipped[name] = PAID
            else:
                chosen.append(metric)
        if not chosen:
            raise UserError(
                "no metric can run here: " + "; ".join(f"{name}: {why}" for name, why in self.skipped.items())
            )
        return chosen

    @cached_property
    def _digests(self) -> dict[str, str]:
        digests = {}
        for sample in self.samples:
            for seed in (self.seed, *self.other_seeds):
                path = self.folder.videos.get((sample.id, seed))
                try:
                    digests[f"{sample.id} {seed}"] = "" if path is None else Video(path).digest
                except SampleError as error:
                    raise UserError(f"{sample.id}: {error}") from None
        return digests

    def _key(self) -> str:
        """What makes two measurements one and the same work: videos, samples, metrics, and what copies."""
        environment = Environment(weights=self.measurement.weights)
        able = abilities(self.metrics, environment)
        return digest_of(
            {
                "track": self.measurement.track.name,
                "videos": {
                    one: digest for one, digest in self._digests.items() if one.endswith(f" {self.seed}")
                },
                "samples": {
                    one.id: [one.digest(("prompt", "references")), one.references_digest()]
                    for one in self.samples
                },
                "metrics": {
                    one.declaration.name: [
                        one.declaration.version,
                        digest_of(one.settings()),
                        able[one.declaration.name].kind,
                    ]
                    for one in self.metrics
                },
                "packages": package_versions(("av", "opencv-python")),
            }
        )

    @property
    def _videos(self) -> Path:
        return self.work / "videos"

    def _folder_of(self, number: int) -> Path:
        return self._videos / f"seed-{number}"

    @property
    def _held(self) -> dict[int, list[Record]]:
        """The scores that are there, by the number of the copy."""
        held: dict[int, list[Record]] = {}
        store = store_path(self.work / "results", NAME, self.measurement.track.name)
        ids = {sample.id for sample in self.samples}
        for record in read_latest([store]).values() if store.is_file() else ():
            if record.sample in ids:
                held.setdefault(record.seed, []).append(record)
        return held

    def _is_complete(self, number: int) -> bool:
        """Whether every sample of a copy has its record by every metric."""
        there = {(one.sample, one.metric) for one in self._held.get(number, [])}
        return all(
            (sample.id, metric.declaration.name) in there
            for sample in self.samples
            for metric in self.metrics
        )

    def _scored_originals(self) -> list[Record]:
        """The records of the originals, which are scored first: how long that takes forecasts the rest."""
        if not self._is_complete(ORIGINAL):
            self._copy_files(ORIGINAL, self.seed)
            began = time.monotonic()
            inform(f"scoring {count_text(len(self.samples), 'original')}")
            self._evaluate(self._folder_of(ORIGINAL), self.work / "results")
            seconds = time.monotonic() - began
            inform(
                f"the originals took {seconds:,.0f} s: their {self.copies} × {len(self.samples)} copies "
                f"should take at most about {self.copies * seconds / 60:,.0f} min, and the time to write them"
            )
        return self._held[ORIGINAL]

    def _copy_files(self, number: int, seed: int) -> None:
        """The folder's own videos of a seed, as copies with this number."""
        for sample in self.samples:
            source = self.folder.videos.get((sample.id, seed))
            if source is None:
                continue
            target = self._folder_of(number) / f"{sample.id}{source.suffix or '.mp4'}"
            if not target.exists():
                with replacing(target) as partial:
                    shutil.copyfile(source, partial)

    def _write_copies(self) -> None:
        """Write the copies that are not scored yet, one file at a time, whole or not at all."""
        wanted = [one for one in self.sources.alterations if not self._is_complete(_number(one.name))]
        seeds = [seed for seed in self.other_seeds if not self._is_complete(_number(f"seed {seed}"))]
        numbers = {ORIGINAL, *(_number(one.name) for one in wanted)}
        numbers |= {_number(f"seed {seed}") for seed in seeds}
        for folder in self._videos.glob("seed-*"):
            # Of sources that an earlier, stopped call had and this one does not.
            if folder.name not in {f"seed-{number}" for number in numbers}:
                shutil.rmtree(folder)
        if not wanted and not seeds:
            return
        self._check_space()
        for seed in seeds:
            self._copy_files(_number(f"seed {seed}"), seed)
        with Progress("copies", total=len(wanted) * len(self.samples)) as progress:
            for one in wanted:
                for sample in self.samples:
                    self._write_copy(one, sample)
                    progress.step(f"{one.name} {sample.id}")

    def _write_copy(self, one: Alteration, sample: Sample) -> None:
        target = self._folder_of(_number(one.name)) / f"{sample.id}.mp4"
        if target.exists():
            return
        try:
            with replacing(target) as partial:
                one.write(Video(self.folder.videos[sample.id, self.seed]), partial)
        except SampleError as error:
            # As `generate` leaves it: the reason of the sample's records.
            write_text(target.with_name(f"{sample.id}{ERROR_SUFFIX}"), f"{one_line(error)}\n")

    def _check_space(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.work).free
        if self.copies_bytes > free:
            raise UserError(
                f"the copies take about {self.copies_bytes / 1e9:.1f} GB and {self.work} has "
                f"{free / 1e9:.1f} GB left: fewer --samples, fewer --sources, or another --work"
            )

    def _evaluate(self, videos: Path, out: Path, devices: str | None = None) -> list[Record]:
        """Score a folder of originals or copies into the work store."""
        measurement = self.measurement
        names = [metric.declaration.name for metric in self.metrics]
        return (
            PreparedEvaluation(
                Evaluation(
                    videos=videos,
                    track=measurement.track,
                    name=NAME,
                    metrics=",".join(names),
                    options={
                        name: measurement.options[name] for name in names if name in measurement.options
                    },
                    samples=tuple(sample.id for sample in self.samples),
                    workers=measurement.workers,
                    devices=measurement.devices if devices is None else devices,
                    weights=measurement.weights,
                    plugins=measurement.plugins,
                    out=out,
                )
            )
            .run()
            .records
        )

    def _see_alike(self, records: Iterable[Record]) -> None:
        """Raise UserError where the weights changed between two calls of this measurement."""
        first: dict[str, Record] = {}
        for record in records:
            if record.value is None:
                continue
            other = first.setdefault(record.metric, record)
            said = ScoredBy.of(other.provenance).difference(record.provenance)
            if said is not None:
                raise UserError(
                    f"{record.metric} was scored in two ways ({said}) below {self.work}: remove that folder"
                )

    def _said(self, cells: dict[str, FloorCell]) -> dict[str, FloorCell]:
        """The cells with the reason of a metric that was not run in place of "nothing was scored"."""
        by_component = {
            column.component.name: self.skipped[column.component.metric]
            for column in self.protocol.columns
            if column.component.metric in self.skipped
        }
        return {
            name: FloorCell(reason=by_component[name]) if name in by_component else cell
            for name, cell in cells.items()
        }

    def _cause_of_device(self, originals: Sequence[Record]) -> list[Cause]:
        """The originals scored once more, on the processor where a GPU scored them or the other way round."""
        if DEVICE not in self.sources.families:
            return []
        track = self.measurement.track.name
        if not need_torch(self.metrics, self.measurement.weights):
            return [_unmeasured_cause(DEVICE, self.protocol, track, "none of the metrics runs on a GPU")]
        used = {one.provenance.device for one in originals if one.value is not None} - {None, "cpu"}
        gpu = next((str(one) for one in used if is_gpu(str(one))), None)
        there = auto_devices()[0]
        if gpu is None and not is_gpu(there):
            why = "no GPU that torch can use: everything was scored on the CPU"
            return [_unmeasured_cause(DEVICE, self.protocol, track, why)]
        other = "cpu" if gpu is not None else there
        self._copy_files(ORIGINAL, self.seed)
        records = self._evaluate(
            self._folder_of(ORIGINAL), self.work / f"on-{'gpu' if is_gpu(other) else 'cpu'}", other
        )
        label = f"scoring on {other} instead of {gpu or 'cpu'}"
        return [
            Cause(
                name=f"{DEVICE}:{other}",
                family=DEVICE,
                label=label,
                note=_dtypes(originals, records),
                cells=self._said(directed_cells(originals, records, self.protocol)),
            )
        ]

    def _cause_of_seeds(self, originals: Sequence[Record], held: Mapping[int, list[Record]]) -> list[Cause]:
        if SEEDS not in self.sources.families:
            return []
        if self.seeded:
            return _cause_of_seeds(self.sources, self.seeded, self.protocol, _scored_by(originals))
        others = [held.get(_number(f"seed {seed}"), []) for seed in self.other_seeds]
        if not any(others):
            why = "the folder has one seed, and no --scores STORE was given that has several"
            return [_unmeasured_cause(SEEDS, self.protocol, self.measurement.track.name, why)]
        repetitions = [originals, *(one for one in others if one)]
        return [
            Cause(
                name=SEEDS,
                family=SEEDS,
                label=SEED_LABEL,
                note=f"seeds {', '.join(map(str, (self.seed, *self.other_seeds)))}",
                cells=self._said(exchangeable_cells(repetitions, self.protocol)),
            )
        ]


def _number(name: str) -> int:
    """The seed as which the copies of this name stand in the work folder: always the same, never 0."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) + 1


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _software() -> dict[str, Any]:
    return {
        "python": python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": source_commit(),
        "packages": package_versions(MEASURED_PACKAGES),
    }


def _scored_by(records: Sequence[Record]) -> dict[str, ScoredBy]:
    return {record.metric: ScoredBy.of(record.provenance) for record in records if record.value is not None}


def _dtypes(a: Sequence[Record], b: Sequence[Record]) -> str:
    """`gmescore float16 and float32`: metrics whose precision differs with the device."""
    mine, theirs = _scored_by(a), _scored_by(b)
    return "; ".join(
        f"{name} {mine[name].dtype} and {theirs[name].dtype}"
        for name in mine
        if name in theirs and mine[name].dtype != theirs[name].dtype
    )


def _unmeasured_cause(family: str, protocol: Protocol, track: str, reason: str) -> Cause:
    labels = {DEVICE: "scoring on another device", JUDGE: JUDGE_LABEL, SEEDS: SEED_LABEL}
    return Cause(name=family, family=family, label=labels[family], cells=unmeasured(protocol, track, reason))


def _cause_of_judge(sources: Sources, records: Sequence[Record], protocol: Protocol) -> list[Cause]:
    """How far another draw of the judge's answers moves NaturalScore, from the answers in the records."""
    if JUDGE not in sources.families:
        return []
    track = records[0].track
    repetitions, why = judge_repetitions(records)
    if why is not None:
        return [_unmeasured_cause(JUDGE, protocol, track, why)]
    cells = exchangeable_cells(repetitions, protocol, averaged=len(repetitions))
    kept = {
        name: cell if name in ("naturalscore", TOTAL) else FloorCell(reason="it asks no judge")
        for name, cell in cells.items()
    }
    note = f"each score is the mean of {len(repetitions)} answers"
    return [Cause(name=JUDGE, family=JUDGE, label=JUDGE_LABEL, note=note, cells=kept)]


def _cause_of_seeds(
    sources: Sources,
    records: Sequence[Record],
    protocol: Protocol,
    scored_by: Mapping[str, ScoredBy],
) -> list[Cause]:
    """How far another seed moves the components, from a run with several seeds of the same samples.

    Scores that were not made as `scored_by` says are left out.
    """
    if SEEDS not in sources.families:
        return []
    by_seed: dict[int, list[Record]] = {}
    unlike: dict[str, str] = {}
    for record in records:
        mine = scored_by.get(record.metric)
        said = mine.difference(record.provenance) if mine is not None and record.value is not None else None
        if said is not None:
            unlike[record.metric] = said
        else:
            by_seed.setdefault(record.seed, []).append(record)
    track = records[0].track
    if len(by_seed) < 2:
        why = f"the store has one seed of {records[0].method}"
        return [_unmeasured_cause(SEEDS, protocol, track, why)]
    cells = exchangeable_cells(list(by_seed.values()), protocol)
    for column in protocol.columns:
        if (said := unlike.get(column.component.metric)) is not None and column.component.name in cells:
            cells[column.component.name] = FloorCell(reason=f"scored otherwise in the store: {said}")
    note = f"seeds {', '.join(map(str, sorted(by_seed)))} of {records[0].run.label}"
    return [Cause(name=SEEDS, family=SEEDS, label=SEED_LABEL, note=note, cells=cells)]
