"""Do the metrics here return what the official scripts returned? Videos scored with the released weights, and
every figure held against the official score files of the same videos.

OpenS2V-Nexus ships two demonstration videos and their nine score files (`eval/demo_result` of its
repository); they are third-party files and not part of this project. Nothing here was run with released
weights where it was built, so a report from a machine that has them is the proof, or the lack of it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refbench.bench.dataset import Track
from refbench.bench.errors import UserError
from refbench.bench.files import scratch_folder
from refbench.bench.provenance import package_versions, python_version, source_commit
from refbench.bench.runner.evaluate import evaluate
from refbench.bench.runner.scoring import make_metric, scoring_environment
from refbench.bench.scores.official_files import import_scores
from refbench.bench.scores.record import FAILED, MISSING_WEIGHTS, Provenance, Record

DEMO = "eval/demo_result of the repository PKU-YuanGroup/OpenS2V-Nexus"
JUDGED = "naturalscore"
NOT_ASKED = "not asked"
NEITHER = "neither has one"
JUDGE_IS_DRAWN = "a judge's answer is drawn anew and costs money; --metrics naturalscore asks for it"


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The largest difference of raw scores that counts as equal, and why; all of them are ours."""

    value: float
    why: str


TOLERANCES = {
    "aesthetics": Tolerance(value=0.02, why="float16 on a GPU against float32, on the scale 4 to 7"),
    "motion-smoothness": Tolerance(value=0.02, why="one window of 69 that falls on the other side is 0.0145"),
    "motion-amplitude": Tolerance(value=1e-6, why="no network; equal to the last digit where it was tried"),
    "facesim": Tolerance(value=0.005, why="detector and network through other runtimes"),
    "gmescore": Tolerance(value=0.005, why="bfloat16 or float16; the official figure has steps of 0.0005"),
    "nexusscore": Tolerance(value=0.001, why="the same, on the scale 0 to 0.05"),
    "naturalscore": Tolerance(value=1.0, why="another draw of the judge, on the scale 1 to 5"),
}


@dataclass(frozen=True, kw_only=True)
class ParityFigure:
    """One metric on one video: the official raw score, ours, and how ours was made.

    `official` or `ours` is None where there is no score, with the `reason` of ours.
    """

    metric: str
    sample: str
    official: float | None
    ours: float | None
    reason: str | None
    tolerance: float
    provenance: Provenance | None

    @property
    def difference(self) -> float | None:
        """Ours minus official."""
        return None if self.official is None or self.ours is None else self.ours - self.official

    @property
    def verdict(self) -> str:
        """`equal`, `differs`, `not scored`, `not asked`, `official has none`, or `neither has one`: both
        sides failed, as where no face is found.
        """
        if self.reason is not None and self.reason.startswith(NOT_ASKED):
            return NOT_ASKED
        if self.ours is None:
            both_failed = self.official is None and (self.reason or "").startswith(FAILED)
            return NEITHER if both_failed else "not scored"
        if self.difference is None:
            return "official has none"
        return "equal" if abs(self.difference) <= self.tolerance else "differs"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """All figures; `to_pull` are metrics whose weights are not here, `not_released` says of which metrics the
    weights are no released ones, so that a difference means nothing.
    """

    figures: tuple[ParityFigure, ...]
    to_pull: tuple[str, ...]
    not_released: tuple[str, ...]

    @property
    def compared(self) -> tuple[ParityFigure, ...]:
        """The figures of which both sides are known."""
        return tuple(figure for figure in self.figures if figure.difference is not None)

    @property
    def equal(self) -> bool:
        """Whether every figure that was asked for was scored and is equal."""
        return all(figure.verdict in ("equal", NEITHER, NOT_ASKED) for figure in self.figures)

    def content(self) -> dict[str, Any]:
        """The report, JSON-serialisable: versions, digests and devices, and no path or name of a machine."""
        return {
            "schema_version": 1,
            "equal": sum(figure.verdict == "equal" for figure in self.compared),
            "compared": len(self.compared),
            "figures": [
                {
                    "metric": figure.metric,
                    "sample": figure.sample,
                    "official": figure.official,
                    "ours": figure.ours,
                    "difference": figure.difference,
                    "tolerance": figure.tolerance,
                    "tolerance_because": TOLERANCES[figure.metric].why,
                    "verdict": figure.verdict,
                    "reason": figure.reason,
                    "provenance": None
                    if figure.provenance is None
                    else figure.provenance.model_dump(mode="json", exclude_none=True),
                }
                for figure in self.figures
            ],
            "weights_to_pull": list(self.to_pull),
            "not_released_weights": list(self.not_released),
            "python": python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "commit": source_commit(),
            "packages": package_versions(("torch", "transformers", "numpy", "opencv-python", "av")),
            "tolerances": {name: asdict(tolerance) for name, tolerance in TOLERANCES.items()},
        }


def parity(
    videos: Path,
    scores: Path,
    track: Track,
    *,
    weights: Path | None = None,
    metrics: Iterable[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "auto",
) -> Parity:
    """Score the videos that official score files name, and compare each figure.

    `videos` is a folder of `<sample id>.mp4`, `scores` one of official files; `metrics` are names (None: all
    that have official files; NaturalScore is then not asked). A metric whose weights are missing is a figure
    with that reason. Raises UserError for names that are unknown, and when no video has official scores.
    """
    official = {(one.metric, one.sample): one for one in _official(scores, track)}
    there = sorted({sample for _, sample in official if (videos / f"{sample}.mp4").is_file()})
    if not there:
        raise UserError(
            f"{videos} holds no video <sample id>.mp4 that {scores} has scores of; the demonstration videos "
            f"and files are in {DEMO}"
        )
    known = {metric for metric, _ in official}
    asked = tuple(metrics) if metrics is not None else tuple(name for name in TOLERANCES if name in known)
    given = options or {}
    skipped, chosen, to_pull = {}, [], []
    for name in asked:
        metric = make_metric(name, given.get(name))
        if name not in known:
            raise UserError(f"{scores} has no official scores of {name}")
        environment = scoring_environment([metric], device, weights)
        if metrics is None and name == JUDGED:
            skipped[name] = f"{NOT_ASKED}: {JUDGE_IS_DRAWN}"
        elif (cannot := metric.unavailable(environment)) is not None:
            skipped[name] = f"{MISSING_WEIGHTS}: {cannot}"
            to_pull.append(name)
        else:
            chosen.append(name)
    ours: dict[tuple[str, str], Record] = {}
    if chosen:
        with scratch_folder("parity") as folder:
            done = evaluate(
                videos,
                track=track,
                name="parity",
                metrics=chosen,
                options={name: given[name] for name in chosen if name in given},
                weights=weights,
                device=device,
                samples=there,
                out=Path(folder) / "results",
            )
        ours = {(one.metric, one.sample): one for one in done.records}
    places = [(str(place), word) for place, word in ((weights, "WEIGHTS"), (videos, "VIDEOS")) if place]

    def placeless(reason: str | None) -> str | None:
        # The report is made to be sent: a folder's name is nobody else's business.
        for place, word in places:
            reason = None if reason is None else reason.replace(place, word)
        return reason

    figures = tuple(
        _figure(
            name,
            sample,
            official[name, sample],
            ours.get((name, sample)),
            placeless(skipped.get(name) or getattr(ours.get((name, sample)), "reason", None)),
        )
        for name in asked
        for sample in there
        if (name, sample) in official
    )
    return Parity(
        figures=figures,
        to_pull=tuple(to_pull),
        not_released=tuple(
            dict.fromkeys(
                figure.metric
                for figure in figures
                if figure.provenance is not None and figure.provenance.weights_kind != "real"
            )
        ),
    )


def _official(scores: Path, track: Track) -> list[Record]:
    """The records of official scores, and of those that the official scripts could not make.

    A score that does not apply to a sample is none of either side.
    """
    records = import_scores(scores, "official", track.name, track).records
    return [one for one in records if one.value is not None or one.reason_kind == FAILED]


def _figure(
    metric: str, sample: str, official: Record, ours: Record | None, reason: str | None
) -> ParityFigure:
    return ParityFigure(
        metric=metric,
        sample=sample,
        official=official.value,
        ours=None if ours is None else ours.value,
        reason=reason,
        tolerance=TOLERANCES[metric].value,
        provenance=None if ours is None or ours.value is None else ours.provenance,
    )
