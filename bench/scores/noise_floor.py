"""Noise floors: how far something that nobody means moves the components, so that a smaller gap says nothing.

A *cause* is a decoder, an encoder, a size, a device, another answer of the judge, another seed. For each
component of a protocol, on the scale 0..1, from the same samples with and without the cause:

    shift d = mean(with) - mean(without), each the protocol's own mean over the common samples
    s       = standard error of d over the N samples (paired bootstrap)
    floor(n) = |d| + t(N - 1) · s · sqrt(1 + N / n)

the end of the 95 % prediction interval of the shift between two means over n samples: what is left of the gap
between two methods when the cause acts on one of them alone. Of an *exchangeable* cause (a seed, a judge's
answer), which acts on both sides and has no direction, d is 0 by construction and

    floor(n) = t(N - 1) · s · sqrt(N / n),    s from all pairs of repetitions,

divided by the square root of how many repetitions each side averages. A floor therefore belongs to a mean
over n samples: what a single video may do stands beside it (`OneVideo`) and is many times more.

Floors stand beside official figures and change none of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from refbench.bench.dataset import domain_of
from refbench.bench.errors import UserError, first_fault
from refbench.bench.files import read_json, write_json
from refbench.bench.scores.aggregate import SampleScores, sample_scores
from refbench.bench.scores.bootstrap import Interval
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.comparison import (
    DETECTABLE_STANDARD_ERRORS,
    Difference,
    compare_records,
)
from refbench.bench.scores.protocol import Protocol
from refbench.bench.scores.record import Name, Provenance, Record

FLOOR_FILE = "noise-floor.json"
TOTAL = "total"
# With fewer, the spread is a guess.
FEWEST_SAMPLES = 5
# Of a digest in a message.
SHOWN_DIGITS = 12
JUDGED_METRIC = COMPONENTS["naturalscore"].metric
STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def component_label(name: str) -> str:
    """`FaceSim` for `facesim`, `TotalScore` for `total`."""
    return "TotalScore" if name == TOTAL else COMPONENTS[name].label


class OneVideo(BaseModel):
    """What a cause does to single videos: median, 95th percentile and largest of the absolute differences."""

    model_config = STRICT

    median: float
    p95: float
    largest: float
    videos: int


class FloorCell(BaseModel):
    """One cause and one component, on the scale 0..1: figures, or the `reason` why there are none.

    `n` samples entered. `standard_error` is that of the shift over them; of an exchangeable cause `shift` and
    `interval` are None.
    """

    model_config = STRICT

    n: int = Field(default=0, ge=0)
    shift: float | None = None
    interval: Interval | None = None
    standard_error: float | None = Field(default=None, ge=0)
    one_video: OneVideo | None = None
    reason: str | None = None

    @model_validator(mode="after")
    def _figures_or_reason(self) -> FloorCell:
        if (self.standard_error is None) == (self.reason is None):
            raise ValueError("a cell holds a standard error or a reason, and not both")
        if self.reason is None and self.n < FEWEST_SAMPLES:
            raise ValueError(f"a floor needs {FEWEST_SAMPLES} samples")
        return self

    def floor(self, n: int, repetitions: float = 1) -> float | None:
        """The floor of a gap between two means over `n` samples; None without figures.

        `repetitions` are the seeds (or judge's answers) that each mean averages; they count where the cause
        is exchangeable.
        """
        if self.standard_error is None or n < 1:
            return None
        # The bootstrap's spread is that of a population: n - 1 for a sample.
        error = self.standard_error * math.sqrt(self.n / (self.n - 1)) * student_t(self.n - 1)
        if self.shift is None:
            return error * math.sqrt(self.n / n / repetitions)
        return abs(self.shift) + error * math.sqrt(1 + self.n / n)


class Cause(BaseModel):
    """A cause of noise with its cells by component; `label` completes "smaller than … moves this component".

    Causes of one `family` are listed from the mildest to the strongest. `note` says what else was different.
    """

    model_config = STRICT

    name: str
    family: str
    label: str
    note: str = ""
    cells: dict[str, FloorCell]

    @property
    def is_measured(self) -> bool:
        """Whether any component has a figure."""
        return any(cell.reason is None for cell in self.cells.values())


class ScoredBy(BaseModel):
    """How a metric scored: what must be equal where the floor is to be applied, then where it ran."""

    model_config = STRICT

    version: str
    settings: str | None = None
    weights: dict[str, str] = Field(default_factory=dict)
    dtype: str | None = None
    device: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, made_from: Provenance) -> ScoredBy:
        """From a record's provenance."""
        return cls(
            version=made_from.metric_version,
            settings=made_from.settings,
            weights=made_from.weights,
            dtype=made_from.dtype,
            device=made_from.device,
            packages=made_from.packages,
        )

    def difference(self, made_from: Provenance) -> str | None:
        """What of another scoring is not equal (`version 3 against 4`); None where all is."""
        other = ScoredBy.of(made_from)
        for name in ("version", "settings", "dtype"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} {_short(mine)} against {_short(theirs)}"
        return None if self.weights == other.weights else "other weights"


class NoiseFloor(BaseModel):
    """The content of a noise floor's file; no path and no name of a machine is in it.

    `method`, `variant` and `samples` say what it was measured on, `videos` is the digest of their files.
    `metrics` are those whose scores were measured.
    """

    model_config = STRICT

    schema_version: Literal[1] = 1
    kind: Literal["refbench noise floor"] = "refbench noise floor"
    protocol: str
    track: Name
    method: Name
    variant: Name
    samples: list[str]
    sample_seed: int | None = None
    videos: str | None = None
    frames: str | None = None
    metrics: dict[str, ScoredBy]
    causes: list[Cause]
    python: str
    system: str
    commit: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)

    @property
    def measured_on(self) -> str:
        """`24 samples of refalign-mini`."""
        return f"{len(self.samples)} samples of {self.method}"

    @property
    def is_measured(self) -> bool:
        """Whether any cause has a figure."""
        return any(cause.is_measured for cause in self.causes)

    def families(self) -> dict[str, list[Cause]]:
        """The causes by family, the mildest first."""
        found: dict[str, list[Cause]] = {}
        for cause in self.causes:
            found.setdefault(cause.family, []).append(cause)
        return found

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        write_json(path, self.model_dump(mode="json", exclude_defaults=False))

    def unlike(self, component: str, records: Iterable[Record], protocol: Protocol) -> str | None:
        """Why the floor of a component does not belong to these records: the metric scored otherwise.

        None where it does. For the total every weighted component must have been scored alike.
        """
        columns = protocol.weighted_columns(domain_of(self.track))
        wanted = {
            column.component.metric: column.component.label
            for column in columns
            if component in (TOTAL, column.component.name)
        }
        unlike: dict[str, str] = {}
        for record in records:
            if record.metric not in wanted or record.value is None or record.metric in unlike:
                continue
            mine = self.metrics.get(record.metric)
            said = "not measured" if mine is None else mine.difference(record.provenance)
            if said is not None:
                unlike[record.metric] = said
        return "; ".join(f"{metric} {said}" for metric, said in sorted(unlike.items())) or None


def _short(text: str | None) -> str:
    return "none" if text is None else text[:SHOWN_DIGITS]


def read_noise_floor(path: Path) -> NoiseFloor:
    """The noise floor of a file. Raises UserError for anything else."""
    try:
        return NoiseFloor.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path} is no noise floor: {first_fault(error)}") from None


def student_t(degrees_of_freedom: int) -> float:
    """The 0.975 quantile of Student's t, to 0.3 % from 4 degrees of freedom on (Abramowitz and Stegun
    26.7.5).
    """
    z = 1.959964
    terms: tuple[float, ...] = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum((term / degrees_of_freedom**power for power, term in enumerate(terms, start=1)), 0.0)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Two scorings of the same samples: each component's difference, and that of single videos."""

    differences: Mapping[str, Difference]
    one_video_SC: Mapping[str, np.ndarray]


def directed_cells(
    without: Sequence[Record], altered: Sequence[Record], protocol: Protocol
) -> dict[str, FloorCell]:
    """The cells of a cause that acts on one side: the records with it minus those without."""
    pair = _pair(altered, without, protocol)
    if pair is None:
        return _all_cells(protocol, without, "no sample has a score with and without it")
    cells = {}
    for name, difference in pair.differences.items():
        reason = _no_figure(difference, pair)
        cells[name] = (
            FloorCell(n=difference.n, reason=reason)
            if reason is not None
            else FloorCell(
                n=difference.n,
                shift=difference.difference,
                interval=difference.interval,
                standard_error=_standard_error(difference),
                one_video=_one_video([pair.one_video_SC[name]]) if name in pair.one_video_SC else None,
            )
        )
    return cells


def exchangeable_cells(
    repetitions: Sequence[Sequence[Record]], protocol: Protocol, averaged: int = 1
) -> dict[str, FloorCell]:
    """The cells of a cause without direction, from two or more repetitions of the same samples.

    `averaged` is how many of them a score of the protocol is the mean of.
    """
    pairs = [
        pair
        for one, other in combinations(repetitions, 2)
        if (pair := _pair(one, other, protocol)) is not None
    ]
    if not pairs:
        return _all_cells(protocol, repetitions[0], "no sample has a score in two repetitions")
    cells = {}
    for name in pairs[0].differences:
        differences = [pair.differences[name] for pair in pairs]
        reason = next(
            (said for pair in pairs if (said := _no_figure(pair.differences[name], pair)) is not None), None
        )
        n = min(difference.n for difference in differences)
        if reason is not None:
            cells[name] = FloorCell(n=n, reason=reason)
            continue
        # Each pair's standard error is of its own n; the spread of one sample is what they share.
        variance = np.mean([one.n * _standard_error(one) ** 2 for one in differences])
        videos = [pair.one_video_SC[name] for pair in pairs if name in pair.one_video_SC]
        cells[name] = FloorCell(
            n=n,
            standard_error=float(math.sqrt(variance / n / averaged)),
            one_video=_one_video(videos) if videos and averaged == 1 else None,
        )
    return cells


def judge_repetitions(records: Sequence[Record]) -> tuple[list[list[Record]], str | None]:
    """The judge's single answers as repetitions: all records, with one answer in place of each mean.

    Only samples with all answers count. The second result says why there are fewer than two repetitions.
    """
    judged = [one for one in records if one.metric == JUDGED_METRIC and one.value is not None]
    if not judged:
        return [], "no judge's answers in the records"
    if any(one.judge_kind == "local" for one in judged):
        return [], "a local judge decodes greedily: one answer is computed and stands for all"
    answers = {one.key: _answers(one) for one in judged}
    count = max(map(len, answers.values()))
    if count < 2:
        return [], "the records hold one answer of the judge for each video"
    complete = {key for key, held in answers.items() if len(held) == count}
    others = [one for one in records if one.metric != JUDGED_METRIC]
    return [
        [
            *others,
            *(
                one.model_copy(update={"value": answers[one.key][index]})
                for one in judged
                if one.key in complete
            ),
        ]
        for index in range(count)
    ], None


def unmeasured(protocol: Protocol, track: str, reason: str) -> dict[str, FloorCell]:
    """Cells of all components and the total that say why a cause was not measured."""
    names = [column.component.name for column in protocol.weighted_columns(domain_of(track))]
    return {name: FloorCell(reason=reason) for name in (*names, TOTAL)}


def _all_cells(protocol: Protocol, records: Sequence[Record], reason: str) -> dict[str, FloorCell]:
    return unmeasured(protocol, records[0].track, reason)


def _answers(record: Record) -> list[float]:
    """The judge's answers in order of the runs; what is no number is left out."""
    runs = record.details.get("runs")
    if not isinstance(runs, Mapping):
        return []
    found = []
    for _, text in sorted(runs.items()):
        try:
            found.append(float(text))
        except (TypeError, ValueError):
            continue
    return found


def _pair(a: Sequence[Record], b: Sequence[Record], protocol: Protocol) -> _Pair | None:
    """A minus B; None where they have no scored sample in common."""
    if not a or not b:
        return None
    try:
        compared = compare_records(list(a), list(b), protocol, ("with it", "without it"))
    except UserError:
        return None
    columns = protocol.weighted_columns(domain_of(a[0].track))
    tables = [_by_sample(sample_scores(records, columns)) for records in (a, b)]
    common = sorted(tables[0].keys() & tables[1].keys())
    raw_SC = np.array([tables[0][sample] - tables[1][sample] for sample in common])
    one_video = {
        column.component.name: raw_SC[:, index] / (column.best - column.worst)
        for index, column in enumerate(columns)
    }
    return _Pair(
        differences={
            **{one.name: one for one in compared.components},
            TOTAL: compared.total,
        },
        one_video_SC=one_video,
    )


def _by_sample(scores: SampleScores) -> dict[str, np.ndarray]:
    return {sample: scores.official_SC[row] for row, sample in enumerate(scores.samples)}


def _no_figure(difference: Difference, pair: _Pair) -> str | None:
    """Why a difference gives no floor, or None."""
    if difference.difference is None:
        lacking = [component_label(name) for name, one in pair.differences.items() if one.difference is None]
        if difference.name != TOTAL:
            return "nothing was scored"
        return f"no TotalScore without {', '.join(name for name in lacking if name != 'TotalScore')}"
    if difference.n < FEWEST_SAMPLES:
        return f"{difference.n} samples are too few"
    if difference.detectable is None:
        return f"too few of {difference.n} samples have a value for an interval"
    return None


def _standard_error(difference: Difference) -> float:
    assert difference.detectable is not None, "a difference without one has a reason"
    return difference.detectable / DETECTABLE_STANDARD_ERRORS


def _one_video(differences: Sequence[np.ndarray]) -> OneVideo | None:
    sizes = np.abs(np.concatenate(differences))
    sizes = sizes[np.isfinite(sizes)]
    if len(sizes) == 0:
        return None
    return OneVideo(
        median=float(np.median(sizes)),
        p95=float(np.quantile(sizes, 0.95)),
        largest=float(sizes.max()),
        videos=len(sizes),
    )
